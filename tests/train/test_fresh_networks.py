"""The compared networks: same shape or same size, and weights that are really fresh."""

import copy
import functools

import pytest
import torch
from torch import Tensor, nn

import ramify
from ramify.store.model import recipe_of, reshape
from ramify.train.fresh_networks import nearest_widths, scratch, wide

X = torch.zeros(1, 1, 8, 8)


class Net(nn.Module):
    """Two convolutions, and a bare parameter that no reset_parameters knows of."""

    def __init__(self, first: int = 4, second: int = 6) -> None:
        super().__init__()
        self.one = nn.Conv2d(1, first, 3, padding=1)
        self.norm = nn.BatchNorm2d(first)
        self.two = nn.Conv2d(first, second, 3, padding=1)
        self.gain = nn.Parameter(torch.full((second, 1, 1), 0.5))
        self.head = nn.Linear(second, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.two(self.norm(self.one(x)).relu()).relu() * self.gain
        return self.head(y.mean((2, 3)))


def trained(first: int, second: int) -> Net:
    net = Net(first, second)
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            tensor.fill_(3)
    return net


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@functools.cache
def uniform_sizes() -> list[int]:
    """The sizes of both layers widened by one factor, from a quarter to ten."""
    shapes = {(round(4 * f / 100), round(6 * f / 100)) for f in range(25, 1000)}
    return [size(Net(*shape)) for shape in shapes]


def test_scratch_has_the_shape_and_none_of_the_weights() -> None:
    grown = trained(9, 7)
    fresh = scratch(Net, recipe_of(grown))
    shapes = {name: tensor.shape for name, tensor in fresh.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in grown.state_dict().items()}
    assert fresh.one.out_channels == 9
    assert torch.equal(fresh.norm.weight, torch.ones(9))
    assert torch.equal(fresh.norm.running_var, torch.ones(9))
    assert torch.equal(fresh.gain, torch.full((7, 1, 1), 0.5))
    assert fresh(X).shape == (1, 3)


def test_fresh_channels_all_differ_and_are_scaled_to_their_inputs() -> None:
    fresh = scratch(Net, recipe_of(Net(64, 64)))
    rows = fresh.two.weight.detach().flatten(1)
    assert torch.pdist(rows).min() > 0
    bound = 1 / (64 * 9) ** 0.5  # of the default uniform draw for 64 input channels
    assert 0.9 * bound < float(rows.abs().max()) <= bound


def test_fresh_weights_hang_on_the_seed_alone() -> None:
    recipe = recipe_of(Net(9, 7))
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(scratch(Net, recipe).two.weight)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_a_bare_parameter_draws_from_what_its_builder_gave() -> None:
    class Bare(nn.Module):
        def __init__(self, width: int = 3) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.arange(float(width)))

    assert torch.equal(scratch(Bare, recipe_of(Bare(3))).table, torch.arange(3.0))
    drawn = scratch(Bare, recipe_of(Bare(200))).table.detach()
    assert set(drawn.tolist()) == {0.0, 1.0, 2.0}
    assert len(set(map(tuple, drawn.view(50, 4).tolist()))) > 4  # not the three repeated in turn


def test_a_model_may_draw_its_own_weights_last() -> None:
    class Own(nn.Sequential):
        def reset_parameters(self) -> None:
            nn.init.constant_(self[0].weight, 0.25)

    fresh = scratch(lambda: Own(nn.Linear(2, 3)), recipe_of(Own(nn.Linear(2, 5))))
    assert torch.equal(fresh[0].weight, torch.full((5, 2), 0.25))


@pytest.mark.parametrize("params", [0, 60, 150, 300, 339, 500, 1000, 2345, 5000])
def test_wide_comes_as_near_as_one_factor_can(params: int) -> None:
    net = wide(Net, X, params)
    first, second = net.one.out_channels, net.two.out_channels
    assert size(net) == size(Net(first, second))
    if params == 0:
        assert (first, second) == (1, 1)
        return
    assert abs(first / 4 - second / 6) <= 1 / 4  # one channel of the narrower layer
    gap = abs(size(net) - params)
    assert gap <= min(abs(other - params) for other in uniform_sizes())
    assert net(X).shape == (1, 3)


def test_widening_alone_keeps_the_function() -> None:
    """Zero offsets: had the weights not been drawn anew, the outputs would be the seed's."""
    net = Net().eval()
    graph = ramify.trace(net, X)
    assert nearest_widths(graph, size(net)) == [g.width for g in graph.groups if g.can_split]
    before = copy.deepcopy(net)
    other = wide(lambda: net, X, 2000)
    assert size(other) > size(before)
    assert not torch.allclose(other.one.weight[:4], before.one.weight)
    reshape(other, recipe_of(before))
    assert size(other) == size(before)


def test_a_layer_of_one_channel_widens_too() -> None:
    net = wide(lambda: Net(1, 2), X, 100)
    assert net.one.out_channels > 1
