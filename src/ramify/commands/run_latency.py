"""The latency of the networks of a finished run for one sample, on this machine."""

from functools import partial
from pathlib import Path
from typing import Any

from ramify.commands.jobs import load_data, stem_of
from ramify.commands.run_folder import CONFIG, RETRAINED, RunFolder
from ramify.commands.run_kinds import kind_of
from ramify.latency import Latency, measure
from ramify.store.model import SUFFIX, load

REPEATS = 50


def latencies(run: Path) -> dict[str, Latency]:
    """Measure the latency of the networks saved in a run, for a forward pass of one sample.

    Args:
        run: The run folder.

    Returns:
        The latency by the name of the job that trained the network, retrained networks included.
        Jobs whose network is not saved are left out.

    Raises:
        RamifyError: The folder is damaged, or names code that is not the user's.
    """
    folder = RunFolder.open(run)
    kind, found = kind_of(folder.config()), dict[str, Latency]()
    if kind.build is not None:
        folder.refuse_foreign(("data", "model", "space"), {})
        settings = kind.settings.read(folder.config())
        dataset = load_data(settings)
        inputs = dataset.x_test[:1].to(settings.device)
        for job, stem, seed in _kept(folder):
            model = load(stem, partial(kind.build, settings, dataset, seed))
            found[job] = measure(model.to(settings.device), inputs, repeats=REPEATS)
    retrained = folder.path / RETRAINED
    return found | (latencies(retrained) if (retrained / CONFIG).exists() else {})


def _kept(folder: RunFolder) -> list[tuple[str, Path, int]]:
    """The name, file and seed of each finished job whose network is in the folder."""
    results: list[dict[str, Any]] = [e for e in folder.events() if e["event"] == "result"]
    found = []
    for result in results:
        arm, seed = result["arm"], result["seed"]
        stem = stem_of(arm)
        # ramify prune saves the networks of its phases under their own names.
        path = folder.of_seed(stem, seed) if stem else folder.path / f"{arm}-{seed}"
        if path.with_name(path.name + SUFFIX).exists():
            found.append((result["job"], path, seed))
    return found
