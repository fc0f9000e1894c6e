"""What blocks are worth, and depth against width under one budget."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ramify
from ramify import Drop, RamifyError
from ramify.probe.loss import mean_loss
from tests.block_nets import Linked, PreActivation, ResNet, lively, made
from tests.checks import distance, outputs, snapshot


def loss(model: nn.Module, batch: Any) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean(1)


def small(blocks: tuple[int, int, int] = (3, 2, 1), useless: str = "") -> tuple[nn.Module, Any]:
    """A small ResNet, and images with what it makes of them; perhaps with a block of no use."""
    torch.manual_seed(0)
    model = lively(ResNet(blocks))
    if useless:
        norm: Any = model.get_submodule(f"{useless}.bn2")
        norm.weight.data.mul_(1e-4)
        norm.bias.data.mul_(1e-4)
    images = torch.randn(96, 3, 8, 8)
    with torch.no_grad():
        made_of = model(images)
    return model, [(images[:48], made_of[:48]), (images[48:], made_of[48:])]


def test_the_rise_is_that_of_the_model_without_the_block() -> None:
    model, batches = small()
    graph = ramify.trace(model, batches[0][0][:2])
    before = snapshot(model)
    report = ramify.block_sensitivity(graph, loss, batches)
    assert snapshot(model) == before
    assert [row.block for row in report.rows] == ["layer1.0", "layer1.1", "layer1.2", "layer2.1"]
    for row in report.rows:
        other = copy.deepcopy(model)
        traced = ramify.trace(other, batches[0][0][:2])
        cost = ramify.cost.graph_cost(traced)
        edited = ramify.apply(traced, [row.edit])
        assert row.loss == pytest.approx(mean_loss(other, loss, batches), rel=1e-6)
        assert row.gain == pytest.approx(report.loss - row.loss)
        assert row.saved == cost - ramify.cost.graph_cost(edited)
        assert row.cost.macs == -row.saved.macs


def test_a_model_that_counts_its_runs_is_as_it_was() -> None:
    model, batches = small()
    model.register_buffer("runs", torch.zeros(()))
    model.register_forward_hook(lambda module, _, __: module.runs.add_(1.0))
    graph, before = ramify.trace(model, batches[0][0][:2]), snapshot(model)
    ramify.block_sensitivity(graph, loss, batches[:1], held=batches[1:], refit=True)
    assert snapshot(model) == before


def test_the_influence_is_the_angle_of_the_stream() -> None:
    model, x = made("vit")
    graph = ramify.trace(model, x)
    report = ramify.block_sensitivity(graph, lambda m, b: m(b).square().mean((1, 2)), [x, 2 * x])
    expected = []
    for batch in (x, 2 * x):
        stream = model[0](batch)
        for number in (1, 2, 3):
            made_of = model[number](stream)
            cosine = (stream * made_of).sum(-1) / stream.norm(dim=-1) / made_of.norm(dim=-1)
            expected.append(float(1 - cosine.mean()))
            stream = made_of
    for number, row in enumerate(report.rows):
        mean = (expected[number] + expected[number + 3]) / 2
        assert row.influence == pytest.approx(mean, abs=1e-9)


def test_what_stays_takes_over_from_a_block() -> None:
    model, batches = small()
    graph = ramify.trace(model, batches[0][0][:2])
    before = snapshot(model)
    plain = ramify.block_sensitivity(graph, loss, batches)
    refitted = ramify.block_sensitivity(graph, loss, batches, refit=True)
    assert snapshot(model) == before
    for one, other in zip(plain.rows, refitted.rows, strict=True):
        assert other.rise < 0.7 * one.rise
    # The branch that is zero while others are refitted is what a drop leaves.
    other = copy.deepcopy(model)
    traced = ramify.trace(other, batches[0][0][:2])
    kept = {n: t.clone() for n, t in other.state_dict().items() if n.startswith("layer1.1.conv")}
    ramify.take_over(traced, ["layer1.1"], loss, batches)
    assert all(torch.equal(other.state_dict()[name], value) for name, value in kept.items())
    assert not other.layer1[1].bn2.weight.any()
    zeroed = mean_loss(other, loss, batches)
    ramify.apply(traced, [Drop("layer1.1")])
    assert mean_loss(other, loss, batches) == pytest.approx(zeroed, rel=1e-6)
    assert refitted.rows[1].loss == pytest.approx(zeroed, rel=1e-5)


def test_what_cannot_be_taken_over_from() -> None:
    model, x = made("nested vgg")
    graph, before = ramify.trace(model, x), snapshot(model)
    with pytest.raises(RamifyError, match="nothing can take over from block '1'"):
        ramify.take_over(graph, ["1"], lambda m, b: m(b).square().mean(1), [x])
    with pytest.raises(RamifyError, match="cannot be dropped: it changes"):
        ramify.take_over(graph, ["0"], lambda m, b: m(b).square().mean(1), [x])
    plain, refitted = (
        ramify.block_sensitivity(graph, lambda m, b: m(b).square().mean(1), [x], refit=refit)
        for refit in (False, True)
    )
    assert [row.loss for row in plain.rows] == [row.loss for row in refitted.rows]
    assert snapshot(model) == before


def test_blocks_that_are_attributes_are_taken_over_from() -> None:
    model, _ = made("named")
    x = torch.randn(32, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        target = model(x)
    graph = ramify.trace(model, x[:2])
    far = lambda m, b: (m(b) - target).square().flatten(1).mean(1)  # noqa: E731
    plain = ramify.block_sensitivity(graph, far, [x], blocks=["second"]).rows[0].loss
    ramify.take_over(graph, ["second"], far, [x])
    ramify.apply(graph, [Drop("second")])
    assert float(far(model, x).mean().detach()) < 0.9 * plain


def test_blocks_to_try_are_chosen_by_name() -> None:
    model, batches = small()
    graph = ramify.trace(model, batches[0][0][:2])
    report = ramify.block_sensitivity(graph, loss, batches[:1], blocks=["layer2.1"], held=batches)
    assert [row.block for row in report.rows] == ["layer2.1"]
    assert "layer2.1" in str(report)
    with pytest.raises(RamifyError, match="block 'layer2.0' cannot be dropped: it changes"):
        ramify.block_sensitivity(graph, loss, batches, blocks=["layer2.0"])


def test_a_loss_that_is_not_finite_is_infinite() -> None:
    model, x = made("preactivation")
    total = float(model(x).sum())

    def strict(model: nn.Module, x: Tensor) -> Tensor:
        made = model(x)
        return made.flatten(1).sum(1) / (abs(float(made.sum()) - total) < 1e-9)

    report = ramify.block_sensitivity(ramify.trace(model, x), strict, [x])
    assert all(math.isinf(row.rise) for row in report.rows)


def test_a_useless_block_goes_before_channels() -> None:
    model, batches = small(useless="layer1.1")
    graph = ramify.trace(model, batches[0][0][:2])
    cost = ramify.cost.graph_cost(graph)
    found: list[Any] = []
    budget = {"macs": 0.8 * cost.macs}
    optimizer = torch.optim.AdamW(model.parameters())
    graph = ramify.cut(
        graph, loss, batches, budget=budget, depth=True, log=found.append, optimizer=optimizer
    )
    [report] = found
    assert report.drops == (Drop("layer1.1"),)
    assert len(model.layer1) == 2
    assert report.before.macs == cost.macs
    assert ramify.cost.graph_cost(graph).macs <= budget["macs"]
    assert report.predicted > 0
    assert report.loss_after == pytest.approx(mean_loss(model, loss, batches), rel=1e-5)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}


def test_depth_and_widths_are_a_drop_and_then_a_cut() -> None:
    model, batches = small(useless="layer1.1")
    batches = [(images, made_of + 0.1 * torch.randn_like(made_of)) for images, made_of in batches]
    other = copy.deepcopy(model)
    graph = ramify.trace(model, batches[0][0][:2])
    budget = {"macs": 0.6 * ramify.cost.graph_cost(graph).macs}
    found: list[Any] = []
    ramify.cut(graph, loss, batches, budget=budget, depth=True, log=found.append)
    drops = found[0].drops
    assert drops
    assert found[0].edits
    by_hand = ramify.trace(other, batches[0][0][:2])
    ramify.take_over(by_hand, [drop.block for drop in drops], loss, batches)
    by_hand = ramify.apply(by_hand, drops)
    ramify.cut(by_hand, loss, batches, budget=budget)
    state = other.state_dict()
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_readers_before_a_block_that_goes_lose_nothing() -> None:
    model, batches = small()
    graph = ramify.trace(model, batches[0][0][:2])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    done = ramify.take_over(graph, ["layer2.1"], loss, batches)
    for one in done:
        behind = one.name.startswith(("layer3", "fc"))
        assert (one.before > 0) == behind
        assert (one.after > 0) == behind
    changed = [n for n, t in model.state_dict().items() if not torch.equal(t, before[n])]
    assert changed
    assert all(name.startswith(("layer2.1", "layer3", "fc")) for name in changed)


def test_a_budget_that_widths_cannot_reach() -> None:
    model, batches = small((3, 1, 1))
    graph = ramify.trace(model, batches[0][0][:2])
    budget = {"macs": 0.62 * ramify.cost.graph_cost(graph).macs}
    with pytest.raises(RamifyError):
        ramify.cut(graph, loss, batches, budget=budget, keep=0.9)
    graph = ramify.cut(graph, loss, batches, budget=budget, keep=0.9, depth=True)
    assert ramify.cost.graph_cost(graph).macs <= budget["macs"]


@pytest.mark.parametrize("budget", [{"loss": 0.1}, {"macs": 1e4, "loss": 0.1}, None])
def test_depth_takes_a_budget_of_size(budget: Any) -> None:
    model, batches = small()
    graph = ramify.trace(model, batches[0][0][:2])
    before = snapshot(model)
    accept = None if budget else lambda model: True
    with pytest.raises(RamifyError, match="depth is chosen within a budget of size"):
        ramify.cut(graph, loss, batches, budget=budget, accept=accept, depth=True)
    assert snapshot(model) == before


def test_floors_by_name_do_not_go_with_depth() -> None:
    model, batches = small()
    graph = ramify.trace(model, batches[0][0][:2])
    with pytest.raises(RamifyError, match="names of groups change as blocks go"):
        ramify.cut(graph, loss, batches, budget={"macs": 1e5}, keep={"stem": 2}, depth=True)


def test_a_budget_out_of_reach_changes_nothing() -> None:
    model, batches = small()
    graph, optimizer = ramify.trace(model, batches[0][0][:2]), torch.optim.Adam(model.parameters())
    before = snapshot(model, optimizer)
    with pytest.raises(RamifyError):
        ramify.cut(
            graph, loss, batches, budget={"macs": 10.0}, keep=0.9, depth=True, optimizer=optimizer
        )
    assert snapshot(model, optimizer) == before
    assert not graph.superseded


def test_blocks_read_by_number_are_passed_over_in_a_trial() -> None:
    model, x = lively(Linked()), torch.randn(2, 3, 8, 8)
    expected = copy.deepcopy(model)
    expected.down[1].forward = lambda x: x
    graph = ramify.trace(model, x)
    report = ramify.block_sensitivity(graph, lambda m, b: m(b).square().flatten(1).mean(1), [x])
    wanted = float(outputs(expected, x)[0].square().mean())
    assert report.rows[1].loss == pytest.approx(wanted, rel=1e-6)
    assert isinstance(model.down[1], PreActivation)
    assert distance(outputs(model, x), outputs(model, x)) == 0.0
