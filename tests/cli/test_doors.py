"""What a stranger brings in one file of their own, by ``package.module:object``."""

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

import ramify
from ramify.cli import app
from ramify.data import Dataset, load
from ramify.report import write_report

SMALL = "--data digits --width 2 --epochs 1 --probe-samples 20 --batch-size 15".split()

METHOD = """
from dataclasses import dataclass
import ramify

@dataclass(frozen=True)
class Widest:
    '''Copies the channels with the largest weights.'''
    seed: int = 0

    def propose(self, graph, loss, batches):
        weights = dict(graph.model.named_parameters())
        found = []
        for group in graph.groups:
            if group.can_split:
                sizes = weights[group.producers[0]].detach().flatten(1).norm(dim=1)
                for channel, size in enumerate(sizes.tolist()):
                    split = ramify.Split(group.name, channel, weights=(0.5, 0.5))
                    cost = ramify.cost.graph_cost(graph, [split])
                    found.append(ramify.Proposal(split, 0.0, cost, score=size, graph=graph))
        return sorted(found, key=lambda proposal: -proposal.score)

ready = Widest(seed=5)
nothing = 3

def made(seed):
    assert seed == 4
    return Widest(seed)

def needs(length):
    return Widest()
"""

RULE = """
class First:
    '''The first proposals of each group.'''
    def select(self, proposals):
        groups = {}
        for proposal in proposals:
            groups.setdefault(proposal.edit.group, proposal)
        return list(groups.values())
"""

SEARCHER = """
import torch, ramify
from ramify.relax import DARTS

class Slow(DARTS):
    '''DARTS under another name.'''

class ByNorm:
    '''Prunes the channels with the smallest weights.'''
    def propose(self, graph, loss, batches):
        return ramify.L1().propose(graph, loss, batches)
"""

DATA = """
import torch
from ramify.data import Dataset, load

def load():
    x = torch.randn(60, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    y = torch.arange(60) % 3
    return Dataset("mine", x[:45], y[:45], x[45:], y[45:], ("a", "b", "c"))
"""


FILES = {"method": METHOD, "rule": RULE, "searcher": SEARCHER, "data": DATA}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pages: None) -> Path:
    """An empty folder with a stranger's files, and a small data set in the place of digits."""
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(7)
    labels = torch.arange(60) % 3
    images = torch.randn(3, 1, 8, 8, generator=generator)[labels]
    images = images + 0.5 * torch.randn(60, 1, 8, 8, generator=generator)
    data = Dataset("d", images[:45], labels[:45], images[45:], labels[45:], ("a", "b", "c"))
    monkeypatch.setattr(
        "ramify.commands.jobs.load", lambda name: data if name == "digits" else load(name)
    )
    for name, text in FILES.items():
        Path(f"door_{name}.py").write_text(text)
    return tmp_path


