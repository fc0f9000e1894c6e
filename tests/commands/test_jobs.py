"""Whole runs: interrupted anywhere and resumed they end as if nothing had happened."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy

from ramify.commands import jobs
from ramify.commands.grow import run_grow
from ramify.commands.grow_settings import GrowSettings
from ramify.commands.jobs import Shuffled, plan, prepare, save_unfinished, settle_metrics
from ramify.commands.run_folder import RunFolder
from ramify.data import Dataset
from ramify.errors import RamifyError
from ramify.report import results_table
from ramify.store.model import load
from tests.stop import Stop

Make = Callable[..., GrowSettings]
run_jobs = partial(jobs.run_jobs, run=run_grow)
TIMES = ("t", "seconds")


def timeless(folder: RunFolder) -> list[dict[str, Any]]:
    return [{k: v for k, v in event.items() if k not in TIMES} for event in folder.events()]


def weights(folder: RunFolder) -> dict[str, dict[str, torch.Tensor]]:
    files = sorted(folder.path.glob("model*.safetensors"))
    return {file.name: load_file(file) for file in files}


def assert_same(left: RunFolder, right: RunFolder) -> None:
    assert timeless(left) == timeless(right)
    one, two = weights(left), weights(right)
    assert one.keys() == two.keys() != set()
    for name, tensors in one.items():
        assert tensors.keys() == two[name].keys()
        assert all(torch.equal(tensors[key], two[name][key]) for key in tensors)
    tables = [results_table(folder.events()) for folder in (left, right)]
    for row in tables[0] + tables[1]:
        row["seconds"] = {"mean": 0.0, "sd": None}
    assert tables[0] == tables[1]
    assert not left.checkpoint.exists()


def start(path: Path, config: GrowSettings) -> RunFolder:
    return RunFolder.create(path, config.to_json())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, config: Make, dataset: Dataset) -> RunFolder:
    """A run of two seeds and every arm without interruption."""
    settings = config(compare=True, seeds=2)
    folder = start(tmp_path_factory.mktemp("runs") / "whole", settings)
    run_jobs(settings, folder, dataset)
    return folder


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory, config: Make, dataset: Dataset) -> RunFolder:
    """The same of one seed."""
    settings = config(compare=True)
    folder = start(tmp_path_factory.mktemp("runs") / "single", settings)
    run_jobs(settings, folder, dataset)
    return folder


def test_every_arm_makes_as_many_steps(whole: RunFolder) -> None:
    results = [event for event in whole.events() if event["event"] == "result"]
    assert [event["job"] for event in results] == [
        f"{arm}-{seed}" for seed in (0, 1) for arm in ("grown", "seed", "scratch", "wide")
    ]
    assert {event["steps"] for event in results} == {3 * 2 * 3}  # rounds, epochs, batches
    by_job = {event["job"]: event for event in results}
    for seed in (0, 1):
        small, grown, scratch, wide = (
            by_job[f"{arm}-{seed}"]["params"] for arm in ("seed", "grown", "scratch", "wide")
        )
        assert small < grown == scratch
        assert abs(wide - grown) < 0.2 * grown


def test_the_events_say_what_happened(whole: RunFolder) -> None:
    events = [event for event in whole.events() if event["job"] == "grown-1"]
    kinds = [(e["event"], e.get("round"), e.get("epoch")) for e in events]
    assert kinds == [
        ("epoch", 0, 0),
        ("epoch", 0, 1),
        ("edit", 1, None),
        ("epoch", 1, 0),
        ("epoch", 1, 1),
        ("edit", 2, None),
        ("epoch", 2, 0),
        ("epoch", 2, 1),
        ("stop", 2, None),
        ("result", None, None),
    ]
    edit = events[2]
    assert edit["step"] == events[1]["step"] == 6
    assert (
        edit["params_before"] == events[1]["params"] < edit["params_after"] == events[3]["params"]
    )
    assert edit["macs_before"] == events[1]["macs"]
    for name, origin in edit["origin"].items():
        assert len(origin) == edit["widths_after"][name]
        taken = [p["channel"] for p in edit["proposals"] if p["group"] == name and p["selected"]]
        assert sorted(origin[edit["widths_before"][name] :]) == sorted(taken)
    gains = [p["gain"] for p in edit["proposals"] if p["selected"]]
    assert edit["predicted_gain"] == pytest.approx(sum(gains))
    assert [event["t"] for event in events] == sorted(event["t"] for event in events)
    assert {(e["arm"], e["seed"]) for e in events} == {("grown", 1)}


def test_a_second_run_is_the_same_run(
    whole: RunFolder, tmp_path: Path, config: Make, dataset: Dataset
) -> None:
    settings = config(compare=True, seeds=2)
    again = start(tmp_path / "again", settings)
    run_jobs(settings, again, dataset)
    assert_same(again, whole)


@pytest.mark.parametrize("after", [2, 3, 5, 9, 13])
def test_an_interrupt_between_two_events_changes_nothing(
    single: RunFolder, tmp_path: Path, config: Make, dataset: Dataset, after: int
) -> None:
    """After 2 the run stands just behind an epoch, after 3 just behind an edit, 9 ends a job."""
    settings = config(compare=True)
    folder = start(tmp_path / "stopped", settings)
    with pytest.raises(KeyboardInterrupt):
        run_jobs(settings, folder, dataset, log=Stop(after - 1))
    torch.manual_seed(12345)
    run_jobs(settings, folder, dataset)
    assert_same(folder, single)


@pytest.mark.parametrize("after, seeds", [(0, 1), (7, 1), (11, 1), (20, 2)])
def test_an_interrupt_within_an_epoch_changes_nothing(
    single: RunFolder,
    whole: RunFolder,
    tmp_path: Path,
    config: Make,
    dataset: Dataset,
    after: int,
    seeds: int,
) -> None:
    settings = config(compare=True, seeds=seeds)
    folder = start(tmp_path / "stopped", settings)
    with pytest.raises(KeyboardInterrupt):
        run_jobs(settings, folder, dataset, ticked=Stop(after))
    run_jobs(settings, folder, dataset)
    assert_same(folder, single if seeds == 1 else whole)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_interrupted_after_every_single_event(
    tmp_path: Path, config: Make, dataset: Dataset, optimizer: str
) -> None:
    settings = config(optimizer=optimizer, lr=0.01)
    whole, folder = start(tmp_path / "whole", settings), start(tmp_path / "stopped", settings)
    run_jobs(settings, whole, dataset)
    interrupts = 0
    while interrupts < 100:
        try:
            run_jobs(settings, folder, dataset, log=Stop(0))
            break
        except KeyboardInterrupt:
            interrupts += 1
    assert interrupts == len(whole.events())
    assert_same(folder, whole)


@pytest.fixture(scope="module")
def learned(
    tmp_path_factory: pytest.TempPathFactory, dataset: Dataset
) -> tuple[GrowSettings, RunFolder]:
    """A Gauss-Newton run within a budget, without interruption."""
    small = {"data": "digits", "width": 2, "rounds": 2, "epochs": 1, "batch_size": 15}
    gauss_newton = {"method": "gauss-newton", "phase": 2, "fraction": 0.6, "tradeoff": 0.0}
    settings = GrowSettings.resolve(small | gauss_newton | {"budget": {"params": 180}})
    folder = start(tmp_path_factory.mktemp("runs") / "learned", settings)
    run_jobs(settings, folder, dataset)
    return settings, folder


def test_gauss_newton_learns_over_further_epochs(learned: tuple[GrowSettings, RunFolder]) -> None:
    events = learned[1].events()
    edits = [event for event in events if event["event"] == "edit"]
    assert edits
    assert all(edit["passes"] == 2 for edit in edits)
    assert all(event.get("params", event.get("params_after", 0)) <= 180 for event in events)
    assert {p["copies"] for edit in edits for p in edit["proposals"]} == {0, 2}


@pytest.mark.parametrize("after", [4, 8, 10, 17, 20])
def test_an_interrupt_while_morphisms_are_learned_changes_nothing(
    learned: tuple[GrowSettings, RunFolder], tmp_path: Path, dataset: Dataset, after: int
) -> None:
    """Ticks 3 to 8 are those of the first phase, 9 to 14 measure, and 18 to 23 are the second's."""
    settings, whole = learned
    folder = start(tmp_path / "stopped", settings)
    with pytest.raises(KeyboardInterrupt):
        run_jobs(settings, folder, dataset, ticked=Stop(after))
    torch.manual_seed(12345)
    run_jobs(settings, folder, dataset)
    assert_same(folder, whole)


