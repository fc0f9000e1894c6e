"""`ramify grow --depth`: the run, what it is compared with, its lines and its page."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ramify.commands import jobs
from ramify.commands.display import Display
from ramify.commands.grow import prepare_grow, run_grow
from ramify.commands.grow_settings import GrowSettings
from ramify.commands.run_folder import RunFolder
from ramify.data import Dataset
from ramify.errors import RamifyError
from ramify.report import write_report
from ramify.train import edit_once
from ramify.train.depth_rounds import TriedBlock, Weighed

Make = Callable[..., GrowSettings]


def test_a_run_with_a_new_block(
    tmp_path: Path, config: Make, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {"method": "random", "model": "resnet_staged", "depth": True}
    settings = config(**given, rounds=1, epochs=1, fraction=0.1, compare=True)
    weighed = Weighed([TriedBlock("stage1.1", 0.2, 38.0, True)], 0.1, 40.0, True)
    monkeypatch.setattr(edit_once, "weigh", lambda *_: weighed)
    folder = RunFolder.create(tmp_path / "run", settings.to_json())
    console = Console(file=io.StringIO(), width=200)
    with Display(console, settings, []) as shown:
        jobs.run_jobs(settings, folder, dataset, shown.event, run=run_grow)
    events = folder.events()
    [edit] = (e for e in events if e["event"] == "edit")
    assert edit["came_from"]["stage1.2.conv1"] == "stage1.1.conv1"
    params = {e["arm"]: e["params"] for e in events if e["event"] == "result"}
    assert params["scratch"] == params["grown"] > params["seed"]
    assert isinstance(console.file, io.StringIO)
    assert "round 1, inserted a copy after stage1.1, split" in console.file.getvalue()
    page = write_report(folder.path).read_text()
    assert "Copies of blocks were inserted after\nstage1.1 in round 1." in page


def test_what_does_not_go_with_depth(config: Make) -> None:
    with pytest.raises(RamifyError, match="but taylor only prunes"):
        config(depth=True, method="taylor")
    with pytest.raises(RamifyError, match="no block of this DigitsNet takes one"):
        prepare_grow(config(depth=True))
    with pytest.raises(RamifyError, match="have selections tried"):
        prepare_grow(config(depth=True, trial=False))
