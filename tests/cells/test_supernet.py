"""Supernets: what they put out is what each operation alone gives, and what the network gives."""

from __future__ import annotations

import copy
import random

import pytest
import torch

import ramify
from ramify.cells import DARTS, NATS, Genotype, Supernet, inherit, one_hot
from tests.cells.spaces import ODD, drawn, lived, plain

SPACES = {
    "darts": lambda **more: DARTS.supernet(channels=4, cells=4, classes=5, **more),
    "nats": lambda **more: NATS.supernet(channels=4, cells=1, classes=5, **more),
    "odd": lambda **more: ODD.supernet(channels=4, cells=1, classes=5, **more),
}


@pytest.fixture(params=SPACES)
def supernet(request) -> Supernet:
    torch.set_default_dtype(torch.float64)
    return lived(SPACES[request.param](), torch.randn(4, 3, 12, 12))


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_side_by_side_is_evaluation_one_by_one(supernet, training):
    x = torch.randn(4, 3, 12, 12)
    mixing = {k: torch.rand_like(v).requires_grad_() for k, v in supernet.mixing().items()}
    supernet.train(training)
    other = copy.deepcopy(supernet)
    values = list(mixing.values())
    expected = plain(other, x, mixing)
    found = supernet(x, mixing)
    assert (found - expected).abs().max() < 1e-12
    wanted = torch.autograd.grad(expected.sin().sum(), values)
    for a, b in zip(torch.autograd.grad(found.sin().sum(), values), wanted, strict=True):
        assert (a - b).abs().max() < 1e-11 * b.abs().max()


@pytest.mark.parametrize("training", [True, False])
def test_one_hot_mixing_is_the_derived_network(supernet, training):
    generator = random.Random(0)
    supernet.train(training)
    for genotype in [supernet.space.derive(supernet), *(drawn(supernet.space, generator),) * 2]:
        x = torch.randn(4, 3, 12, 12)
        network = inherit(supernet, genotype)
        expected = network(x)
        found = supernet(x, one_hot(supernet.space, genotype))
        assert expected.abs().max() > 1e-6
        assert (found - expected).abs().max() < 1e-12


@pytest.mark.parametrize("pixels", [16, 12])
def test_gradients_of_weights_are_those_of_the_derived_network(pixels):
    torch.set_default_dtype(torch.float64)
    x = torch.randn(4, 3, pixels, pixels)
    supernet = lived(SPACES["darts"](), x)
    cell = """[('sep_conv_3x3', 0), ('sep_conv_5x5', 1), ('dil_conv_5x5', 1), ('dil_conv_3x3', 0),
        ('skip_connect', 0), ('sep_conv_5x5', 2), ('dil_conv_5x5', 3), ('dil_conv_3x3', 2)]"""
    genotype = Genotype.parse(
        f"Genotype(normal={cell}, normal_concat=range(2, 6), reduce={cell}, "
        "reduce_concat=range(2, 6))"
    )
    network = inherit(supernet, genotype)
    weights = list(network.parameters())
    wanted = torch.autograd.grad(network(x).sin().sum(), weights)
    for weight, gradient in zip(weights, wanted, strict=True):
        weight.data = gradient
    weights = [p for n, p in supernet.named_parameters() if not n.startswith("alpha_")]
    loss = supernet(x, one_hot(DARTS, genotype)).sin().sum()
    found = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
    for weight, gradient in zip(weights, found, strict=True):
        weight.data = gradient  # so that inherit finds, for each weight, its gradient
    gradients = inherit(supernet, genotype).parameters()
    for mine, theirs in zip(gradients, network.parameters(), strict=True):
        assert (mine - theirs).abs().max() < 1e-10 * (1 + theirs.abs().max())


def test_statistics_of_norms_are_those_of_each_edge():
    torch.set_default_dtype(torch.float64)
    supernet = NATS.supernet(channels=3, cells=1)
    network = inherit(supernet, NATS.derive(supernet))
    genotype = network.genotype
    x = torch.randn(4, 3, 8, 8)
    for net in (supernet, network):
        net.train()
    supernet(x, one_hot(NATS, genotype))
    network(x)
    fresh = inherit(supernet, genotype)
    for (name, mine), theirs in zip(
        network.state_dict().items(), fresh.state_dict().values(), strict=True
    ):
        assert torch.allclose(mine, theirs, atol=1e-12, rtol=0), name


