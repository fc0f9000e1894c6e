"""Gauss-Newton morphisms: equation (1) by plain loops, and what proposals claim."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, IterableDataset

import ramify
from ramify.methods.gauss_newton import Morphisms
from ramify.tracing.indexing import kernels
from tests.checks import snapshot
from tests.nets import SMOOTH, per_sample, prepared

Batch = tuple[Tensor, Tensor]


@pytest.mark.parametrize("name", SMOOTH)
def test_gain_of_small_morphisms_is_the_change_of_the_really_edited_network(name: str) -> None:
    """As v shrinks, −ΔL of equation (1) and the true decrease agree ever better."""
    net, batch = prepared(name)
    graph = ramify.trace(net, batch[0][:2])
    trial = ramify.Trial(graph, per_sample, [batch])
    off = []
    for start in (1e-1, 1e-2):
        settings = ramify.GaussNewton(morphisms=("split",), start=start, lr=1e-12)
        found = settings.propose(graph, per_sample, [batch])
        true = [trial.decrease([p.edit]) for p in found]
        wrong = [abs(p.gain - t) for p, t in zip(found, true, strict=True)]
        off.append(max(wrong) / max(map(abs, true)))
    assert off[0] < 0.2
    assert off[1] < 0.02 * off[0]  # the error is of fourth order in v, the change of second


@pytest.mark.parametrize("sure", [False, True])
@pytest.mark.parametrize("curvature", ["gauss-newton", "fisher"])
def test_equation_1_sample_by_sample(curvature: str, sure: bool) -> None:
    """A network of one hidden layer has one read: everything can be written out."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    x, y = torch.randn(7, 4).double(), torch.randint(0, 3, (7,))
    if sure:
        y = net(x).argmax(1)
        with torch.no_grad():
            net[2].weight *= 8
            net[2].bias *= 8
    graph = ramify.trace(net, x)
    learner = Morphisms(graph, ramify.GaussNewton(start=1.0, curvature=curvature))
    v = {name: move.clone() for name, move in learner.moves[0].items()}
    learner.step(per_sample, (x, y), weight=1.0)
    gains = {(type(p.edit), p.edit.channel): p.gain for p in learner.proposals()}
    weight, bias = net[0].weight.detach(), net[0].bias.detach()
    mean = float(per_sample(net, (x, y)).mean().detach())
    assert (mean < 0.5) == sure
    bend = 1 / (4 * mean) if curvature == "gauss-newton" or sure else 1 / 2
    for channel in range(5):
        split, prune = [], []
        for s in range(7):
            hidden = (x[s] @ weight.T + bias).relu().requires_grad_()
            loss = nn.functional.cross_entropy(net[2](hidden), y[s])
            (g,) = torch.autograd.grad(loss, hidden)
            base = float(x[s] @ weight[channel] + bias[channel])
            u = float(x[s] @ v["0.weight"][channel] + v["0.bias"][channel])
            change = (max(base + u, 0.0) + max(base - u, 0.0)) / 2 - max(base, 0.0)
            for out, a in ((split, change), (prune, -max(base, 0.0))):
                p = a * float(g[channel])
                out.append(p + bend * p**2)
        assert gains[ramify.Split, channel] == pytest.approx(-sum(split) / 7, rel=1e-10)
        assert gains[ramify.Prune, channel] == pytest.approx(-sum(prune) / 7, rel=1e-10)