def test_measured_losses_are_those_of_the_labels_as_they_are(
    tmp_path: Path, config: Make, dataset: Dataset
) -> None:
    means = []
    for smoothing in (0.0, 0.3):
        settings = config(rounds=0, epochs=1, label_smoothing=smoothing, lr=1e-9)
        folder = start(tmp_path / str(smoothing), settings)
        run_jobs(settings, folder, dataset)
        epoch, _, result = folder.events()
        setup = jobs.Setup(settings, folder, dataset, lambda event: None, lambda share: None)
        net = load(folder.path / "model", setup.build).eval()
        with torch.no_grad():
            plain = cross_entropy(net(dataset.x_test), dataset.y_test).item()
        assert epoch["test_loss"] == result["test_loss"] == pytest.approx(plain, rel=1e-5)
        means.append(epoch["train_loss"])
    assert means[0] != means[1]  # of the same network, which does not move


def test_a_finished_run_has_nothing_left_to_do(
    whole: RunFolder, config: Make, dataset: Dataset
) -> None:
    before = whole.events()
    run_jobs(config(compare=True, seeds=2), whole, dataset, log=Stop(0), ticked=Stop(0))
    assert whole.events() == before


def test_an_interrupted_run_leaves_its_network(
    tmp_path: Path, config: Make, dataset: Dataset
) -> None:
    settings = config()
    folder = start(tmp_path / "run", settings)
    save_unfinished(folder)
    assert not (folder.path / "model.json").exists()
    with pytest.raises(KeyboardInterrupt):
        run_jobs(settings, folder, dataset, log=Stop(2))
    save_unfinished(folder)
    shapes = json.loads((folder.path / "model.json").read_text())["shapes"]
    stored = load_file(folder.path / "model.safetensors")
    assert {name: list(tensor.shape) for name, tensor in stored.items()} == shapes
    assert sum(t.numel() for t in stored.values()) > folder.events()[-1]["params_before"]


