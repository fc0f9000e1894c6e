"""Shrinking runs: every searcher, interrupted in every phase, and cut in every way."""

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import ramify
from ramify.commands.jobs import Job, Setup, run_jobs, save_unfinished
from ramify.commands.prune import _told, run_phase, try_widths
from ramify.commands.prune_settings import PruneSettings
from ramify.commands.run_folder import RunFolder
from ramify.data import Dataset
from ramify.errors import RamifyError
from ramify.models import build
from ramify.train.width_search import SEARCHERS
from tests.commands.test_jobs import timeless, weights
from tests.stop import Stop

SMALL = {"data": "digits", "width": 4, "epochs": 2, "batch_size": 15, "probe_samples": 20}


def resolve(**given: Any) -> PruneSettings:
    return PruneSettings.resolve({**SMALL, "lr": 0.05, **given})


def start(path: Path, config: PruneSettings) -> RunFolder:
    return RunFolder.create(path, config.to_json())


def run(path: Path, dataset: Dataset, **given: Any) -> RunFolder:
    config = resolve(**given)
    folder = start(path, config)
    run_jobs(config, folder, dataset, run=run_phase)
    return folder


def kinds(folder: RunFolder, kind: str) -> list[dict[str, Any]]:
    return [event for event in folder.events() if event["event"] == kind]


def assert_same(left: RunFolder, right: RunFolder) -> None:
    assert timeless(left) == timeless(right)
    one, two = weights(left), weights(right)
    assert one.keys() == two.keys() != set()
    for name, tensors in one.items():
        assert all(torch.equal(tensors[key], two[name][key]) for key in tensors)
    assert not left.checkpoint.exists()


# ------------------------------------------------------------------ the run


GIVEN: dict[str, dict[str, Any]] = {
    "rarts": {"searcher": "rarts", "ratio": 0.4},
    "takeover": {"seeds": 2, "epochs": 1, "budget": {"params": "60%"}},
    "rounds": {"rounds": 2, "epochs": 1, "budget": {"macs": "50%"}, "distill": False},
}


@pytest.fixture(scope="module", params=GIVEN)
def whole(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, dataset: Dataset
) -> tuple[RunFolder, PruneSettings]:
    """A run without interruption: with a search, without one, and with several cuts."""
    config = resolve(**GIVEN[request.param])
    folder = start(tmp_path_factory.mktemp("runs") / "whole", config)
    run_jobs(config, folder, dataset, run=run_phase)
    return folder, config


def test_interrupted_after_every_event(
    whole: tuple[RunFolder, PruneSettings], tmp_path: Path, dataset: Dataset
) -> None:
    expected, config = whole
    folder = start(tmp_path / "run", config)
    for number in range(2 * len(expected.events())):
        try:
            run_jobs(config, folder, dataset, log=Stop(number % 2), run=run_phase)
        except KeyboardInterrupt:
            save_unfinished(folder)
        else:
            break
    assert_same(expected, folder)


@pytest.mark.parametrize("after", [2, 5, 8])
def test_interrupted_within_an_epoch(
    whole: tuple[RunFolder, PruneSettings], tmp_path: Path, dataset: Dataset, after: int
) -> None:
    expected, config = whole
    folder = start(tmp_path / "run", config)
    with pytest.raises(KeyboardInterrupt):
        run_jobs(config, folder, dataset, ticked=Stop(after), run=run_phase)
    run_jobs(config, folder, dataset, run=run_phase)
    assert_same(expected, folder)


def test_a_run_trains_cuts_and_tunes(tmp_path: Path, dataset: Dataset) -> None:
    folder = run(tmp_path / "run", dataset)
    assert folder.command() == "prune"
    events = folder.events()
    assert [(e["event"], e["job"]) for e in events] == [
        *[("epoch", "baseline-0")] * 2,
        ("stop", "baseline-0"),
        ("result", "baseline-0"),
        ("edit", "pruned-0"),
        ("rate", "pruned-0"),
        *[("epoch", "pruned-0")] * 2,
        ("stop", "pruned-0"),
        ("result", "pruned-0"),
    ]
    full, edit, end = events[3], events[4], events[-1]
    assert all(edit[f"{key}_before"] == full[key] for key in ("params", "macs", "test_accuracy"))
    assert edit["macs_after"] == end["macs"] <= 0.5 * full["macs"]
    assert edit["loss_before"] < edit["loss_after"]
    assert edit["predicted_gain"] < 0
    assert edit["held"]
    assert edit["held_samples"] == 20
    kept = sorted(path.name for path in folder.path.glob("*.safetensors"))
    assert kept == ["baseline-0.safetensors", "model.safetensors"]
    seed = partial(build, "digits_net", dataset_shape=(1, 8, 8), classes=3, width=4)
    small = ramify.load(folder.path / "model", build=seed)
    assert sum(p.numel() for p in small.parameters()) == end["params"]


