"""The settings of shrinking runs: their defaults, what is refused, and how they are stored."""

import json
from typing import Any

import pytest

from ramify.commands.prune import try_widths
from ramify.commands.prune_settings import PruneSettings
from ramify.data import Dataset
from ramify.errors import RamifyError
from tests.commands.test_prune import resolve


@pytest.mark.parametrize(
    "given, said",
    [
        ({"searcher": "sgd"}, "there is no searcher 'sgd'"),
        (
            {"searcher": "darts", "beta": 1.0},
            "beta is not a setting of the searcher darts1, only",
        ),
        ({"searcher": "l1", "gamma": 1.0}, "gamma is not a setting of the searcher l1"),
        ({"searcher": "bn", "arch_lr": 1.0}, "arch_lr is not a setting of the searcher bn"),
        ({"beta": 1.0}, "beta is not a setting of the searcher takeover, only of rarts"),
        ({"searcher_order": 2}, "searcher_order is 2 for the searcher takeover"),
        ({"searcher": "darts", "searcher_order": 3}, "it is 1 or 2"),
        ({"ratio": 0.1, "threshold": 0.1}, "ratio and threshold each say how much"),
        ({"searcher": "bn", "threshold": 0.1, "per_layer": True}, "per_layer needs ratio"),
        ({"searcher": "bn", "penalty_by": "time"}, "there is no penalty_by 'time'"),
        ({"penalty_by": "macs"}, "penalty_by is not a setting of the searcher takeover"),
        ({"per_layer": True}, "per_layer needs ratio and does not work with budget"),
        ({"searcher": "random", "threshold": 0.1}, "which random does not learn"),
        ({"distill": True, "pretrain_epochs": 0}, "distill needs the full network"),
        ({"temperature": 2.0, "distill": False}, "temperature is a setting of distill"),
        ({"temperature": 0.0}, "temperature is 0.0; it must be above 0"),
        ({"searcher": "bn", "threshold": -1.0}, "threshold is -1.0"),
        ({"ratio": 1.5}, "ratio is 1.5; it must be above 0 and at most 1"),
        ({"searcher": "rarts", "search_epochs": 0}, "rarts learns its scores in training, and"),
        ({"pretrain_epochs": -1}, "pretrain_epochs is -1"),
        ({"probe_samples": 0}, "probe_samples is 0"),
        ({"searcher": "rarts", "gamma": -1.0}, "gamma is -1.0"),
        ({"searcher": "rarts", "arch_lr": 0.0}, "arch_lr is 0.0"),
        ({"optimizer": "adam", "momentum": 0.5}, "momentum is a setting of sgd"),
        ({"tuning_lr": 0.0}, "tuning_lr is 0.0; it must be above 0"),
        (
            {"epochs": 0, "from_scratch": True},
            "from_scratch is a setting of fine-tuning, but epochs",
        ),
        ({"epochs": 0, "distill": True}, "distill is a setting of fine-tuning, but epochs is 0"),
        ({"epochs": 0, "tuning_lr": 0.1}, "tuning_lr is a setting of fine-tuning, but epochs is 0"),
        ({"rounds": 0}, "rounds is 0; it must be at least 1"),
        ({"rounds": 2, "ratio": 0.5}, "rounds approach a budget step by step, but ratio"),
        ({"rounds": 2, "searcher": "rarts"}, "rounds need new scores for each cut"),
        ({"raw": True}, "raw is for scores that are not comparable between layers, but those"),
        ({"budget": {"macs": "150%"}}, "the budget of macs is '150%'; give a number above 0, or"),
        ({"budget": {"macs": "half"}}, "the budget of macs is 'half'; give a number above 0, or"),
        ({"budget": {"loss": 0.1}}, "the loss cannot be a budget; give --accept loss=0.05"),
        ({"budget": {"size": 3.0}}, "there is no budget of 'size'; give params"),
        ({"accept": {"f1": -1.0}}, "accept must be accuracy or loss, but got 'f1'"),
        ({"accept": {"accuracy": 1.0}}, "give accuracy=-1"),
        ({"accept": {"loss": -0.1}}, "give loss=0.1"),
        ({"accept": {"loss": 0.1}, "pretrain_epochs": 0}, "accept compares with the trained full"),
        ({"weights": "nowhere"}, "the file of weights nowhere does not exist; give what"),
    ],
)
def test_what_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(RamifyError, match=said):
        resolve(**given)


