"""Every method passes the battery of `ramify.testing`; broken ones fail with the right words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

import ramify
from ramify.cost import CostModel
from ramify.testing import check_method

METHODS: dict[str, tuple[Any, dict[str, Any]]] = {
    "s2d": (ramify.SplittingDescent(), {}),
    "s2d-exact": (ramify.SplittingDescent(eigen="exact"), {}),
    "s3d": (ramify.SplittingDescent(signed=1.3, copies=(2, 3, 4), best_of_each=True), {}),
    "gauss-newton": (ramify.GaussNewton(epochs=2), {"random": True, "stepwise": True}),
    "fisher": (
        ramify.GaussNewton(epochs=2, curvature="fisher"),
        {"random": True, "stepwise": True},
    ),
    "gauss-newton-prunes": (ramify.GaussNewton(morphisms=("prune",)), {"stepwise": True}),
    "random": (ramify.RandomSplit(copies=3), {"random": True}),
    "net2net": (ramify.Net2Net(), {"random": True}),
    "new": (ramify.NewNeuron(), {"random": True}),
    "boosting": (ramify.Boosting(steps=2), {"random": True}),
    "gradmax": (ramify.GradMax(), {}),
    "auto": (ramify.Auto(), {}),
    "bottlenecks": (ramify.Bottlenecks(share=0.0), {}),
    "line-search": (ramify.LineSearch(points=2, rounds=0), {}),
    "expansion": (ramify.Expansion(steps=2, channels=(0,)), {"random": True}),
    "l1": (ramify.L1(), {}),
    "bn-scale": (ramify.BNScale(), {}),
    "taylor": (ramify.Taylor(), {}),
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_passes(name: str) -> None:
    method, kind = METHODS[name]
    check_method(method, **kind)


class Broken:
    """L1 with something done to what it gives, or on the way."""

    def __init__(self, change: Callable[..., Any]) -> None:
        self._change = change

    def propose(self, graph: ramify.ChannelGraph, loss: Any, batches: Any) -> Any:
        found = ramify.L1().propose(graph, loss, batches)
        return self._change(found, graph, list(batches), loss)


def each(change: Callable[[ramify.Proposal], ramify.Proposal]) -> Callable[..., Any]:
    return lambda found, *_: [change(proposal) for proposal in found]


def train_mode(found: Any, graph: ramify.ChannelGraph, *_: Any) -> Any:
    graph.model.train()
    return found


def leaves_a_hook(found: Any, graph: ramify.ChannelGraph, *_: Any) -> Any:
    graph.model.register_forward_hook(lambda *_: None)
    return found


def leaves_gradients(found: Any, graph: Any, batches: Any, loss: Any) -> Any:
    loss(graph.model, batches[0]).mean().backward()
    return found


def draws(found: Any, *_: Any) -> Any:
    torch.rand(1)
    return found


def by_first_batch(found: Any, graph: Any, batches: Any, loss: Any) -> Any:
    """A gain of the first batch alone, the same for every channel."""
    return [replace(p, gain=len(batches[0][0]), score=None) for p in found]


def by_place(found: Any, *_: Any) -> Any:
    """Channels that come first in memory are worth more."""
    scored = [replace(p, score=-float(p.edit.channel)) for p in found]
    return sorted(scored, key=lambda p: -p.value)


def in_training(found: Any, graph: Any, *_: Any) -> Any:
    return [replace(p, gain=float(graph.model.training), score=None) for p in found]


def none_in_single(found: Any, graph: Any, *_: Any) -> Any:
    return found if next(graph.model.parameters()).dtype is torch.float64 else found[:1]


def wrong_sign(found: Any, graph: Any, batches: Any, loss: Any) -> Any:
    trial = ramify.Trial(graph, loss, batches)
    made = [replace(p, gain=-trial.decrease([p.edit]), score=None) for p in found]
    return sorted(made, key=lambda p: -p.gain)


def splits(weights: tuple[float, ...], **offsets: Any) -> Callable[..., Any]:
    def change(found: Any, graph: ramify.ChannelGraph, *_: Any) -> Any:
        prices = CostModel(graph)
        edits = [ramify.Split(p.edit.group, p.edit.channel, weights, offsets) for p in found]
        edits = [edit for edit in edits if graph[edit.group].can_split]
        return [ramify.Proposal(e, 0.0, prices.added([e]), score=0.0, graph=graph) for e in edits]

    return change


BROKEN: dict[str, tuple[Callable[..., Any], str]] = {
    "tuple": (lambda found, *_: tuple(found), "returns a list, and returned tuple"),
    "edits": (lambda found, *_: [p.edit for p in found], "returns Proposals, and gave a Prune"),
    "nan": (each(lambda p: replace(p, gain=float("nan"))), "every gain is finite"),
    "infinite": (each(lambda p: replace(p, score=float("inf"))), "every score is finite"),
    "channel": (
        each(lambda p: replace(p, edit=replace(p.edit, channel=9))),
        "has 3 channels, and one edit is of",
    ),
    "order": (lambda found, *_: found[::-1], "proposals come best first"),
    "cost": (each(lambda p: replace(p, cost=ramify.cost.Cost(1, 1))), "what the edit alone adds"),
    "weights": (splits((0.5, 0.6)), "weights of a Split sum to 1"),
    "offsets": (splits((0.5, 0.5), nowhere=torch.zeros(2, 3)), "offsets are for producers"),
    "mode": (train_mode, "leaves the model and its optimizer as they were"),
    "hook": (leaves_a_hook, "leaves the model and its optimizer as they were"),
    "gradients": (leaves_gradients, "leaves the model and its optimizer as they were"),
    "draws": (draws, "leaves the random states as they were"),
    "training": (in_training, "a second call, with the model in train mode"),
    "batches": (by_first_batch, "the same samples in other batches give the same"),
    "place": (by_place, "channels in another order give the same"),
    "single": (none_in_single, "in float32 there are as many proposals"),
    "sign": (wrong_sign, "a gain is the decrease of the mean loss"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_methods_are_found_out(name: str) -> None:
    change, says = BROKEN[name]
    with pytest.raises(ramify.RamifyError, match=f"^Broken on convolutions with norms: .*{says}"):
        check_method(Broken(change))


def test_a_method_that_refuses_everything_is_found_out() -> None:
    def refuse(*_: Any) -> Any:
        raise ramify.RamifyError("not this one")

    with pytest.raises(ramify.RamifyError, match="refuses all of the networks.*not this one"):
        check_method(Broken(refuse))


def test_the_networks_leave_the_random_state_alone() -> None:
    state = torch.get_rng_state()
    check_method(ramify.L1())
    assert torch.equal(torch.get_rng_state(), state)