@pytest.mark.parametrize("searcher", [*SEARCHERS, "darts"])
def test_every_searcher_makes_as_many_steps_and_cuts(
    tmp_path: Path, dataset: Dataset, searcher: str
) -> None:
    given = {"pretrain_epochs": 0, "epochs": 1, "search_epochs": 1, "ratio": 0.4}
    folder = run(tmp_path / "run", dataset, searcher=searcher, **given)
    results = {event["arm"]: event for event in kinds(folder, "result")}
    # Of two batches, in one epoch of 22 and 23 samples.
    assert results["scored"]["steps"] == 2
    assert results["pruned"]["steps"] == 3
    [edit] = kinds(folder, "edit")
    chosen = sum(p["selected"] for p in edit["proposals"])
    assert chosen == math.ceil(0.4 * len(edit["proposals"]))
    assert results["pruned"]["params"] < results["scored"]["params"] == edit["params_before"]


@pytest.mark.parametrize(
    "given, arm",
    [({}, "baseline"), ({"raw": True}, "scored"), ({"threshold": 0.5, "ratio": None}, "scored")],
)
def test_what_is_cut_is_the_full_network_or_that_of_the_search(
    tmp_path: Path, dataset: Dataset, given: dict[str, Any], arm: str
) -> None:
    lengths = {"pretrain_epochs": 1, "epochs": 0, "search_epochs": 1, "ratio": 0.4}
    folder = run(tmp_path / "run", dataset, searcher="rarts", **lengths | given)
    losses = {event["arm"]: event["test_loss"] for event in kinds(folder, "result")}
    assert losses["baseline"] != losses["scored"]
    make = partial(build, "digits_net", dataset_shape=(1, 8, 8), classes=3, width=4)
    before = ramify.load(folder.path / f"{arm}-{folder.config()['seed']}", build=make)
    images, labels = dataset.x_test, dataset.y_test
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(before.eval()(images), labels)
    [edit] = kinds(folder, "edit")
    assert edit["test_loss_before"] == pytest.approx(float(loss), rel=1e-5)


def test_distillation_fresh_weights_and_the_rate_change_the_tuning(
    tmp_path: Path, dataset: Dataset
) -> None:
    runs = {
        name: run(tmp_path / name, dataset, searcher="l1", search_epochs=0, ratio=0.4, **given)
        for name, given in {
            "warm": {"distill": False},
            "taught": {},
            "cooler": {"temperature": 0.1},
            "half": {"tuning_lr": 0.025},
            "slower": {"tuning_lr": 1e-3},
            "fresh": {"from_scratch": True, "distill": False},
        }.items()
    }
    first = {name: kinds(folder, "epoch")[-2] for name, folder in runs.items()}
    assert {event["params"] for event in first.values()} == {first["warm"]["params"]}
    assert len({event["train_loss"] for event in first.values()}) == 6
    assert first["fresh"]["train_loss"] > first["warm"]["train_loss"]
    rates = {name: kinds(folder, "epoch")[-2]["lr"] for name, folder in runs.items()}
    assert rates["half"] == pytest.approx(25 * rates["slower"])  # cosine alike
    [found] = kinds(runs["warm"], "rate")
    assert rates["warm"] == pytest.approx(found["lr"] / 1e-3 * rates["slower"])
    assert {name for name, folder in runs.items() if kinds(folder, "rate")} == {
        "warm",
        "taught",
        "cooler",
    }
    [edit] = kinds(runs["fresh"], "edit")  # it measures the cut, not the fresh weights
    [other] = kinds(runs["warm"], "edit")
    assert edit["test_accuracy_after"] == other["test_accuracy_after"]


