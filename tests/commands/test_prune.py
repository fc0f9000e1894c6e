"""Shrinking runs: every searcher, interrupted in every phase, and cut in every way."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import ramify
from ramify.commands.jobs import Job, Setup, run_jobs, save_unfinished
from ramify.commands.prune import _told, run_phase
from ramify.commands.prune_settings import PruneSettings
from ramify.commands.run_folder import RunFolder
from ramify.data import Dataset
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


def test_the_samples_held_out_are_those_of_all_processes(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of two has its own part of them, as `all_sum` adds it up."""
    monkeypatch.setattr("ramify.distributed.all_sum", lambda each: [2 * one for one in each])
    setup = Setup(resolve(), RunFolder(tmp_path), dataset, lambda event: None, lambda share: None)
    held = [(dataset.x_train[:3], dataset.y_train[:3])]
    assert _told(setup, Job("pruned", 0), held, None)["tags"]["held_samples"] == 6