def test_fisher_is_the_true_curvature_where_labels_are_as_predicted() -> None:
    """Predictions of 1/2, 1/4, 1/4 and those labels in these shares: the slope is nothing."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Softplus(), nn.Linear(5, 3)).double()
    x, y = torch.randn(1, 4).double().expand(4, 4), torch.tensor([0, 0, 1, 2])
    with torch.no_grad():
        net[2].weight *= 1e-3
        net[2].bias += torch.tensor([2.0, 1.0, 1.0]).double().log() - net(x)[0]
    graph = ramify.trace(net, x)
    trial = ramify.Trial(graph, per_sample, [(x, y)])
    off = {}
    for curvature in ("gauss-newton", "fisher"):
        method = ramify.GaussNewton(start=1.0, lr=1e-12, radius=None, curvature=curvature)
        found = method.propose(graph, per_sample, [(x, y)])
        ratios = [trial.decrease([p.edit]) / p.gain for p in found]
        off[curvature] = max(abs(ratio - 1) for ratio in ratios)
    assert off["fisher"] < 1e-2
    assert off["gauss-newton"] > 1


@pytest.mark.parametrize("name", ["conv-bn-softplus", "residual", "depthwise"])
def test_learning_descends_equation_1(name: str) -> None:
    net, batch = prepared(name, 24)
    graph = ramify.trace(net, batch[0][:2])
    learner = Morphisms(graph, ramify.GaussNewton(morphisms=("split",), start=0.1))
    totals = []
    for _ in range(40):
        learner.step(per_sample, batch, weight=1.0)
        totals.append(sum(proposal.gain for proposal in learner.proposals()))
    assert totals[-1] > 10 * abs(totals[0])


def test_the_first_step_of_adam_follows_the_slope_of_equation_1() -> None:
    net, batch = prepared("residual", 6)
    graph = ramify.trace(net, batch[0][:2])
    learner = Morphisms(graph, ramify.GaussNewton(morphisms=("split",), start=0.3, lr=1e-3))
    name, at = "a2.weight", (1, 2, 0, 1)
    before = learner.moves[0][name].clone()

    def total(shift: float) -> float:
        other = Morphisms(graph, ramify.GaussNewton(morphisms=("split",), start=0.3))
        other.moves[0][name][at] += shift
        other.step(per_sample, batch, weight=1.0)
        return -sum(proposal.gain for proposal in other.proposals())

    slope = (total(1e-5) - total(-1e-5)) / 2e-5
    learner.step(per_sample, batch, weight=1.0)
    moved = float(learner.moves[0][name][at] - before[at])
    assert moved == pytest.approx(-1e-3 * (1 if slope > 0 else -1), rel=1e-4)


def longest(learner: Morphisms) -> float:
    """The largest |v| of any channel over all its layers, in root mean squares of theirs."""
    graph = learner._graph
    parameters, ratios = dict(graph.model.named_parameters()), []
    for group in (g for g in graph.groups if g.can_split):
        slots = [slot for slot in group.slots if slot.role == "producer"]
        layers = len({graph.model.get_submodule(s.name.rsplit(".", 1)[0]) for s in slots})
        squares = [
            torch.stack(
                [
                    kernels(t[s.name].detach(), s.dim, graph.positions(group, s))
                    .reshape(group.width, -1)
                    .square()
                    .sum(1)
                    for s in slots
                ]
            ).sum(0)
            for t in (learner.moves[0], parameters)
        ]
        ratios.append(float((layers * squares[0] / squares[1]).sqrt().max()))
    return max(ratios)


def test_displacements_stay_within_the_radius() -> None:
    net, batch = prepared("residual", 12)
    graph = ramify.trace(net, batch[0][:2])
    found = {}
    for radius in (0.2, 1.0, None):
        settings = ramify.GaussNewton(morphisms=("split",), radius=radius, lr=0.05)
        learner = Morphisms(graph, settings)
        for _ in range(60):
            learner.step(per_sample, batch, weight=1.0)
        found[radius] = longest(learner)
    assert found[0.2] == pytest.approx(0.2, rel=1e-6)
    assert found[1.0] == pytest.approx(1.0, rel=1e-6)
    assert found[None] > 1.5


def test_a_channel_of_zeros_can_still_move() -> None:
    net, batch = prepared("residual", 12)
    with torch.no_grad():
        for parameter in (net.stem.weight, net.stem.bias, net.a2.weight, net.a2.bias):
            parameter[1] = 0
        net.b2.weight[1], net.b2.bias[1] = 0, 0
    graph = ramify.trace(net, batch[0][:2])
    learner = Morphisms(graph, ramify.GaussNewton(morphisms=("split",)))
    for _ in range(5):
        learner.step(per_sample, batch, weight=1.0)
    assert learner.moves[0]["stem.weight"][1].abs().max() > 0


def test_running_mean_weighs_the_last_tenth() -> None:
    settings = ramify.GaussNewton(epochs=20)
    assert settings._weight(0, 2000) == 1
    assert settings._weight(9, 2000) == pytest.approx(1 / 10)
    assert settings._weight(1999, 2000) == pytest.approx(1 / 200)  # two epochs of a hundred
    assert settings._weight(99, None) == pytest.approx(1 / 100)
    assert ramify.GaussNewton(momentum=0.25)._weight(99, 2000) == pytest.approx(0.25)


def test_means_are_those_of_the_batches() -> None:
    net, batch = prepared("perceptron", 12)
    graph = ramify.trace(net, batch[0])
    thirds = [(batch[0][n : n + 4], batch[1][n : n + 4]) for n in (0, 4, 8)]
    each = [
        {
            p.edit.channel: p.gain
            for p in ramify.GaussNewton(morphisms=("prune",)).propose(graph, per_sample, [third])
            if p.edit.group == "a"
        }
        for third in thirds
    ]
    found = ramify.GaussNewton(morphisms=("prune",), momentum=1e-9).propose(
        graph, per_sample, thirds
    )
    for proposal in found:
        if proposal.edit.group == "a":
            mean = sum(gains[proposal.edit.channel] for gains in each) / 3
            assert proposal.gain == pytest.approx(mean, rel=1e-9)


def test_proposals_carry_what_was_learned() -> None:
    net, batch = prepared("residual", 12)
    graph = ramify.trace(net, batch[0][:2])
    learner = Morphisms(graph, ramify.GaussNewton())
    for _ in range(3):
        learner.step(per_sample, batch, weight=0.5)
    found = learner.proposals()
    assert [p.gain for p in found] == sorted((p.gain for p in found), reverse=True)
    splits = [p for p in found if isinstance(p.edit, ramify.Split)]
    prunes = [p for p in found if isinstance(p.edit, ramify.Prune)]
    assert len(splits) == len(prunes) == sum(g.width for g in graph.groups if g.can_split)
    for proposal in splits:
        group = graph[proposal.edit.group]
        assert set(proposal.edit.offsets) == set(group.producers)
        for slot in (s for s in group.slots if s.role == "producer"):
            offset = proposal.edit.offsets[slot.name]
            v = kernels(learner.moves[0][slot.name], slot.dim, graph.positions(group, slot))
            assert torch.equal(offset[0], v[proposal.edit.channel])
            assert torch.equal(offset[1], -offset[0])
    assert all(p.cost.params > 0 for p in splits)
    assert all(p.cost.params < 0 for p in prunes)
    ramify.apply(
        graph,
        [splits[0].edit, next(p.edit for p in prunes if p.edit.group != splits[0].edit.group)],
    )


def test_the_model_stays_as_it_was() -> None:
    net, batch = prepared("conv-bn-softplus", 6)
    net.train()
    net.requires_grad_(False)
    net.a.weight.requires_grad_(True)
    graph = ramify.trace(net, batch[0][:2])
    before = snapshot(net)
    ramify.GaussNewton(epochs=2).propose(graph, per_sample, [batch, batch])
    assert snapshot(net) == before


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"morphisms": ("merge",)}, "morphisms"),
        ({"morphisms": ()}, "morphisms"),
        ({"epochs": 0}, "epochs"),
        ({"epochs": 1.5}, "epochs of GaussNewton must be a whole number"),
        ({"lr": 0.0}, "lr"),
        ({"lr": float("inf")}, "lr must be positive"),
        ({"radius": 0.0}, "radius"),
        ({"momentum": 0.0}, "momentum"),
        ({"curvature": "hessian"}, "curvature"),
    ],
)
def test_settings_out_of_range(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ramify.RamifyError, match=message):
        ramify.GaussNewton(**settings)  # type: ignore[arg-type]


def test_a_step_leaves_nothing_behind() -> None:
    """What it held goes with it, not when the garbage collector next looks for cycles."""
    net, batch = prepared("conv-bn-softplus", 6)
    learner = Morphisms(ramify.trace(net, batch[0][:2]), ramify.GaussNewton())
    learner.step(per_sample, batch, weight=1.0)
    gc.collect()
    gc.disable()
    try:
        before = sum(type(thing) is Tensor for thing in gc.get_objects())
        learner.step(per_sample, batch, weight=1.0)
        assert sum(type(thing) is Tensor for thing in gc.get_objects()) <= before
    finally:
        gc.enable()


def test_grad_mode_makes_no_difference() -> None:
    net, batch = prepared("residual", 6)
    graph = ramify.trace(net, batch[0][:2])
    method = ramify.GaussNewton()
    with torch.no_grad():
        found = method.propose(graph, per_sample, [batch])
    assert [p.gain for p in found] == [p.gain for p in method.propose(graph, per_sample, [batch])]


def test_a_network_without_hidden_channels_is_refused() -> None:
    net, batch = nn.Linear(6, 4), (torch.randn(5, 6), torch.tensor([0, 1, 2, 3, 0]))
    graph = ramify.trace(net, batch[0])
    with pytest.raises(ramify.RamifyError, match="no group of Linear can be edited"):
        ramify.GaussNewton().propose(graph, per_sample, [batch])


def test_a_loss_of_zero_gains_nothing_and_one_below_is_named() -> None:
    net, batch = prepared("perceptron", 6)
    graph = ramify.trace(net, batch[0])
    method = ramify.GaussNewton()
    zero = method.propose(graph, lambda model, batch: per_sample(model, batch) * 0, [batch])
    assert all(proposal.gain == 0 for proposal in zero)
    with pytest.raises(ramify.RamifyError, match="takes a loss of at least 0"):
        method.propose(graph, lambda model, batch: per_sample(model, batch) - 9, [batch])


class Stream(IterableDataset[Batch]):
    """A batch, twice, and no length."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __iter__(self) -> Iterator[Batch]:
        """Batches."""
        return iter([self.batch, self.batch])