# ------------------------------------------------------------------ how much is cut


def after(path: Path, dataset: Dataset, **given: Any) -> dict[str, Any]:
    base = {"pretrain_epochs": 0, "search_epochs": 0, "epochs": 0}
    [edit] = kinds(run(path, dataset, **base | given), "edit")
    return edit


def test_a_share_of_every_layer(tmp_path: Path, dataset: Dataset) -> None:
    edit = after(tmp_path / "run", dataset, searcher="random", per_layer=True, ratio=0.5)
    assert edit["widths_after"] == {"layer1.0": 2, "layer2.0": 2, "layer3.0": 2, "head": 3}


def test_a_penalty_by_cost_reaches_the_search(tmp_path: Path, dataset: Dataset) -> None:
    given = {"searcher": "bn", "search_epochs": 1, "gamma": 0.5, "ratio": 0.5, "raw": True}
    plain, weighted = (
        after(tmp_path / str(by), dataset, **given, penalty_by=by)["proposals"]
        for by in (None, "macs")
    )
    assert [p["score"] for p in plain] != [p["score"] for p in weighted]


def test_budgets(tmp_path: Path, dataset: Dataset) -> None:
    one = after(tmp_path / "one", dataset, budget={"params": 250.0, "macs": "80%"})
    assert one["params_after"] <= 250 < one["params_before"]
    assert one["macs_after"] <= 0.8 * one["macs_before"]
    assert one["budget"] == {"params": 250.0, "macs": 0.8 * one["macs_before"]}
    two = after(tmp_path / "two", dataset, searcher="l1", budget={"params": "70%"})
    assert two["params_after"] <= 0.7 * two["params_before"]


def test_multiples(tmp_path: Path, dataset: Dataset) -> None:
    edit = after(tmp_path / "run", dataset, searcher="random", multiple_of=2, ratio=0.5)
    changed = set(edit["widths_after"].values()) - {3}
    assert changed <= {2, 4}
    assert 2 in changed


def test_chosen_groups(tmp_path: Path, dataset: Dataset) -> None:
    given = {"groups": ("*2.0", "layer3*"), "ratio": 0.5}
    for searcher, epochs in (("rarts", 1), ("l1", 0)):
        found = run(
            tmp_path / searcher,
            dataset,
            searcher=searcher,
            search_epochs=epochs,
            pretrain_epochs=0,
            **given,
        )
        [edit] = kinds(found, "edit")
        assert {p["group"] for p in edit["proposals"]} == {"layer2.0", "layer3.0"}
        assert edit["widths_after"]["layer1.0"] == 4


def test_layers_that_stay_alike(tmp_path: Path, dataset: Dataset) -> None:
    given = {"searcher": "random", "seed": 9, "ratio": 0.5, "keep": 1, "raw": True}
    free = after(tmp_path / "free", dataset, **given)["widths_after"]
    tied = after(tmp_path / "tied", dataset, **given, alike=("layer[23]*",))["widths_after"]
    assert free["layer2.0"] != free["layer3.0"]
    assert tied["layer2.0"] == tied["layer3.0"] < 4


@pytest.mark.parametrize(
    ("keep", "least"),
    [
        (0.75, {"layer1.0": 3, "layer2.0": 3, "layer3.0": 3}),
        (2, {"layer1.0": 2, "layer2.0": 2, "layer3.0": 2}),
        ({"layer1.0": 4, "layer3.0": 0.5}, {"layer1.0": 4, "layer2.0": 1, "layer3.0": 2}),
    ],
)
def test_a_floor_of_every_layer_or_of_some(
    tmp_path: Path, dataset: Dataset, keep: Any, least: dict[str, int]
) -> None:
    edit = after(tmp_path / "run", dataset, searcher="random", raw=True, keep=keep, ratio=1.0)
    assert {name: edit["widths_after"][name] for name in least} == least


def test_scores_as_they_are_or_over_the_mean_of_their_layer(
    tmp_path: Path, dataset: Dataset
) -> None:
    given = {"searcher": "bn", "search_epochs": 1, "gamma": 0.5, "ratio": 0.5, "keep": 1}
    raw = after(tmp_path / "raw", dataset, **given, raw=True)
    fair = after(tmp_path / "fair", dataset, **given)
    for name in ("layer1.0", "layer2.0", "layer3.0"):
        ones, others = (
            {p["channel"]: p["score"] for p in edit["proposals"] if p["group"] == name}
            for edit in (raw, fair)
        )
        mean = -sum(ones.values()) / len(ones)
        assert others == pytest.approx({channel: score / mean for channel, score in ones.items()})
        assert mean != pytest.approx(1, rel=1e-3)


