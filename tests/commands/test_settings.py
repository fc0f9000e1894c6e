"""Settings: what is filled in, what excludes what, and what comes back from disk."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ramify import Bottlenecks, GradMax, SplittingDescent, Threshold, TopFraction
from ramify.commands import grow_settings, prune_settings, search_settings
from ramify.commands.defaults import DATA_SETS, TABLE
from ramify.commands.grow_settings import GrowSettings
from ramify.commands.prune_settings import PruneSettings
from ramify.commands.retrain_settings import RetrainCellsSettings
from ramify.commands.search_settings import SearchSettings
from ramify.commands.settings import PANELS
from ramify.cost import RESOURCES
from ramify.data import NAMES as DATA_NAMES
from ramify.errors import RamifyError
from ramify.methods import GaussNewton
from ramify.methods.gauss_newton import CURVATURES
from ramify.methods.registry import METHODS
from ramify.relax.registry import NAMES as SEARCHERS
from ramify.select import BUDGETS, BudgetKnapsack, TradeOff
from ramify.select.registry import RULES
from ramify.select.width_bounds import WidthBounds
from ramify.train.rounds import default_rule
from ramify.train.width_search import SEARCHERS as WIDTH_SEARCHERS


@pytest.mark.parametrize("data", [*DATA_SETS, "some/folder"])
def test_a_data_set_alone_is_enough(data: str) -> None:
    config = GrowSettings.resolve({"data": data})
    assert config.data == data
    assert config.rounds > 0
    assert config.width is not None
    assert GrowSettings.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_what_is_given_goes_before_any_default() -> None:
    given = {
        "data": "digits",
        "model": "vgg19",
        "width": 3,
        "rounds": 0,
        "epochs": 7,
        "batch_size": 9,
        "optimizer": "sgd",
        "lr": 0.25,
        "momentum": 0.5,
        "nesterov": True,
        "weight_decay": 0.0,
        "schedule": "steps",
        "milestones": (0.25,),
        "span": "run",
        "warmup": 0.25,
        "label_smoothing": 0.125,
        "patience": 3,
        "total_epochs": 9,
        "method": "s3d",
        "budget": {"params": 1e4},
        "keep": 2,
        "ceiling": {"layer1*": 32},
        "groups": ("layer1*", "layer2.0"),
        "per": "macs",
        "per_layer": True,
        "signed": 2.0,
        "copies": (2, 4),
        "multiple_of": 2,
        "fraction": 0.125,
        "step": 0.5,
        "step_unit": "absolute",
        "surrogate": 2.0,
        "trial": False,
        "rescale": False,
        "bottlenecks": True,
        "depth": True,
        "probe_samples": 11,
        "seed": 5,
        "seeds": 2,
        "sizes": (5000, 2500),
        "tuning_epochs": 3,
        "compare": True,
        "task": "classification",
        "device": "cuda:1",
        "threads": 3,
        "tensorboard": False,
    }
    config = GrowSettings.resolve(given)
    absent = ("most", "threshold", "tradeoff", "phase", *grow_settings.LEARNED)
    as_json = {"command": "grow", "rule": "top-fraction", "milestones": [0.25], "copies": [2, 4]}
    as_json |= {"sizes": [5000, 2500], "groups": ["layer1*", "layer2.0"]}
    assert config.to_json() == given | as_json | dict.fromkeys(absent)
    training = config.training()
    assert (training.epochs, training.warmup, training.lr) == (7, 0.25, 0.25)
    assert (training.momentum, training.weight_decay, training.schedule) == (0.5, 0.0, "steps")
    assert (training.nesterov, training.milestones, training.span) == (True, (0.25,), "run")
    assert training.patience == 3
    method = SplittingDescent(signed=2.0, copies=(2, 4), step=0.5, surrogate=2.0)
    assert config.growth(seed=5) == Bottlenecks(method)
    assert config.selection() == TopFraction(0.125, multiple_of=2, per="macs", per_group=True)
    assert config.bounds() == WidthBounds(2, {"layer1*": 32}, ("layer1*", "layer2.0"))
    grown, compared = ("grown", "cut-5000", "cut-2500"), ("wide-5000", "wide-2500")
    assert config.arms() == (*grown, "scratch", "wide", *compared)


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"method": "s2d"}, TopFraction(0.35)),
        ({"most": 4}, Threshold(4, 0.0)),
        ({"threshold": -0.5}, Threshold(None, -0.5)),
        ({"most": 4, "threshold": -0.5}, Threshold(4, -0.5)),
    ],
)
def test_a_number_or_a_threshold_takes_the_place_of_the_share(
    given: dict[str, Any], rule: object
) -> None:
    assert GrowSettings.resolve({"data": "digits"} | given).selection() == rule


@pytest.mark.parametrize(
    ("given", "method"),
    [
        ({}, "gauss-newton"),
        ({"phase": 2}, "gauss-newton"),
        ({"step": 0.2}, "s2d"),
        ({"probe_samples": 64}, "s2d"),
        ({"signed": 1.2, "step": 0.2}, "s3d"),
        ({"step_unit": "absolute", "rule": "threshold", "most": 2}, "s2d"),
        ({"method": "random", "step": 0.2}, "random"),
    ],
)
def test_the_method_is_one_that_takes_what_is_given(given: dict[str, Any], method: str) -> None:
    assert GrowSettings.resolve({"data": "digits"} | given).method == method


def test_gauss_newton_follows_its_paper() -> None:
    config = GrowSettings.resolve({"data": "digits", "method": "gauss-newton", "epochs": 7})
    assert config.growth(seed=3) == GaussNewton(epochs=7, seed=3, curvature="fisher")
    assert config.selection() == TradeOff(params=3e-7, per_group=0.3)
    assert (config.schedule, config.milestones, config.span) == ("steps", (0.5, 0.75), "run")
    given = {"phase": 2, "tradeoff": 1e-6, "fraction": 0.5, "schedule": "cosine", "span": "round"}
    config = GrowSettings.resolve({"data": "digits", "method": "gauss-newton"} | given)
    assert config.growth(seed=0) == GaussNewton(epochs=2, curvature="fisher")
    assert config.selection() == TradeOff(params=1e-6, per_group=0.5)
    assert (config.schedule, config.span, config.probe_samples) == ("cosine", "round", None)


@pytest.mark.parametrize("budget", [None, {"params": 1200.0}])
def test_python_and_the_command_select_alike_by_default(budget: dict[str, float] | None) -> None:
    config = GrowSettings.resolve({"data": "digits"} | ({"budget": budget} if budget else {}))
    assert default_rule(GaussNewton(), config.budget) == config.selection()
    assert config.growth(0) == GaussNewton(epochs=config.phase or 0, curvature="fisher")


def test_gauss_newton_has_every_setting_of_its_paper() -> None:
    learned = {"radius": 0.0, "curvature": "gauss-newton", "morphism_lr": 0.02}
    given = {"data": "digits", "method": "gauss-newton", "phase": 20, **learned}
    config = GrowSettings.resolve(given | {"morphism_momentum": 0.00064})
    method = GaussNewton(radius=None, lr=0.02, momentum=0.00064, epochs=20)
    assert config.growth(seed=0) == method
    old = GrowSettings.resolve(given | {"radius": 1.0, "morphism_lr": 0.01}).to_json()
    old = {name: value for name, value in old.items() if name not in grow_settings.LEARNED}
    assert GrowSettings.from_json(old).growth(seed=0) == GaussNewton(epochs=20)
    assert set(grow_settings.CURVATURES) == set(CURVATURES)


def test_the_knapsack_weighs_numbers_of_copies_against_each_other() -> None:
    given = {"data": "digits", "method": "s3d", "rule": "knapsack", "budget": {"params": 2e3}}
    method = SplittingDescent(signed=1.3, copies=(2, 3, 4), step=0.1, unit="kernel")
    config = GrowSettings.resolve(given)
    assert config.selection() == BudgetKnapsack({"params": 2e3})
    assert config.growth(seed=0) == replace(method, best_of_each=True)
    few = GrowSettings.resolve(given | {"copies": (2,)})
    assert few.growth(seed=0) == replace(method, copies=(2,), best_of_each=True)
    top = GrowSettings.resolve({"data": "digits", "method": "s3d", "copies": (2, 3, 4)})
    assert top.growth(seed=0) == method


def test_no_surrogate_means_the_true_curvature() -> None:
    config = GrowSettings.resolve({"data": "digits", "surrogate": 0.0})
    assert config.growth(seed=0) == SplittingDescent(step=0.1, unit="kernel", surrogate=None)


def test_a_function_of_the_user_is_not_forced_to_take_a_width() -> None:
    assert GrowSettings.resolve({"data": "digits", "model": "my.net:build"}).width is None
    given = {"data": "digits", "model": "my.net:build", "width": 8}
    assert GrowSettings.resolve(given).width == 8


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"fraction": 0.5, "most": 3}, "fraction was given together with most or threshold"),
        ({"fraction": 1.5}, "fraction is 1.5; it must be above 0 and at most 1"),
        ({"most": 0}, r"most \(m_\* in S2D\) must"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"probe_samples": 0}, "probe_samples is 0"),
        ({"seeds": 0}, "seeds is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"threads": 100_000}, "threads is 100000; it must be at least 1 and at most 1024"),
        ({"seed": -1}, "seed is -1; it must be at least 0"),
        (
            {"seed": 10**30},
            "seed is 1000000000000000000000000000000; it must be between -2147483647",
        ),
        ({"seeds": 10**9}, "seeds is 1000000000; it must be at least 1 and at most 100000"),
        ({"epochs": 10**400}, "epochs is 10000.*…; it must be between"),
        ({"lr": 1e308}, r"lr is 1e\+308; it must be between -1e\+38 and 1e\+38"),
        ({"rounds": -1}, "rounds is -1; give a whole number"),
        ({"epochs": 0}, "epochs is 0"),
        ({"patience": 0}, "patience is 0; it must be at least 1"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0; it must be at least 0 and below 1"),
        ({"step": 0.0}, "step must be positive"),
        ({"method": "magic"}, "there is no method 'magic'; choose one of s2d, s3d"),
        (
            {"signed": 1.5, "method": "s2d"},
            "signed is not a setting of the method s2d, only of",
        ),
        ({"ceiling": {"layer1*": 0}}, "ceiling must be a whole number of channels of at least 1"),
        ({"keep": True}, "keep is True, which is not a whole number or a table of numbers"),
        (
            {"per": "latency"},
            "there is no per 'latency'; choose one of params, macs, flops, energy",
        ),
        ({"per": "params", "method": "random"}, "per ranks gains per cost, but random"),
        ({"per": "params", "most": 3}, "per is not a setting of the rule threshold"),
        (
            {"radius": 1.0, "method": "s2d"},
            "radius is not a setting of the method s2d, only of gauss-newton",
        ),
        ({"method": "gauss-newton", "curvature": "x"}, "there is no curvature 'x'; choose one of"),
        ({"method": "gauss-newton", "morphism_lr": 0.0}, "morphism_lr is 0.0; it must be above 0"),
        ({"method": "s3d", "copies": (5,)}, "copies must be a tuple of some of 2, 3 and 4"),
        (
            {"budget": {"weights": 1.0}},
            "no budget of 'weights'; give params, macs, flops, energy, latency",
        ),
        ({"budget": {"params": 0.0}}, "the budget of params is 0.0; give a number above 0"),
        ({"optimizer": "adam", "momentum": 0.5}, "momentum is a setting of sgd, not of adam"),
        ({"optimizer": "adam", "nesterov": True}, "nesterov is a setting of sgd, not of adam"),
        (
            {"milestones": (0.5,), "method": "s2d"},
            "milestones are a setting of the schedule steps, not of cosine",
        ),
        ({"schedule": "steps", "milestones": (0.5, 0.1)}, "give rising shares between 0 and 1"),
        ({"span": "epoch"}, "unknown span 'epoch'"),
        ({"optimizer": "lion"}, "unknown optimizer 'lion'"),
    ],
)
def test_settings_out_of_range_are_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RamifyError, match=message):
        GrowSettings.resolve({"data": "digits"} | given)


@pytest.mark.parametrize("change", [{"lr": None}, {"momentun": 0.9}])
def test_settings_of_another_version_are_named(change: dict[str, Any]) -> None:
    values = GrowSettings.resolve({"data": "digits"}).to_json()
    values = {k: v for k, v in (values | change).items() if change.get(k, 0) is not None}
    with pytest.raises(RamifyError, match=rf"{next(iter(change))} is missing or unknown"):
        GrowSettings.from_json(values)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("lr", "0.1", "config.json gives lr as '0.1', which is not a number; restore it"),
        ("epochs", 2.5, "epochs as 2.5, which is not a whole number"),
        ("rounds", True, "rounds as True, which is not a whole number"),
        ("compare", 1, "compare as 1, which is not true or false"),
        ("data", None, "data as None, which is not a text"),
        ("width", "4", "width as '4', which is not a whole number or null"),
        ("milestones", 0.5, "milestones as 0.5, which is not a list of numbers"),
        ("milestones", [0.5, "x"], "which is not a list of numbers"),
        ("budget", {"params": "many"}, "which is not a table of numbers or null"),
        ("lr", -1.0, "the learning rate is -1.0; it must be above 0"),
    ],
)
def test_a_setting_changed_by_hand_is_named(name: str, value: object, words: str) -> None:
    values = GrowSettings.resolve({"data": "digits"}).to_json()
    with pytest.raises(RamifyError, match=words):
        GrowSettings.from_json(values | {name: value})


def test_a_whole_number_will_do_for_a_number() -> None:
    values = GrowSettings.resolve({"data": "digits"}).to_json()
    assert GrowSettings.from_json(values | {"lr": 1}).lr == 1


def test_without_a_budget_a_network_changes_early_and_trains_on() -> None:
    early = GrowSettings.resolve({"data": "digits"})
    assert (early.rounds, early.epochs, early.total_epochs, early.phase) == (4, 5, 100, 3)
    assert (early.schedule, early.span, early.rule) == ("cosine", "run", "trade-off")
    assert early.passes() == 100 + 4 * 3
    shorter = GrowSettings.resolve({"data": "digits", "total_epochs": 40})
    assert (shorter.rounds, shorter.epochs, shorter.total_epochs) == (4, 2, 40)
    for by_hand in ({"epochs": 20}, {"rounds": 4}, {"span": "run"}):
        planned = GrowSettings.resolve({"data": "digits"} | by_hand)
        assert (planned.rounds, planned.epochs, planned.total_epochs) == (4, 20, None)
        assert planned.schedule == "steps"
    assert GrowSettings.resolve({"data": "digits", "method": "s2d"}).total_epochs is None
    with pytest.raises(RamifyError, match="total_epochs is 5, and epochs=2 before each of 4 edits"):
        GrowSettings.resolve({"data": "digits", "epochs": 2, "total_epochs": 5})


def test_with_a_budget_the_epochs_are_made_in_many_rounds_of_one_schedule() -> None:
    given = {"data": "digits", "budget": {"params": 900}}
    usual = GrowSettings.resolve({"data": "digits", "method": "s2d"})
    for method in ("s2d", "gauss-newton"):
        early = GrowSettings.resolve(given | {"method": method})
        assert (early.rounds, early.span) == (19, "run")
        assert early.epochs * 20 == usual.epochs * (usual.rounds + 1)
    assert GrowSettings.resolve(given).fraction == 0.5
    assert GrowSettings.resolve(given | {"fraction": 0.2}).fraction == 0.2
    every = [{}, {"method": "s2d"}, {"per": "macs"}, {"method": "taylor"}, {"per_layer": False}]
    per_layer = [GrowSettings.resolve(given | own).per_layer for own in every]
    assert per_layer == [True, True, False, False, False]
    assert GrowSettings.resolve(given).selection() == TopFraction(0.5, per_group=True)
    assert GrowSettings.resolve(given | {"rule": "threshold", "most": 3}).per_layer is None
    assert GrowSettings.resolve(given | {"rounds": 3}).rounds == 3
    kept = GrowSettings.resolve(given | {"epochs": 7})
    assert (kept.epochs, kept.rounds) == (7, 19)
    again = GrowSettings.resolve(given | {"span": "round"})
    assert (again.epochs, again.rounds, again.span) == (usual.epochs, 20, "round")
    shared = GrowSettings.resolve(given | {"rule": "knapsack"})
    assert (shared.epochs, shared.rounds) == (usual.epochs, usual.rounds)


def test_names_in_the_help_are_those_of_the_library() -> None:
    """The help imports no torch, so it has names of its own."""
    own = grow_settings.OWN
    assert {*METHODS, own} == set(grow_settings.METHODS)
    assert {*RULES, own} == set(grow_settings.RULES)
    assert {*WIDTH_SEARCHERS, "darts", own} == set(prune_settings.SEARCHERS)
    assert {*SEARCHERS, "random", own} == set(search_settings.SEARCHERS)
    assert set(DATA_SETS) == set(DATA_NAMES)
    assert all(name in grow_settings.BUDGETS for name in BUDGETS)
    assert grow_settings.RESOURCES == RESOURCES


def test_every_default_is_of_a_setting() -> None:
    kinds = (GrowSettings, PruneSettings, SearchSettings, RetrainCellsSettings)
    for conditions, values in TABLE:
        wanted = conditions.get("kind", tuple(kind.kind for kind in kinds))
        names = set().union(*(kind.model_fields for kind in kinds if kind.kind in wanted))
        assert set(values) <= names


@pytest.mark.parametrize(
    "given", [{}, {"method": "gauss-newton"}, {"most": 3}, {"threshold": -1.0}]
)
def test_a_folder_from_before_the_rule_had_a_name(given: dict[str, Any]) -> None:
    config = GrowSettings.resolve({"data": "digits", **given})
    old = {name: value for name, value in config.to_json().items() if name != "rule"}
    assert GrowSettings.from_json(old) == config


def test_every_option_has_a_panel_and_a_help() -> None:
    for kind in (GrowSettings, PruneSettings, SearchSettings, RetrainCellsSettings):
        assert kind.options()
        for name, told in kind.options().items():
            assert told["panel"] in PANELS
            assert len(str(kind.model_fields[name].description).split()) > 1
            for selector, takers in told["of"].items():
                known = kind.options()[selector]["choices"]
                assert not known or set(takers) <= set(known)


def test_a_file_with_a_wrong_type_or_of_another_command_is_told_so(tmp_path: Path) -> None:
    (path := tmp_path / "mine.json").write_text('{"data": "digits", "method": 3}')
    with pytest.raises(RamifyError, match="there is no method 3; choose one of"):
        GrowSettings.resolve({}, GrowSettings.of_file(path, {}))
    path.write_text('{"data": "digits", "lr": "x"}')
    with pytest.raises(
        RamifyError, match="lr is 'x', which is not a number; correct it where it is"
    ):
        GrowSettings.resolve({}, GrowSettings.of_file(path, {}))
    path.write_text('{"command": "prune"}')
    with pytest.raises(RamifyError, match="settings of ramify grow but of ramify prune; give"):
        GrowSettings.of_file(path, {})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 5000, "it is nested too deeply"),
        ("data: 2020-01-01", "gives data as datetime.date.2020, 1, 1., which is not a text"),
        ("1: 2", "does not hold settings of ramify grow"),
    ],
)
def test_a_yaml_file_of_something_else_is_told_so(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    with pytest.raises(RamifyError, match=words):
        GrowSettings.of_file(file, {})


def test_growth_of_bottlenecks_adds_new_neurons_and_doubles_layers_by_default() -> None:
    given = {"data": "digits", "budget": {"params": 1e4}, "bottlenecks": True}
    config = GrowSettings.resolve(given)
    assert config.growth(seed=0) == Bottlenecks(GradMax(lr=config.lr))
    assert config.selection() == TopFraction(1.0, per_group=True)
    config = GrowSettings.resolve(given | {"step": 0.2})
    assert config.growth(seed=0) == Bottlenecks(SplittingDescent(step=0.2, unit="kernel"))