def test_a_loader_of_a_stream_has_a_length_only_in_name() -> None:
    net, batch = prepared("perceptron", 6)
    graph = ramify.trace(net, batch[0])
    method = ramify.GaussNewton(epochs=2)
    loader = DataLoader(Stream(batch), batch_size=None)
    found = method.propose(graph, per_sample, loader)
    same = method.propose(graph, per_sample, Stream(batch))
    assert [p.gain for p in found] == [p.gain for p in same]


BAD: list[tuple[Callable[[nn.Module, Batch], Tensor], str]] = [
    (lambda model, batch: per_sample(model, batch).mean(), "one number for each sample"),
    (lambda model, batch: per_sample(model, batch) / 0, "lower the learning rate"),
    (lambda model, batch: per_sample(model, batch)[:0], "a batch holds no sample"),
]


@pytest.mark.parametrize("loss, message", BAD)
def test_a_bad_loss_is_named(loss: Callable[[nn.Module, Batch], Tensor], message: str) -> None:
    net, batch = prepared("perceptron", 6)
    graph = ramify.trace(net, batch[0])
    with pytest.raises(ramify.RamifyError, match=message):
        ramify.GaussNewton().propose(graph, loss, [batch])


def test_batches_that_end_are_named() -> None:
    net, batch = prepared("perceptron", 6)
    graph = ramify.trace(net, batch[0])
    with pytest.raises(ramify.RamifyError, match="no batch to learn"):
        ramify.GaussNewton(epochs=2).propose(graph, per_sample, iter([batch]))
    with pytest.raises(ramify.RamifyError, match="no batch to learn"):
        ramify.GaussNewton().propose(graph, per_sample, [])


