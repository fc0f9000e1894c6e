"""A grown network that is cut to smaller sizes in the same run."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ramify.commands import jobs
from ramify.commands.grow import prepare_grow, run_grow
from ramify.commands.grow_settings import GrowSettings
from ramify.commands.jobs import Setup, save_unfinished
from ramify.commands.run_folder import RunFolder
from ramify.cost import graph_cost
from ramify.data import Dataset
from ramify.errors import RamifyError
from ramify.store.model import load
from ramify.tracing import trace

Make = Callable[..., GrowSettings]
run_jobs = partial(jobs.run_jobs, run=run_grow)
SIZES = (200, 150)


@pytest.fixture(scope="module")
def settings(config: Make) -> GrowSettings:
    """A network of 111 parameters that grows to 300, and is cut to 200 and 150."""
    given = {"method": "s2d", "budget": {"params": 300.0}, "rounds": 3, "epochs": 1}
    return config(**given, sizes=SIZES, tuning_epochs=2, compare=True)


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, settings: GrowSettings, dataset: Dataset
) -> RunFolder:
    folder = RunFolder.create(tmp_path_factory.mktemp("runs") / "whole", settings.to_json())
    run_jobs(settings, folder, dataset)
    return folder


def results(folder: RunFolder) -> dict[str, dict[str, Any]]:
    return {e["arm"]: e for e in folder.events() if e["event"] == "result"}


def test_every_size_is_cut_from_the_one_above_and_tuned(
    whole: RunFolder, settings: GrowSettings, dataset: Dataset
) -> None:
    found = results(whole)
    grown = ("grown", "cut-200", "cut-150")
    assert tuple(found) == (*grown, "scratch", "wide", "wide-200", "wide-150")
    assert 200 < found["grown"]["params"] <= 300
    assert 150 < found["cut-200"]["params"] <= 200
    assert found["cut-150"]["params"] <= 150
    assert found["cut-200"]["steps"] == found["cut-150"]["steps"] == 2 * 3  # epochs, batches
    assert abs(found["wide-150"]["params"] - 150) < 30
    assert found["wide-150"]["steps"] == found["grown"]["steps"]
    cuts = [e for e in whole.events() if e["event"] == "edit" and e["arm"] != "grown"]
    above = [found[arm]["params"] for arm in grown[:2]]
    assert [cut["params_before"] for cut in cuts] == above
    assert all(proposal["copies"] == 0 for cut in cuts for proposal in cut["proposals"])
    setup = Setup(settings, whole, dataset, lambda event: None, lambda share: None)
    for size in SIZES:
        net = load(whole.path / f"size-{size}", setup.build)
        assert graph_cost(trace(net, dataset.x_test[:1])).params == found[f"cut-{size}"]["params"]
        assert setup.measures(net)["test_loss"] == pytest.approx(
            found[f"cut-{size}"]["test_loss"], rel=1e-5
        )


def test_interrupted_after_any_event_it_ends_the_same(
    tmp_path: Path, config: Make, dataset: Dataset
) -> None:
    def stop(event: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    given = {"method": "s2d", "budget": {"params": 300.0}, "rounds": 1, "epochs": 1}
    settings = config(**given, sizes=(200, 150), tuning_epochs=1)
    whole, folder = (
        RunFolder.create(tmp_path / name, settings.to_json()) for name in ("whole", "run")
    )
    run_jobs(settings, whole, dataset)
    for _ in range(100):
        try:
            run_jobs(settings, folder, dataset, log=stop)
            break
        except KeyboardInterrupt:
            save_unfinished(folder)
            torch.manual_seed(99)
    assert [e | {"t": 0, "seconds": 0} for e in folder.events()] == [
        e | {"t": 0, "seconds": 0} for e in whole.events()
    ]
    for name in ("model", "size-200", "size-150"):
        one, other = (load_file(run.path / f"{name}.safetensors") for run in (folder, whole))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_size_that_growth_did_not_reach_is_only_tuned(
    tmp_path: Path, config: Make, dataset: Dataset
) -> None:
    given = {"method": "s2d", "budget": {"params": 900.0}, "rounds": 1, "epochs": 1}
    settings = config(**given, sizes=(600,))
    folder = RunFolder.create(tmp_path / "run", settings.to_json())
    run_jobs(settings, folder, dataset)
    found = results(folder)
    assert found["cut-600"]["params"] == found["grown"]["params"] < 600
    assert (folder.path / "size-600.safetensors").exists()
    assert [e["arm"] for e in folder.events() if e["event"] == "edit"] == ["grown"]


def test_a_size_below_the_seed_network_is_refused_before_any_work(
    config: Make, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ramify.commands.jobs.load", lambda name: dataset)
    with pytest.raises(RamifyError, match=r"smallest of the sizes is 50 .* already has 111"):
        prepare_grow(config(budget={"params": 300.0}, sizes=(200, 50)))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"sizes": (200,)}, "sizes need a budget of parameters for the growth"),
        ({"sizes": (200,), "budget": {"macs": 1e5}}, "give one, such as --budget params=3600"),
        ({"sizes": (200, 200)}, "decreasing numbers of parameters below the budget of 300"),
        ({"sizes": (300,)}, "such as 150,75"),
        ({"sizes": (200, 0)}, "sizes are 200, 0"),
        ({"tuning_epochs": 3}, "tuning_epochs needs sizes"),
    ],
)
def test_sizes_that_make_no_sense(config: Make, given: dict[str, Any], words: str) -> None:
    budget = {} if given.get("sizes") == (200,) else {"budget": {"params": 300.0}}
    with pytest.raises(RamifyError, match=words):
        config(**budget | given)


def test_what_is_left_open(config: Make) -> None:
    settings = config(budget={"params": 300.0}, sizes=(200,), epochs=5, rounds=3)
    assert settings.tuning_epochs == 4  # a fifth of 20
    tuning = settings.tuning()
    assert (tuning.epochs, tuning.lr, tuning.warmup) == (4, settings.lr / 2, 0.1)
    assert settings.arms() == ("grown", "cut-200")
    assert settings.passes() == 20 + 4 + 3 * (settings.phase or 0)
    assert config().tuning_epochs is None