def test_a_run_that_diverges_keeps_what_it_had(
    tmp_path: Path, config: Make, dataset: Dataset
) -> None:
    settings = config()
    folder = start(tmp_path / "run", settings)
    poisoned = replace(dataset, x_train=dataset.x_train.clone())

    def poison(event: dict[str, Any]) -> None:
        if event["event"] == "edit":
            poisoned.x_train[:] = float("nan")

    with pytest.raises(RamifyError, match=r"round 1, epoch 0, step 0: the loss .* nan"):
        run_jobs(settings, folder, poisoned, log=poison)
    assert [event["event"] for event in folder.events()] == ["epoch", "epoch", "edit"]
    run_jobs(settings, folder, dataset)
    assert folder.events()[-1]["event"] == "result"


def stopped(path: Path, settings: GrowSettings, dataset: Dataset) -> RunFolder:
    folder = start(path / "run", settings)
    with pytest.raises(KeyboardInterrupt):
        run_jobs(settings, folder, dataset, log=Stop(2))
    return folder


def test_metrics_behind_the_checkpoint_are_cut_back(
    tmp_path: Path, config: Make, dataset: Dataset
) -> None:
    folder = stopped(tmp_path, config(), dataset)
    known = folder.events()
    folder.append(known[-1] | {"round": 77})
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"event": "epoch", "jo')
    assert settle_metrics(folder) == set()
    assert folder.events() == known
    folder.append({"event": "epoch", "job": "grown-0"})
    assert len(folder.events()) == len(known) + 1


def test_a_lost_checkpoint_is_named(tmp_path: Path, config: Make, dataset: Dataset) -> None:
    folder = stopped(tmp_path, config(), dataset)
    folder.checkpoint.unlink()
    with pytest.raises(RamifyError, match=r"checkpoint.safetensors is missing although grown-0"):
        run_jobs(config(), folder, dataset)


def test_a_torn_checkpoint_is_named(tmp_path: Path, config: Make, dataset: Dataset) -> None:
    folder = stopped(tmp_path, config(), dataset)
    folder.checkpoint.write_bytes(folder.checkpoint.read_bytes()[:-7])
    before = folder.events()
    with pytest.raises(RamifyError, match=r"checkpoint.safetensors is not a readable"):
        run_jobs(config(), folder, dataset)
    assert folder.events() == before


def test_a_lost_network_is_named(tmp_path: Path, config: Make, dataset: Dataset) -> None:
    settings = config(compare=True)
    folder = start(tmp_path / "run", settings)
    with pytest.raises(KeyboardInterrupt):
        run_jobs(settings, folder, dataset, log=Stop(9))
    (folder.path / "model.json").unlink()
    with pytest.raises(RamifyError, match=r"model.json is missing; restore it"):
        run_jobs(settings, folder, dataset)


def test_jobs_come_seed_by_seed(config: Make) -> None:
    names = [job.name for job in plan(config(seed=3, seeds=2))]
    assert names == ["grown-3", "grown-4"]


