"""The page of a search for cells, from events made up, finished or not."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from ramify.cells import DARTS, DARTS_V2, NATS
from ramify.cells.space import Space
from ramify.errors import RamifyError
from ramify.report import read_run, write_report, write_summary
from ramify.report.search_page import write_drawings

ARCH = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|skip_connect~2|"


def described(space: Space) -> dict[str, Any]:
    return {
        "name": space.name,
        "inputs": space.inputs,
        "states": space.states,
        "concat": space.concat,
        "kinds": list(space.kinds),
        "edges": [list(edge) for edge in space.edges],
        "operations": list(space.operations),
    }


def searched(space: Space, genotype: str, seed: int, epochs: int = 3) -> list[dict[str, Any]]:
    draw = np.random.default_rng(seed)
    head = {"job": f"searched-{seed}", "arm": "searched", "seed": seed}
    shape = len(space.edges), len(space.operations)
    found: list[dict[str, Any]] = []
    for epoch in range(epochs):
        rows = draw.dirichlet(np.ones(shape[1]), size=shape[0])
        event = {"event": "epoch", "epoch": epoch, "step": 10 * epoch + 10, "t": 1.0 + epoch}
        mixing = dict.fromkeys(space.kinds, rows.tolist())
        losses = {"loss_a": 2.0 / (1 + epoch), "loss_p": 2.1 / (1 + epoch)}
        found.append(event | head | losses | {"mixing": mixing, "genotype": genotype})
    result = {"event": "result", "genotype": genotype, "params": 12345, "macs": 6789012}
    result |= {"skips": 1 / 3, "latency": 1.25, "steps": 30, "seconds": 90.0, "t": 90.0}
    return [*found, result | head]


def write(path: Path, space: Space, events: list[dict[str, Any]], finished: bool = True) -> Path:
    path.mkdir()
    config = {"command": "search", "data": "digits", "space": space.name.lower(), "seed": 0}
    (path / "config.json").write_text(json.dumps(config))
    (path / "space.json").write_text(json.dumps(described(space)))
    lines = "".join(json.dumps(event) + "\n" for event in events)
    (path / "metrics.jsonl").write_text(lines)
    if finished:
        write_summary(path)
    return path


def test_a_finished_search_of_two_seeds(tmp_path: Path) -> None:
    events = searched(NATS, ARCH, 0) + searched(NATS, ARCH, 1)
    run = write(tmp_path / "run", NATS, events)
    page = write_report(run).read_text()
    assert "<h1>nats cells searched on digits</h1>" in page
    for text in ("12,345", "6.79 M", "33.3 %", "1.25 ms", "3.0 min", "2 searches", "searched-1"):
        assert text in page, text
    assert page.count('"cell, searched-') == 2
    assert page.count("Mixing weights of the cell over the epochs, searched-") == 2
    assert "unfinished" not in page
    assert "Comparison" not in page
    assert sorted(file.name for file in run.glob("cell*")) == [
        "cell-1.png",
        "cell-1.svg",
        "cell.png",
        "cell.svg",
    ]
    found = json.loads((run / "summary.json").read_text())["found"]
    assert found == {"searched-0": ARCH, "searched-1": ARCH}


def test_cells_of_darts_are_drawn_into_files(tmp_path: Path) -> None:
    run = write(tmp_path / "run", DARTS, searched(DARTS, DARTS_V2.text, 0))
    write_drawings(run, read_run(run))
    for name in ("cell-normal", "cell-reduce"):
        texts = [
            e.text for e in ElementTree.parse(run / f"{name}.svg").iter() if e.tag.endswith("text")
        ]
        assert {"cₖ₋₂", "cₖ₋₁", "0", "1", "2", "3", "cₖ"} < set(texts)
        with Image.open(run / f"{name}.png") as picture:
            assert min(picture.size) > 300
    texts = [e.text for e in ElementTree.parse(run / "cell-normal.svg").iter()]
    assert [texts.count(t) for t in ("sep conv 3×3", "skip", "dil conv 3×3")] == [5, 2, 1]


def test_what_the_benchmark_knows_and_what_retraining_gave(tmp_path: Path) -> None:
    events = searched(NATS, ARCH, 0)
    events[-1]["benchmark"] = {"NATS-Bench, %": 91.25, "percentile": 87.5}
    run = write(tmp_path / "run", NATS, events)
    (run / "retrain").mkdir()
    head = {"job": "retrained-0", "arm": "retrained", "seed": 0, "test_accuracy": 0.9}
    trained = {"event": "epoch", "epoch": 0, "step": 5, "params": 12345} | head
    result = {"event": "result", "params": 12345, "macs": 1, "test_loss": 0.1, "steps": 5}
    result |= {"seconds": 1.0} | head
    (run / "retrain/metrics.jsonl").write_text(f"{json.dumps(trained)}\n{json.dumps(result)}\n")
    page = write_report(run).read_text()
    assert page.count("<th>NATS-Bench, %</th><th>percentile</th>") == 1
    for value in ("91.25", "87.5"):
        assert f"<b>{value}</b>" in page
        assert f"<td>{value}</td>" in page
    assert "90.00 %" in page
    assert "Comparison" in page
    texts = [e.text for e in ElementTree.parse(run / "cell.svg").iter()]
    assert {"input", "1", "2", "output"} < set(texts)


@pytest.mark.parametrize("epochs", [0, 1])
def test_a_search_that_goes_on(tmp_path: Path, epochs: int) -> None:
    events = searched(NATS, ARCH, 0)[:epochs]
    run = write(tmp_path / "run", NATS, events, finished=False)
    page = write_report(run).read_text()
    assert "This run is unfinished" in page
    assert "ramify search --resume RUN" in page
    assert ("How the mixing weights moved" in page) == (epochs > 0)
    assert not list(run.glob("cell*"))


def test_what_is_damaged_is_named(tmp_path: Path) -> None:
    events = searched(NATS, ARCH, 0)
    run = write(tmp_path / "run", NATS, events)
    (run / "space.json").unlink()
    with pytest.raises(RamifyError, match=r"'run' has no space.json, .* restore it"):
        write_report(run)
    del events[1]["mixing"]
    run = write(tmp_path / "other", NATS, events, finished=False)
    with pytest.raises(RamifyError, match="damaged at line 2: the field 'mixing' is missing"):
        write_report(run)


@pytest.mark.parametrize(
    "change", [{"inputs": "x"}, {"kinds": ["normal", "reduce"]}, {"edges": [[0, 99]]}]
)
def test_a_space_that_is_not_that_of_the_run_is_named(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    run = write(tmp_path / "run", NATS, searched(NATS, ARCH, 0))
    (run / "space.json").write_text(json.dumps(described(NATS) | change))
    with pytest.raises(RamifyError, match="space.json that is damaged or not that of its metrics"):
        write_report(run)