def test_settings_come_back_from_the_folder() -> None:
    for given in (
        {},
        {"searcher": "bn", "budget": {"params": 9.0}},
        {"keep": 8, "accept": {"accuracy": -1.0}, "ratio": 0.5},
        {"keep": {"layer1": 2, "layer2": 0.5}, "alike": ("a*", "b")},
    ):
        config = resolve(**given)
        stored = json.loads(json.dumps(config.to_json()))
        again = PruneSettings.from_json(stored)
        assert again == config
        assert type(again.keep) is type(config.keep)


def test_a_search_comes_only_with_a_searcher_of_the_papers() -> None:
    assert resolve().arms() == ("baseline", "pruned")
    assert resolve(searcher="rarts").arms() == ("baseline", "scored", "pruned")
    assert resolve(search_epochs=1).arms() == ("baseline", "scored", "pruned")
    assert resolve(searcher="l1", search_epochs=0).arms() == ("baseline", "pruned")
    assert resolve(epochs=0, pretrain_epochs=0).arms() == ("pruned",)
    assert resolve(epochs=0).distill is False


def test_what_says_how_much_takes_the_place_of_the_default() -> None:
    assert resolve().budget == {"macs": "50%"}
    for given in ({"ratio": 0.3}, {"accept": {"loss": 0.1}}, {"searcher": "bn", "threshold": 0.1}):
        assert resolve(**given).budget is None
    both = resolve(accept={"loss": 0.1}, budget={"params": "70%"})
    assert both.budget == {"params": "70%"}


def test_darts_by_its_order() -> None:
    assert resolve(searcher="darts").searcher == "darts1"
    assert resolve(searcher="darts", searcher_order=2).searcher == "darts2"
    assert resolve(searcher="darts2").searcher == "darts2"


def test_full_networks_by_default() -> None:
    assert PruneSettings.resolve({"data": "digits"}).width == 16
    assert PruneSettings.resolve({"data": "cifar10"}).model == "preresnet20"
    assert PruneSettings.resolve({"data": "caltech20"}).width is None
    assert PruneSettings.resolve({"data": "digits", "model": "my.nets:build"}).width is None


@pytest.mark.parametrize(
    "given, said",
    [
        (
            {"budget": {"params": 10.0}},
            "the budget of params is 10, and with all removable channels",
        ),
        ({"groups": ("blocks*",)}, r"no group that can be pruned matches 'blocks\*': print"),
        ({"searcher": "rarts", "groups": ("blocks*",)}, r"is called blocks\*: print"),
        ({"budget": {"params": 9e9}}, "within the budget as it is, and nothing would be cut"),
        ({"keep": {"blocks": 0.5}}, "blocks"),
        ({"keep": 1.5}, "keep must be a share of at most 1 or a whole width, but got 1.5"),
        ({"keep": 0}, "keep must be a share below 1 or a whole width of at least 1, but got 0"),
        ({"alike": ("mlp*",)}, r"no group that can be pruned matches 'mlp\*'"),
        (
            {"accept": {"loss": 0.1}},
            "that 200 are needed in all, and .* has 45",
        ),
    ],
)
def test_what_cannot_be_cut_is_said_before_any_work(
    dataset: Dataset, given: dict[str, Any], said: str
) -> None:
    try_widths(resolve(budget={"params": 60.0}), dataset)
    with pytest.raises(RamifyError, match=said):
        try_widths(resolve(**given), dataset)


@pytest.mark.parametrize(
    "given, said",
    [
        ({"ratio": 0.5}, "depth needs a budget of size and no ratio"),
        ({"rounds": 2}, "blocks are dropped in a single cut"),
        ({"searcher": "rarts"}, "blocks are dropped in a single cut"),
        ({"accept": {"accuracy": -1.0}}, "depth needs a budget of size and no accept"),
    ],
)
def test_what_does_not_go_with_depth(given: dict[str, Any], said: str) -> None:
    with pytest.raises(RamifyError, match=said):
        resolve(depth=True, pretrain_epochs=1, **given)


def test_a_folder_from_before_weighted_penalties_is_read() -> None:
    config = resolve(searcher="bn", ratio=0.5, per_layer=True)
    stored = config.to_json()
    assert stored.pop("penalty_by") is None
    assert PruneSettings.from_json(stored) == config