def test_operations_of_weight_zero_take_no_work():
    supernet = NATS.supernet(channels=4, cells=1)
    called = []
    for name, module in supernet.named_modules():
        module.register_forward_hook(lambda *_, name=name: called.append(name))
    genotype = Genotype.parse("|none~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|none~1|none~2|")
    supernet(torch.randn(2, 3, 8, 8), one_hot(NATS, genotype))
    assert any("mixtures.1.wide.nor_conv_1x1" in name for name in called)
    assert not any(
        "3x3" in name or "mixtures.0.wide" in name or "pool_3x3" in name for name in called
    )


def test_alphas_are_parameters_of_the_state():
    supernet = DARTS.supernet(channels=2, cells=3)
    assert [tuple(alpha.shape) for alpha in supernet.arch_parameters()] == [(14, 8), (14, 8)]
    state = supernet.state_dict()
    assert {"alpha_normal", "alpha_reduce"} <= set(state)
    other = DARTS.supernet(channels=2, cells=3)
    other.load_state_dict(state)
    x = torch.randn(2, 3, 8, 8)
    supernet.eval(), other.eval()
    assert torch.equal(supernet(x), other(x))
    rows = [weights.sum(1) for weights in supernet.mixing().values()]
    assert all(torch.allclose(row, torch.ones(14)) for row in rows)


def test_sigmoid_mixing():
    supernet = SPACES["nats"](mixing="sigmoid")
    alpha = supernet.arch_parameters()[0]
    assert torch.equal(supernet.mixing()["cell"], torch.sigmoid(alpha))
    with pytest.raises(ramify.RamifyError, match="give one of softmax, sigmoid"):
        NATS.supernet(channels=4, cells=1, mixing="argmax")


def test_a_search_step_reaches_every_parameter(supernet):
    supernet(torch.randn(4, 3, 12, 12)).sin().sum().backward()
    missing = [name for name, p in supernet.named_parameters() if p.grad is None]
    assert missing == []


def test_partial_channels():
    supernet = DARTS.supernet(channels=8, cells=3, partial=4)
    whole = DARTS.supernet(channels=8, cells=3)
    counts = [sum(p.numel() for p in net.parameters()) for net in (supernet, whole)]
    assert counts[0] < counts[1] / 2
    assert supernet(torch.randn(2, 3, 15, 15)).shape == (2, 10)
    mixture = supernet.layers[1].mixtures[0].eval()  # of a reduction cell: stride 2, 16 channels
    x = torch.randn(2, 16, 6, 6)
    mixing = supernet.mixing()["reduce"]
    used = [[True] * 8] * 14
    inner = mixture._mixed(x[:, :4], mixing, used)
    rest = torch.nn.functional.max_pool2d(x[:, 4:], 2)
    for found, y in zip(mixture(x, mixing, used), inner, strict=True):
        parts = [y, rest[:, :4], rest[:, 4:8], rest[:, 8:]]
        for channel in range(16):
            assert torch.equal(found[:, channel], parts[channel % 4][:, channel // 4])
    with pytest.raises(ramify.RamifyError, match="6 channels are not a multiple of partial=4"):
        DARTS.supernet(channels=6, cells=3, partial=4)
    with pytest.raises(ramify.RamifyError, match="partial is 0"):
        DARTS.supernet(channels=6, cells=3, partial=0)
    with pytest.raises(ramify.RamifyError, match="too few channels for a network"):
        inherit(supernet, DARTS.derive(supernet))


@pytest.mark.parametrize("name", ["nats", "odd"])
def test_second_derivatives_for_the_second_order_of_darts(name):
    """d/dα of ⟨v, grad_w L⟩ by double backward, and by central differences in α."""
    torch.set_default_dtype(torch.float64)
    x = torch.randn(4, 3, 8, 8)
    supernet = lived(SPACES[name](), x).eval()
    [alpha] = supernet.arch_parameters()
    weights = [p for n, p in supernet.named_parameters() if not n.startswith("alpha_")]
    directions = [torch.randn_like(weight) for weight in weights]
    step = torch.randn_like(alpha)

    def slope(create_graph: bool) -> torch.Tensor:
        loss = supernet(x).sin().sum()
        found = torch.autograd.grad(loss, weights, create_graph=create_graph)
        return sum((g * v).sum() for g, v in zip(found, directions, strict=True))

    exact = (torch.autograd.grad(slope(True), alpha)[0] * step).sum()
    values = []
    for sign in (1e-5, -2e-5):
        with torch.no_grad():
            alpha += sign * step
        values.append(slope(False))
    assert abs((values[0] - values[1]) / 2e-5 - exact) < 1e-5 * (1 + abs(exact))
