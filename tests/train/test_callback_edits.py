"""What callbacks of other libraries do between epochs, without those libraries."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import ramify
from ramify.errors import RamifyError
from ramify.train.callback_edits import (
    Cuts,
    Growing,
    check_reached,
    edit_epochs,
    example_of,
    some_of,
)


def loss(model: nn.Module, batch: Any) -> Tensor:
    return cross_entropy(model(batch[0]), batch[1], reduction="none")


def trained(width: int) -> tuple[nn.Sequential, torch.optim.Optimizer, list[Any]]:
    """A small network in the middle of its training, its optimizer, its batches."""
    torch.manual_seed(0)
    x = torch.randn(96, 6)
    y = (x[:, 0] * x[:, 1] > 0).long()
    batches = list(zip(x.split(32), y.split(32), strict=True))
    net = nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 2))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(20):
        for batch in batches:
            optimizer.zero_grad()
            loss(net, batch).mean().backward()
            optimizer.step()
    return net, optimizer, batches


def cost(net: nn.Module, batches: list[Any], name: str = "params") -> float:
    return ramify.cost.graph_cost(ramify.trace(net, batches[0][0][:1])).of(name)


def mean(net: nn.Module, batches: list[Any]) -> float:
    with torch.no_grad():
        return torch.cat([loss(net, batch) for batch in batches]).mean().item()


def test_growth_keeps_to_its_budget_and_does_no_harm() -> None:
    net, optimizer, batches = trained(3)
    before, size = mean(net, batches), cost(net, batches)
    method, rule = ramify.SplittingDescent(step=0.1), ramify.TopFraction(1.0)
    growing = Growing(loss, method, rule, budget={"params": size + 18}, ceiling=9)
    event = growing.edit(ramify.trace(net, batches[0][0][:1]), batches, [optimizer], [])
    assert event["params_before"] == size < event["params_after"] == cost(net, batches) <= size + 18
    assert mean(net, batches) == pytest.approx(event["loss_after"])
    assert event["loss_after"] <= before * 1.001
    assert optimizer.state[net[0].weight]["exp_avg"].shape == net[0].weight.shape
    again = growing.edit(ramify.trace(net, batches[0][0][:1]), batches, optimizer, [event])
    assert again == {"reason": "budget"}


@pytest.mark.parametrize(
    ("budget", "rule"),
    [
        ({"params": 60}, ramify.TopFraction(0.5, per_group=True)),
        (None, ramify.TradeOff(params=3e-7, per_group=0.3)),
    ],
)
def test_the_defaults_are_those_of_grow(budget: Any, rule: ramify.Rule) -> None:
    events = []
    for chosen in ((None, None), (ramify.GaussNewton(epochs=20), rule)):
        net, optimizer, batches = trained(3)
        growing = Growing(loss, *chosen, budget=budget)
        graph = ramify.trace(net, batches[0][0][:1])
        events.append(growing.edit(graph, batches, optimizer, []))
    assert events[0] == events[1]
    assert events[0]["widths_after"]["0"] > 3
    with pytest.raises(RamifyError, match="`rule` must be an object that can select"):
        Growing(loss, None, ramify.TopFraction)  # type: ignore[arg-type]


def test_only_the_named_groups_grow() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))
    batches = [(torch.randn(32, 6), torch.arange(32) % 2)]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    rule = ramify.TopFraction(1.0)
    growing = Growing(loss, ramify.SplittingDescent(), rule, trial=False, groups=["2"])
    event = growing.edit(ramify.trace(net, batches[0][0][:1]), batches, optimizer, [])
    assert event["widths_after"] == {"0": 3, "2": 6, "4": 2}
    with pytest.raises(RamifyError, match="`groups` must be a list of names or patterns"):
        Growing(loss, groups=[2])  # type: ignore[list-item]
    with pytest.raises(RamifyError, match="groups: no group of channels matches 'conv"):
        Growing(loss, groups=["conv*"]).edit(
            ramify.trace(net, batches[0][0][:1]), batches, optimizer, []
        )


def test_a_selection_is_kept_as_it_is_where_nothing_is_tried() -> None:
    net, optimizer, batches = trained(3)
    graph = ramify.trace(net, batches[0][0][:1])
    method = ramify.SplittingDescent(step=50.0)  # so long a step does harm
    kept = Growing(loss, method, ramify.TopFraction(0.3), trial=False)
    event = kept.edit(graph, batches, optimizer, [])
    assert event["step_factor"] == 1.0
    assert event["loss_after"] > event["loss_before"]


def test_cuts_approach_a_share_by_equal_factors() -> None:
    net, optimizer, batches = trained(16)
    full, history = cost(net, batches, "macs"), list[Any]()
    cuts = Cuts(loss, {"macs": "25%"}, 2, {"keep": 1})
    for _ in range(2):
        graph = ramify.trace(net, batches[0][0][:1])
        history.append(cuts.edit(graph, batches, optimizer, history))
    assert [event["budget"]["macs"] for event in history] == [full / 2, full / 4]
    assert [event["macs_after"] for event in history] == [full / 2, full / 4]
    assert net[0].out_features == 4
    assert optimizer.state[net[0].weight]["exp_avg"].shape == net[0].weight.shape
    with pytest.raises(RamifyError, match="percentage"):
        Cuts(loss, {"macs": "25"}, 1, {}).edit(graph, batches, optimizer, [])


def test_what_is_traced_and_judged_on_comes_from_a_batch() -> None:
    x, y = torch.randn(8, 3), torch.arange(8)
    named = {"input_ids": x, "labels": y, "return_dict": True}
    assert torch.equal(example_of(x), x[:1])
    assert torch.equal(example_of([x, y]), x[:1])
    found = example_of(named)
    assert list(found) == ["input_ids", "return_dict"]
    assert torch.equal(found["input_ids"], x[:1])
    moved = some_of([(x, y)] * 5, lambda batch: batch[::-1], 10)
    assert len(moved) == 2
    assert moved[0][0] is y
    assert len(some_of([named], lambda batch: batch, 100)) == 1
    for wrong, said in (([], "no batch to judge"), ([("a",)], "a tuple without a tensor")):
        with pytest.raises(RamifyError, match=said):
            some_of(wrong, lambda batch: batch)


def test_several_processes_are_refused() -> None:
    method, rule = ramify.SplittingDescent(), ramify.TopFraction(0.5)
    pytest.importorskip("lightning", reason="needs the extra: pip install 'ramify[lightning]'")
    from ramify import lightning

    several: Any = SimpleNamespace(world_size=2)
    for callback in (
        lightning.GrowCallback(loss, method, rule, epochs=(1,)),
        lightning.GrowCallback(loss, epochs=(1,), groups=("0",)),
        lightning.CutCallback(loss, {"macs": "50%"}, epochs=(1,)),
    ):
        with pytest.raises(RamifyError, match=r"edits in one process, and this Trainer has 2"):
            callback.setup(several, several, "fit")
    pytest.importorskip(
        "transformers", reason="needs the extra: pip install 'ramify[transformers]'"
    )
    from ramify import hf

    with pytest.raises(RamifyError, match=r"edits in one process, and this Trainer has 2"):
        hf.GrowCallback(loss, method, rule, epochs=(1,)).on_train_begin(several, several, several)
    assert hf.GrowCallback(loss, epochs=(1,), groups=("0",)).growing.groups == ("0",)


@pytest.mark.parametrize("epochs", [2, (), (0,), (1.5,), ("a",), (True,)])
def test_epochs_that_are_none_are_refused(epochs: Any) -> None:
    with pytest.raises(RamifyError, match="epochs must be the numbers of epochs"):
        edit_epochs(epochs)


def test_a_training_too_short_for_its_edits_is_refused() -> None:
    check_reached([2, 4], 4)
    check_reached([2, 4], -1)
    with pytest.raises(RamifyError, match="edited after 4 epochs, and the training ends after 3"):
        check_reached([2, 4], 3)


@pytest.mark.parametrize("budget", [5, 0.5, {"macs": 0}, {"speed": 1}])
def test_budgets_of_callbacks_are_checked_at_once(budget: Any) -> None:
    with pytest.raises(RamifyError, match="budget"):
        Growing(loss, ramify.L1(), ramify.TopFraction(0.5), budget)
    with pytest.raises(RamifyError, match="budget"):
        Cuts(loss, budget, 1, {})


def test_measures_are_by_name() -> None:
    net, _, batches = trained(4)
    training = ramify.Training(epochs=1, lr=0.01)
    with pytest.raises(RamifyError, match=r"measures by name, .* returned 0.5"):
        ramify.grow(
            net,
            batches[0][0][:1],
            loss,
            batches,
            method=ramify.L1(),
            rule=ramify.TopFraction(0.5),
            training=training,
            rounds=0,
            evaluate=lambda model: 0.5,  # type: ignore[arg-type,return-value]
        )