def test_a_refit_loses_less(tmp_path: Path, dataset: Dataset) -> None:
    given = {"searcher": "l1", "ratio": 0.5, "pretrain_epochs": 3, "probe_samples": 22}
    edits = [after(tmp_path / str(refit), dataset, refit=refit, **given) for refit in (True, False)]
    with_it, without = edits
    assert with_it["widths_after"] == without["widths_after"]
    assert with_it["loss_after"] < without["loss_after"]
    assert without["refitted"] == []
    assert with_it["refitted"]


def test_rounds_approach_the_budget_by_equal_factors(tmp_path: Path, dataset: Dataset) -> None:
    folder = run(tmp_path / "run", dataset, rounds=2, epochs=1, budget={"params": "49%"})
    one, two = kinds(folder, "edit")
    full = one["params_before"]
    assert 0.49 * full < one["params_after"] <= 0.7 * full
    assert two["params_before"] == one["params_after"]
    assert two["params_after"] <= 0.49 * full
    assert [e["round"] for e in kinds(folder, "epoch") if e["arm"] == "pruned"] == [0, 1]


@pytest.mark.parametrize("searcher", ["rarts", "bn"])
def test_a_strong_penalty_learns_the_ratio(tmp_path: Path, dataset: Dataset, searcher: str) -> None:
    given = {"searcher": searcher, "threshold": 0.2, "search_epochs": 8, "momentum": 0.0}
    cuts = {
        gamma: after(tmp_path / str(gamma), dataset, gamma=gamma, **given) for gamma in (0.0, 2.2)
    }
    counts = [sum(p["selected"] for p in edit["proposals"]) for edit in cuts.values()]
    assert counts[0] == 0 < counts[1] < 12
    for edit in cuts.values():
        assert all(p["score"] >= -0.2 for p in edit["proposals"] if p["selected"])


# ------------------------------------------------------------------ settings


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


# ------------------------------------------------------------------ depth


def test_blocks_may_go_too_and_a_run_goes_on_across_that(tmp_path: Path, dataset: Dataset) -> None:
    name = "tests.block_nets:stream"
    given = {"model": name, "width": None, "budget": {"macs": "70%"}, "depth": True, "epochs": 1}
    config = resolve(**given)
    folder = start(tmp_path / "whole", config)
    run_jobs(config, folder, dataset, run=run_phase)
    [edit] = kinds(folder, "edit")
    assert edit["macs_after"] <= 0.7 * edit["macs_before"]
    assert edit["widths_before"].keys() == edit["widths_after"].keys()
    assert edit["drops"]
    seed = partial(build, name, dataset_shape=(1, 8, 8), classes=3)
    small = ramify.load(folder.path / "model", build=seed)
    assert len(small) == 9 - len(edit["drops"])
    again = start(tmp_path / "again", config)
    with pytest.raises(KeyboardInterrupt):
        run_jobs(
            config, again, dataset, ticked=Stop(len(kinds(folder, "epoch")) - 1), run=run_phase
        )
    run_jobs(config, again, dataset, run=run_phase)
    assert_same(folder, again)


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


def test_the_samples_held_out_are_those_of_all_processes(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of two has its own part of them, as `all_sum` adds it up."""
    monkeypatch.setattr("ramify.distributed.all_sum", lambda each: [2 * one for one in each])
    setup = Setup(resolve(), RunFolder(tmp_path), dataset, lambda event: None, lambda share: None)
    held = [(dataset.x_train[:3], dataset.y_train[:3])]
    assert _told(setup, Job("pruned", 0), held, None)["tags"]["held_samples"] == 6


def test_a_folder_from_before_weighted_penalties_is_read() -> None:
    config = resolve(searcher="bn", ratio=0.5, per_layer=True)
    stored = config.to_json()
    assert stored.pop("penalty_by") is None
    assert PruneSettings.from_json(stored) == config