def call(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result


def refused(*arguments: str, said: str) -> None:
    result = call(*arguments, code=2)
    assert re.fullmatch(rf"error: .*{said}.*\n", result.stderr), result.stderr


def events(run: str, kind: str) -> list[dict[str, Any]]:
    lines = map(json.loads, Path(run, "metrics.jsonl").read_text().splitlines())
    return [event for event in lines if event["event"] == kind]


def test_a_data_set() -> None:
    call("grow", "--data", "door_data:load", *SMALL[2:], "--rounds", "0")
    run = "runs/door_data-load"
    assert json.loads(Path(run, "config.json").read_text())["data"] == "door_data:load"
    call("grow", "--resume", run)
    call("retrain", run)


@pytest.mark.parametrize("name", ["Widest", "ready", "made"])
def test_a_method(name: str) -> None:
    door = f"door_method:{name}"
    call("grow", *SMALL, "--rounds", "1", "--seed", "4", "--method", door, "--out", "run")
    [edit] = events("run", "edit")
    assert edit["params_after"] > edit["params_before"]
    scores = [p["score"] for p in edit["proposals"]]
    assert scores == sorted(scores, reverse=True)
    config = json.loads(Path("run/config.json").read_text())
    assert (config["method"], config["rule"], config["step"]) == (door, "top-fraction", None)
    call("grow", "--resume", "run")


def test_a_rule() -> None:
    call("grow", *SMALL, "--rounds", "1", "--rule", "door_rule:First", "--out", "run")
    [edit] = events("run", "edit")
    chosen = [p["group"] for p in edit["proposals"] if p["selected"]]
    assert sorted(chosen) == ["layer1.0", "layer2.0", "layer3.0"]
    config = json.loads(Path("run/config.json").read_text())
    assert (config["rule"], config["fraction"]) == ("door_rule:First", None)


@pytest.mark.parametrize("rule", ["threshold", "trade-off", "knapsack"])
def test_our_rules_by_name(rule: str) -> None:
    budget = ["--budget", "params=300"] if rule == "knapsack" else []
    call("grow", *SMALL, "--rounds", "1", "--rule", rule, *budget, "--out", "run")
    [edit] = events("run", "edit")
    assert edit["params_before"] < edit["params_after"]
    if rule == "knapsack":
        assert 250 < edit["params_after"] <= 300


@pytest.mark.parametrize("name", ["Slow", "ByNorm"])
def test_a_searcher_of_widths(name: str) -> None:
    full = ["--searcher", f"door_searcher:{name}", "--pretrain-epochs", "0", "--width", "4"]
    call("prune", *SMALL, *full, "--out", "run")
    [edit] = events("run", "edit")
    assert edit["params_after"] < edit["params_before"]
    config = json.loads(Path("run/config.json").read_text())
    assert (config["gamma"] is None) == (config["arch_lr"] is None) == (name == "ByNorm")


def test_a_searcher_of_cells() -> None:
    small = "--data digits --space nats --channels 2 --cells 1 --epochs 1 --batch-size 15".split()
    call("search", *small, "--searcher", "door_searcher:Slow", "--out", "run")
    assert Path("run/genotype.json").exists()


def test_settings_of_a_file_begin_a_run() -> None:
    call("grow", *SMALL, "--rounds", "0", "--method", "s3d", "--lr", "0.03", "--out", "one")
    call("grow", "--config", "one/config.json", "--out", "two")
    one, two = (json.loads(Path(run, "config.json").read_text()) for run in ("one", "two"))
    assert one == two
    more = ["--method", "random", "--most", "3", "--no-nesterov"]
    call("grow", "--config", "one/config.json", *more, "--out", "three")
    three = json.loads(Path("three/config.json").read_text())
    changed = {"method": "random", "rule": "threshold", "most": 3, "fraction": None}
    changed |= {"signed": None, "copies": None, "surrogate": None, "per_layer": None}
    assert three == one | changed
    Path("some.json").write_text('{"data": "digits", "lr": "fast"}')
    refused("grow", "--config", "some.json", said="lr is 'fast', which is not a number")
    Path("some.json").write_text('{"data": "digits", "lrr": 1}')
    refused(
        "grow",
        "--config",
        "some.json",
        said="some.json has a setting 'lrr' .did you mean 'lr'.., which ramify gr",
    )
    refused("prune", "--config", "one/config.json", said="does not hold settings of ramify prune")
    refused("grow", "--config", "gone.json", said="gone.json is missing; give a JSON or YAML file")
    refused("grow", "--resume", "one", "--config", "x", said="--config and --resume exclude each")


def settings_of(run: str, **changes: Any) -> dict[str, Any]:
    path = Path(run, "config.json")
    values: dict[str, Any] = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(values))
    return values


EVIL = "raise SystemExit('this code came with a run')"
IMPORTED = "asks for the {} '{}', which is neither in the current directory nor in PYTHONPATH"


@pytest.mark.parametrize(
    ("name", "door"),
    [
        ("model", "os:abort"),
        ("method", "os:abort"),
        ("rule", "pip._internal:main"),
        ("data", "antigravity:gone"),
        ("model", "one.evil:build"),
    ],
)
def test_code_that_a_file_names_is_not_run(name: str, door: str) -> None:
    call("grow", *SMALL, "--rounds", "0", "--out", "one")
    call("retrain", "one", "--epochs", "1")
    Path("one/evil.py").write_text(EVIL)
    settings_of("one", **{name: door})
    said = IMPORTED.format(name, door)
    refused("grow", "--resume", "one", said=said)
    refused("grow", "--config", "one/config.json", "--out", "two", said=said)
    if name in ("model", "data"):
        refused("retrain", "one", "--out", "three", said=said)
        refused("export", "one", said=said)
        settings_of("one/retrain", **{name: door})
        refused("retrain", "--resume", "one/retrain", said=said)
    else:
        call("retrain", "one", "--epochs", "1", "--out", "three")  # it has no use for them
    write_report(Path("one"))
    assert Path("one/report.html").exists()
    assert "one.evil" not in sys.modules