class Turned(nn.Module):
    """Channels last behind a convolution, in place or not."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(2, 4, 3), nn.Linear(4, 2)
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.first(x)
        y = y.transpose_(1, 2) if self.in_place else y.transpose(1, 2)
        return self.second(torch.tanh(y)).mean(1)


def test_a_transpose_in_place_is_one_out_of_place() -> None:
    torch.manual_seed(0)
    net, batch = Turned(in_place=False).double(), (torch.randn(5, 2, 6).double(), torch.ones(5))
    batch = batch[0], batch[1].long()
    gains = []
    for in_place in (False, True):
        net.in_place = in_place
        found = ramify.GaussNewton(epochs=3).propose(
            ramify.trace(net, batch[0]), per_sample, [batch]
        )
        gains.append([proposal.gain for proposal in found])
    assert len(gains[0]) == 8
    assert gains[0] == gains[1]


def reentrant(hidden: Tensor) -> Tensor:
    made: Tensor = checkpoint(torch.tanh, hidden, use_reentrant=True)
    return made


def overwritten(hidden: Tensor) -> Tensor:
    return torch.tanh(hidden).add_(1.0)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize(
    "activation, says",
    [(reentrant, "use_reentrant=False, or switch"), (overwritten, "write that operation out of")],
)
@pytest.mark.parametrize(
    "method",
    [ramify.GaussNewton(), ramify.SplittingDescent(), ramify.GradMax(), ramify.Boosting()],
    ids=lambda method: type(method).__name__,
)
def test_gradients_that_torch_cannot_compute_are_named(
    method: ramify.Method, activation: Callable[[Tensor], Tensor], says: str
) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(activation(self.first(x)))

    net, batch = Net(), (torch.randn(5, 3), torch.ones(5).long())
    graph, before = ramify.trace(net, batch[0]), snapshot(net)
    by_replay = type(method) in (ramify.SplittingDescent, ramify.GradMax)
    if activation is reentrant and by_replay:  # which runs the operations, not the checkpoint
        assert method.propose(graph, per_sample, [batch])
    else:
        with pytest.raises(ramify.RamifyError, match=says):
            method.propose(graph, per_sample, [batch])
    assert snapshot(net) == before
