"""On real digits no edit of `ramify grow` raises the loss on the batches that judge it."""

from pathlib import Path

import pytest

from ramify.commands.grow import run_grow
from ramify.commands.grow_settings import GrowSettings
from ramify.commands.jobs import prepare, run_jobs
from ramify.commands.run_folder import RunFolder

RUNS = {
    "s2d": {"rounds": 2},
    "s3d": {"rounds": 2},
    "gauss-newton": {"rounds": 2, "phase": 2},
    "random": {"rounds": 2},
    "net2net": {"rounds": 2},
    "new-neuron": {"rounds": 2},
    "gradmax": {"rounds": 2},
    "auto": {"rounds": 2},
    "boosting": {"rounds": 2},
    "line-search": {"rounds": 2},
    "l1": {"rounds": 1, "width": 16},
    "taylor": {"rounds": 1, "width": 16},
}


@pytest.mark.parametrize("method", RUNS)
def test_no_edit_raises_the_loss(tmp_path: Path, method: str) -> None:
    few = {} if method == "gauss-newton" else {"probe_samples": 512}
    given = {"data": "digits", "method": method, "epochs": 2, "threads": 1}
    settings = GrowSettings.resolve({**given, **few, **RUNS[method]})
    folder = RunFolder.create(tmp_path / "run", settings.to_json())
    run_jobs(settings, folder, prepare(settings), run=run_grow)
    events = folder.events()
    edits = [event for event in events if event["event"] == "edit"]
    for edit in edits:
        assert edit["loss_after"] <= 1.001 * edit["loss_before"]
        assert edit["measured_gain"] == edit["loss_before"] - edit["loss_after"]
        assert 1 / 64 <= edit["step_factor"] <= 1
    [stop] = [event for event in events if event["event"] == "stop"]
    if method in ("l1", "taylor"):  # in so short a training hardly a channel is without use
        assert stop["reason"] in ("rounds", "no edit that does not raise the loss")
    else:
        assert (len(edits), stop["reason"]) == (2, "rounds")
        assert edits[-1]["params_after"] > edits[0]["params_before"]
