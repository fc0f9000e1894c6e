import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ramify.cli import app
from ramify.commands.run_latency import latencies
from ramify.errors import RamifyError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prune run with two kept networks, and its retraining."""
    out = tmp_path_factory.mktemp("latency") / "run"
    few = "--epochs 1 --pretrain-epochs 1 --width 4 --probe-samples 64".split()
    for words in (["prune", "--data", "digits", *few, "--out", out], ["retrain", out]):
        done = CliRunner().invoke(app, [str(word) for word in words])
        assert done.exit_code == 0, done.output
    return out


def test_every_kept_network_of_a_run_is_measured(run: Path) -> None:
    found = latencies(run)
    assert set(found) == {"baseline-0", "pruned-0", "retrained-0"}
    assert all(one.median > 0 and one.device == "cpu" for one in found.values())
    (run / "baseline-0.safetensors").unlink()
    assert set(latencies(run)) == {"pruned-0", "retrained-0"}


def test_the_command_measures_where_it_is_asked_to(run: Path, tmp_path: Path) -> None:
    for more, columns in (([], 0), (["--latency"], 1)):
        page = tmp_path / "page.html"
        done = CliRunner().invoke(app, ["compare", str(run), "--out", str(page), *more])
        assert done.exit_code == 0, done.output
        assert page.read_text().count("<th>latency</th>") == columns


def test_code_that_is_not_the_users_is_not_run(run: Path) -> None:
    file = run / "config.json"
    before = file.read_text()
    file.write_text(json.dumps(json.loads(before) | {"model": "os:abort"}))
    with pytest.raises(RamifyError, match="importing it would run code"):
        latencies(run)
    file.write_text(before)