def test_a_mistake_shows_before_anything_is_written(
    config: Make, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ramify.commands.jobs.load", lambda name: dataset)
    assert prepare(config()) is dataset
    with pytest.raises(RamifyError, match="nothing_here"):
        prepare(config(model="nothing_here"))
    if not torch.cuda.is_available():
        with pytest.raises(RamifyError, match="no device .cuda. on this machine; give cpu"):
            prepare(config(device="cuda"))


@pytest.mark.parametrize("last", [nn.Softmax(1), nn.LogSoftmax(1), nn.Sigmoid(), nn.Identity()])
@pytest.mark.filterwarnings("error")
def test_a_softmax_before_the_cross_entropy_is_told_once(
    last: nn.Module, config: Make, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second softmax flattens the loss; of logarithms of probabilities it changes nothing."""
    monkeypatch.setattr("ramify.commands.jobs.load", lambda name: dataset)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), last)
    monkeypatch.setattr("ramify.commands.jobs.build_seed", lambda settings, dataset: net)
    told = isinstance(last, nn.Softmax)
    words = "the model returns probabilities, as after a softmax, but the cross-entropy loss"
    with pytest.warns(UserWarning, match=words) if told else nullcontext([]) as found:
        prepare(config())
    assert len(found) == told


def test_processes_without_a_part_of_each_batch_are_refused_before_anything_is_written(
    config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RamifyError, match="batch size is 3, which 2 processes share: give --batch"):
        prepare(config(batch_size=3))
    prepare(config(batch_size=4))


@pytest.mark.parametrize("samples", [1, 256, 257, 258, 300])
def test_processes_share_the_samples_that_judge_edits(
    config: Make, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, samples: int
) -> None:
    """No process has an empty batch, and together they have each sample once."""
    rows = torch.arange(300) % len(dataset.x_train)
    many = replace(dataset, x_train=dataset.x_train[rows], y_train=dataset.y_train[rows])
    setup = jobs.Setup(config(), RunFolder(tmp_path), many, lambda event: None, lambda share: None)
    [*alone] = jobs.probe(setup, samples, 0) or []
    monkeypatch.setattr("ramify.distributed.world_size", lambda: 2)
    found = []
    for rank in range(2):
        monkeypatch.setattr("ramify.distributed.rank", lambda rank=rank: rank)
        found.append(jobs.probe(setup, samples, 0) or [])
    assert samples == 1 or all(len(x) for part in found for x, _ in part)
    assert len({len(part) for part in found}) == 1
    assert sum(len(x) for part in found for x, _ in part) == sum(len(x) for x, _ in alone)


@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize("batch_size", [8, 11, 14, 44, 60])
def test_processes_share_the_batches_of_one(
    config: Make,
    dataset: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    batch_size: int,
    ranks: int,
) -> None:
    """Each has at least two samples of every batch, and together they have each sample once."""
    data = Shuffled(dataset, config(batch_size=batch_size), 0, lambda share: None)
    monkeypatch.setattr("ramify.distributed.world_size", lambda: ranks)
    parts = []
    for rank in range(ranks):
        monkeypatch.setattr("ramify.distributed.rank", lambda rank=rank: rank)
        parts.append([x for x, _ in data(0)])
        assert len(parts[-1]) == len(data)
        assert min(len(x) for x in parts[-1]) >= 2
    seen = torch.cat([x for part in parts for x in part]).flatten(1)
    assert sorted(map(tuple, seen.tolist())) == sorted(
        map(tuple, dataset.x_train.flatten(1).tolist())
    )


@pytest.mark.parametrize("batch_size", [1, 2, 4, 11, 15, 44, 45, 60])
def test_an_epoch_has_as_many_batches_as_it_says(
    config: Make, dataset: Dataset, batch_size: int
) -> None:
    ticks: list[float] = []
    data = Shuffled(dataset, config(batch_size=batch_size), 0, ticks.append)
    assert len(list(data(0))) == len(data) == len(ticks)
    assert sum(ticks) == pytest.approx(1.0)


class Two(nn.Module):
    """A network with two inputs, which the commands do not support."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y


class Named(nn.Module):
    """A network whose output is a dictionary."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"scores": x}


@pytest.mark.parametrize(
    "model, message",
    [
        (Two(), "'y'; the commands call the model with one tensor .* in Python, where inputs may"),
        (nn.Linear(6, 3).double(), "the samples are float32: build the model in float32"),
        (nn.Linear(5, 3), "for which the built-in model is mlp"),
        (Named(), "the model gives a dict, which has no .logits, for one sample of rows"),
    ],
)
def test_a_model_that_does_not_fit_is_told_why(model: nn.Module, message: str) -> None:
    x, y = torch.randn(9, 6), torch.arange(9) % 3
    with pytest.raises(RamifyError, match=message):
        jobs.try_network(model, Dataset("rows", x, y, x, y, ("a", "b", "c")))
