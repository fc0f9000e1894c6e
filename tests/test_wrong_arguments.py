"""What users give by mistake: it works, or one sentence says what to do."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ramify
from ramify import Prune, RamifyError


class TwoInAList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(4, 8)

    def forward(self, xs: list[Tensor]) -> Tensor:
        return self.a(xs[0]) + self.b(xs[1])


X = torch.randn(2, 4)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).square().sum(1)


def propose(batches: Any, by: Any = loss) -> Any:
    return ramify.Taylor().propose(ramify.trace(net(), X), by, batches)


def apply(edits: Any, **given: Any) -> Any:
    return ramify.apply(ramify.trace(net(), X), edits, **given)


def grow(**given: Any) -> Any:
    usual: dict[str, Any] = {
        "data": [X],
        "method": ramify.RandomSplit(),
        "rule": ramify.TopFraction(0.5),
        "training": ramify.Training(epochs=1, lr=0.01),
        "rounds": 1,
    }
    model = given.pop("model", None) or net()
    usual |= given
    return ramify.grow(model, X, loss, usual.pop("data"), **usual)


def cut(**given: Any) -> Any:
    usual: dict[str, Any] = {"budget": {"params": 40}}
    return ramify.cut(ramify.trace(net(), X), loss, [X], **(usual | given))


def saved() -> str:
    path = tempfile.mkdtemp() + "/net"
    ramify.save(net(), path)
    return path


def test_a_list_as_the_one_argument_of_a_forward() -> None:
    graph = ramify.trace(TwoInAList(), [X, X], edit_outputs=True)
    assert graph["a"].width == 8
    assert ramify.apply(graph, [Prune("a", 0)])["a"].width == 7


def test_data_of_which_the_length_says_nothing() -> None:
    class Stream:
        def __len__(self) -> int:
            return 0

        def __iter__(self) -> Any:
            return iter([X, X])

    assert grow(data=Stream()).history[-1]["reason"] == "rounds"


def test_batches_from_a_generator() -> None:
    assert propose(x for x in [X, X])


def test_dictionaries_as_batches() -> None:
    found = propose([{"x": X}], by=lambda model, batch: loss(model, batch["x"]))
    assert len(found) == 8


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a loss without the last sample, under a teacher": (
        lambda: ramify.relax.distilled(lambda model, x: model(x)[:-1, 0], net())(net(), X),
        "the loss gives numbers of shape \\(1,\\) and the logits are those of 2 samples",
    ),
    "one further input": (
        lambda: ramify.trace(net(), X, also=X),
        "`also` must be a list of further inputs, but got a Tensor",
    ),
    "a further input of another shape": (
        lambda: ramify.trace(net(), X, also=[X[:, :3]]),
        "does not run on these inputs",
    ),
    "a number as a module": (
        lambda: ramify.trace(net(), X, unused=3),  # type: ignore[arg-type]
        "`unused` must be a list of names of modules, but got 3",
    ),
    "a text as a fraction": (
        lambda: ramify.TopFraction("half"),  # type: ignore[arg-type]
        "fraction of TopFraction must be a number, but got 'half'",
    ),
    "a share of a knapsack": (
        lambda: ramify.Knapsack(params="50%"),  # type: ignore[arg-type]
        "params of Knapsack must be a number or None, but got '50%'",
    ),
    "a rate as a text": (
        lambda: ramify.Training(lr="0.1"),  # type: ignore[arg-type]
        "lr of Training must be a number, but got '0.1'",
    ),
    "half an epoch": (
        lambda: ramify.Training(epochs=2.5),  # type: ignore[arg-type]
        "epochs of Training must be a whole number, but got 2.5",
    ),
    "a number of copies": (
        lambda: ramify.SplittingDescent(copies=3),  # type: ignore[arg-type]
        "copies of SplittingDescent must be a tuple of whole numbers, but got 3",
    ),
    "a name of a scoring method": (
        lambda: cut(method="l1"),
        "`method` must be an object that can propose, such as .* but got 'l1'",
    ),
    "a number as the rule of a cut": (
        lambda: cut(rule=0.5),
        "`rule` must be an object that can select",
    ),
    "a list as a log": (
        lambda: cut(log=[]),
        r"`log` must be a function of the report, but got \[\]",
    ),
    "a number as groups": (
        lambda: cut(groups=3),
        "`groups` must be a list of patterns of names of groups, but got 3",
    ),
    "a number of samples": (
        lambda: ramify.sensitivity(ramify.trace(net(), X), loss, 3),  # type: ignore[arg-type]
        "the batches are a int: give a list of them",
    ),
    "a model for a graph": (
        lambda: ramify.cost.graph_cost(net()),  # type: ignore[arg-type]
        "graph of graph_cost must be a ChannelGraph, but got a Sequential",
    ),
    "a total without a name": (
        lambda: ramify.fit([], ramify.trace(net(), X), 40),  # type: ignore[arg-type]
        "`budget` must be a Mapping, but got 40",
    ),
    "edits in place of proposals": (
        lambda: ramify.TopFraction(0.5).select([Prune("0", 1)]),  # type: ignore[list-item]
        "`proposals` holds a Prune, where a Proposal is expected",
    ),
    "no tokens": (
        lambda: ramify.keep_tokens(ramify.trace(net(), X), None),  # type: ignore[arg-type]
        "`tokens` must be a list of numbers of tokens, but got None|no embedding|vocabulary",
    ),
    "a function as a searcher's model": (
        lambda: ramify.relax.DARTS(
            loss,  # type: ignore[arg-type]
            arch=[],
            loss=loss,
            weight_optimizer=torch.optim.SGD,  # type: ignore[arg-type]
            arch_optimizer=torch.optim.SGD,  # type: ignore[arg-type]
        ),
        "model of DARTS must be a Module, but got a function",
    ),
    "settings as training": (
        lambda: ramify.shrink(net(), X, loss, [X], budget={"params": 40}, training={"epochs": 1}),  # type: ignore[arg-type]
        r"`training` must be a Training, but got \{'epochs': 1\}",
    ),
    "another dtype": (
        lambda: ramify.trace(net(), X.double()),
        "does not run on these inputs .* the weights are of torch.float32, and the inputs of "
        "torch.float64: give what its forward takes",
    ),
    "another device": (
        lambda: ramify.trace(net(), X.to("meta")),
        "the weights are on cpu, and the inputs on meta",
    ),
    "another shape": (lambda: ramify.trace(net(), X[:, :3]), "does not run on these inputs"),
    "a number": (lambda: ramify.trace(net(), 3), "no tensor among them, which are a int"),
    "nothing": (lambda: ramify.trace(net(), None), "no tensor among them, which are a NoneType"),
    "a built network": (
        lambda: ramify.load("nowhere", build=net()),  # type: ignore[arg-type]
        "`build` must be a function that builds the network, but got a Sequential",
    ),
    "a function of the width": (
        lambda: ramify.load(saved(), build=lambda width: net()),  # type: ignore[misc]
        "`build` is called without arguments, but needs some",
    ),
    "a function that gives nothing": (
        lambda: ramify.load(saved(), build=lambda: None),  # type: ignore[arg-type,return-value]
        "what `build` makes must be a torch.nn.Module, but got a NoneType",
    ),
    "no path": (lambda: ramify.save(net(), None), "must be a str or a Path, but got a NoneType"),  # type: ignore[arg-type]
    "a state dictionary": (
        lambda: ramify.save(net().state_dict(), "x"),  # type: ignore[arg-type]
        "what is saved must be a torch.nn.Module, but got a OrderedDict",
    ),
    "a class to reshape": (
        lambda: ramify.reshape(nn.Linear, {}),  # type: ignore[arg-type]
        "must be a torch.nn.Module, but got the class Linear",
    ),
    "no batches": (lambda: propose(None), "the batches are a NoneType: give a list of them"),
    "a number of batches": (lambda: propose(3), "the batches are a int: give a list of them"),
    "an empty list": (lambda: propose([]), "give at least one batch"),
    "one batch": (lambda: propose(X), r"which are given as .* such as \[batch\]"),
    "a dictionary": (lambda: propose({"x": X}), r"on a batch of type str .* such as \[batch\]"),
    "losses in a column": (
        lambda: propose([X], by=lambda model, batch: model(batch)[:, :1]),
        r"shape \(2, 1\): flatten it",
    ),
    "a loss of every output": (
        lambda: propose([X], by=lambda model, batch: model(batch)),
        r"shape \(2, 2\): take each sample's mean",
    ),
    "a mean loss": (
        lambda: propose([X], by=lambda model, batch: model(batch).mean()),
        'use reduction="none"',
    ),
    "a count of errors": (
        lambda: propose([X], by=lambda model, batch: model(batch).argmax(1)),
        "the loss must return real numbers, but returned torch.int64",
    ),
    "a complex loss": (
        lambda: propose([X], by=lambda model, batch: model(batch)[:, 0] + 0j),
        "the loss must return real numbers, but returned torch.complex64",
    ),
    "a number as a loss": (lambda: propose([X], by=lambda *_: 3.0), "return the tensor of losses"),
    "a number as edits": (
        lambda: apply(3),
        "an edit must be a Prune, Split, Drop or Insert, but got a int",
    ),
    "a number as a follower": (
        lambda: apply([Prune("0", 1)], followers=3),
        "`followers` must be models or state dictionaries .* but got a int",
    ),
    "a name of a method": (
        lambda: grow(method="s2d"),
        "`method` must be an object that can propose",
    ),
    "a class of methods": (
        lambda: grow(method=ramify.SplittingDescent),
        "`method` must be an object that can propose",
    ),
    "a number as a rule": (lambda: grow(rule=0.5), "`rule` must be an object that can select"),
    "a number of epochs": (
        lambda: grow(training=3),
        "`training` must be a Training, but got a int",
    ),
    "a class of networks": (
        lambda: grow(model=nn.Linear),
        "`model` must be a Module, but got a cl",
    ),
    "a number of data": (lambda: grow(data=3), "the data are a int, where a list of batches"),
    "a number as a budget": (lambda: grow(budget=3), "a budget must be a dictionary"),
    "a number as a budget of a cut": (
        lambda: ramify.cut(ramify.trace(net(), X), loss, [X], budget=3),  # type: ignore[arg-type]
        "a budget must be a dictionary",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_is_named_in_one_sentence(name: str) -> None:
    case, says = REFUSED[name]
    with pytest.raises(RamifyError, match=says) as caught:
        case()
    assert "\n" not in str(caught.value)