def test_spaces_and_searchers_that_a_file_names_are_not_run() -> None:
    small = "--epochs 1 --channels 2 --cells 3 --batch-size 15".split()
    call("search", "--data", "digits", *small, "--out", "one")
    for name in ("space", "searcher"):
        before = settings_of("one")
        settings_of("one", **{name: "os:abort"})
        said = IMPORTED.format(name, "os:abort")
        refused("search", "--resume", "one", said=said)
        refused("search", "--config", "one/config.json", "--out", "two", said=said)
        if name == "space":
            refused("retrain", "one", said=said)
        settings_of("one", **before)


def test_what_is_named_again_is_imported(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = tmp_path_factory.mktemp("away")
    (away / "far_method.py").write_text(METHOD)
    monkeypatch.syspath_prepend(str(away))  # as an installed package is found
    named = ("--method", "far_method:Widest")
    call("grow", *SMALL, "--rounds", "0", *named, "--out", "one")
    refused("grow", "--resume", "one", said="give --method far_method:Widest too if you trust it")
    call("grow", "--resume", "one", *named)
    call("grow", "--config", "one/config.json", *named, "--out", "two")
    call("grow", "--config", "one/config.json", "--method", "random", "--out", "three")
    monkeypatch.setenv("PYTHONPATH", str(away))
    call("grow", "--resume", "one")


def test_a_file_of_settings_beside_the_modules_names_them() -> None:
    call("grow", *SMALL, "--rounds", "0", "--method", "door_method:ready", "--out", "one")
    Path("mine.json").write_text(Path("one/config.json").read_text())
    call("grow", "--config", "mine.json", "--out", "two")


def test_a_command_of_another_version_is_named() -> None:
    call("grow", *SMALL, "--rounds", "0", "--out", "one")
    settings_of("one", command="graft")
    refused("grow", "--resume", "one", said="names a command 'graft'")
    refused("export", "one", said="names a command 'graft'")


@pytest.mark.parametrize(
    "line, said",
    [
        ("grow --data digits --method door_method:nothing", "is a int without propose"),
        ("grow --data digits --method door_method:gone", "door_method has no 'gone'"),
        ("grow --data digits --method door_method:needs", "missing a required argument: 'length'"),
        (
            "grow --data digits --method door_method:ready --step 1",
            "step is not a setting of the meth",
        ),
        ("grow --data digits --rule door_method:nothing", "is a int without select"),
        ("grow --data digits --rule door_rule:First --multiple-of 8", "does not take it"),
        ("grow --data digits --rule door_rule:First --most 3", "most is not a setting of the rule"),
        ("grow --data digits --rule magic", "there is no rule 'magic'; choose one of top-fraction"),
        ("grow --data digits --rule knapsack", "needs a budget, but none was given"),
        ("grow --data digits --rule trade-off --method l1", "l1 estimates no gain"),
        (
            "prune --data digits --searcher door_searcher:ByNorm --gamma 1",
            "gamma is not a setting of",
        ),
        ("prune --data digits --searcher door_searcher:ByNorm --threshold 1", "does not learn"),
        ("search --data digits --searcher door_searcher:ByNorm", "class of ramify.relax.Searcher"),
    ],
)
def test_what_does_not_fit_is_named(line: str, said: str) -> None:
    refused(*line.split(), said=said)
    assert not Path("runs").exists()


MISSING = """
import builtins, sys
original = builtins.__import__
def lacking(name, *others):
    if name.partition(".")[0] == "typer":
        raise ModuleNotFoundError("No module named 'typer'", name="typer")
    return original(name, *others)
builtins.__import__ = lacking
from ramify.cli import app
app()
"""


def test_without_the_extra_it_is_said_what_to_install() -> None:
    done = python(MISSING)
    assert done.returncode == 2
    assert done.stderr == (
        'error: the command line needs typer, which is not installed: pip install "ramify[cli]".\n'
    )


LIGHT = """
import sys
from typer.testing import CliRunner
from ramify.cli import app
for arguments in (["--help"], ["grow", "--help"], ["retrain", "--help"]):
    assert CliRunner().invoke(app, arguments).exit_code == 0
print(*({"torch", "numpy", "scipy", "matplotlib", "sklearn", "jinja2", "PIL"} & set(sys.modules)))
"""


def test_help_imports_nothing_heavy() -> None:
    assert python(LIGHT).stdout.strip() == ""


def python(program: str) -> subprocess.CompletedProcess[str]:
    source = str(Path(ramify.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_error_in_a_users_file_is_one_sentence_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("raises_at_import_of_mine.py").write_text("x = 1\nraise OSError('no such disk')\n")
    done = CliRunner().invoke(app, "grow --data digits --method raises_at_import_of_mine:x".split())
    assert done.exit_code == 2
    assert "Traceback" not in done.output
    assert re.search(r"OSError: no such disk \(in line 2 of \S+mine.py\): correct", done.output)
    Path("needs_more_of_mine.py").write_text("import a_package_that_is_not_there\n")
    done = CliRunner().invoke(app, "grow --data digits --method needs_more_of_mine:x".split())
    assert done.exit_code == 2
    assert re.search(r"No module named 'a_package\S+' \(in line 1 of \S+mine.py\)", done.output)


def test_mistakes_in_names_are_answered_with_the_nearest_one() -> None:
    Path("door_net.py").write_text("from torch import nn\nnet = nn.Linear(64, 3)\n")
    for words, said in (
        (["grow", "--data", "digit"], r"unknown data set 'digit' \(did you mean 'digits'\?\)"),
        (["grow", "--data", "./digits"], "there is no folder './digits'"),
        ([*"grow --data digits --model vgg18".split()], r"\(did you mean 'vgg19'\?\)"),
        ([*"grow --data digits --method s2dd".split()], r"\(did you mean 's2d'\?\)"),
        ([*"grow --data digits --optimizer adm".split()], r"\(did you mean 'adam'\?\)"),
        ([*"grow --data digits --budget parms=9".split()], r"\(did you mean 'params'\?\)"),
        ([*"grow --data digits --budget ms=9".split()], r"\(did you mean 'latency'\?\)"),
        (
            [*"grow --data digits --model door_net.net".split()],
            r"\(did you mean 'door_net:net'\?\)",
        ),
        ([*"prune --data digits --accept acuracy=-1".split()], r"\(did you mean 'accuracy'\?\)"),
        ([*"prune --data digits --accept accuracy=-1 --epochs 0".split()], "--pretrain-epochs or"),
        ([*"prune --data digits --groups nothing*".split()], "and `ramify show` list their names"),
        ([*"search --data digits --space dart".split()], r"\(did you mean 'darts'\?\)"),
        ([*"grow --data digits --model door_net:net".split()], "door_net:net is a network, where"),
        ([*"grow --data digits --method door_net:net".split()], "is a Linear without propose"),
        ([*"grow --data digits --rule door_net:net".split()], "is a Linear without select"),
        ([*"grow --data door_net:net".split()], "door_net:net"),
    ):
        refused(*words, said=said)


def test_a_budget_below_the_network_to_begin_with_is_refused() -> None:
    small = [*SMALL, "--budget", "params=9"]
    refused("grow", *small, said="the budget of params is 9, but before growing")
    call("grow", *SMALL, "--rounds", "0", "--out", "run")
    size = events("run", "result")[0]["params"]
    call("grow", *SMALL, *f"--rounds 1 --method l1 --budget params={size - 20}".split())


def test_what_the_system_has_no_room_for_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for error, said in (
        (MemoryError(), r"not enough memory \(MemoryError\(\)\): make the network"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "not enough memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "what is printed cannot be written"),
        (FileNotFoundError(errno.ENOENT, "No such file"), "the current directory is not there"),
    ):

        def refuse(*_: Any, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr("ramify.cli.runs.begin", refuse)
        refused("grow", "--data", "digits", said=said)


def test_a_folder_whose_name_is_no_text() -> None:
    name = os.fsdecode(b"run-\xff")
    said = call("grow", *SMALL, "--rounds", "0", "--out", name).output
    assert "run folder: run-\\udcff" in said
    call("grow", "--resume", name)


def test_a_module_that_goes_elsewhere_takes_no_folder_along(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    text = DATA + "\nimport os\nos.chdir('elsewhere')\n"
    (folder / "going.py").write_text(text)
    data = ["--data", "going:load", *SMALL[2:], "--rounds", "0"]
    call("grow", *data, "--out", "run")
    assert (folder / "run" / "summary.json").exists()
    assert not any((folder / "elsewhere").iterdir())


@pytest.mark.parametrize(
    "line",
    [
        '{"event": "result", "job": "grown-0"}',
        '{"event": "epoch", "job": ["a"]}',
        "[" * 100_000,
        '{"event": {}, "job": "grown-0"}',
    ],
)
def test_a_foreign_line_among_the_events_is_named(line: str) -> None:
    call("grow", *SMALL, "--rounds", "0", "--out", "run")
    file = Path("run/metrics.jsonl")
    file.write_text(f"{line}\n{file.read_text()}")
    refused("grow", "--resume", "run", said="is damaged at line 1: .*; restore it, or delete")
