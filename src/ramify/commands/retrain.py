"""Training a network's shape from scratch: what ``ramify retrain`` does (Gauss-Newton, 4.3)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ramify.commands.command_line import command_line
from ramify.commands.jobs import RESTORE, Job, Setup, build_seed, prepare, train_job
from ramify.commands.retrain_cells import prepare_cells
from ramify.commands.retrain_settings import SHAPED, RetrainCellsSettings, RetrainSettings
from ramify.commands.run_folder import CONFIG, RETRAINED, RunFolder, name_of_seed, root_from
from ramify.commands.run_sources import SOURCES, sources_of
from ramify.data import Dataset
from ramify.errors import RamifyError
from ramify.store.files import read_json
from ramify.store.model import SUFFIX
from ramify.store.recipe_checks import Recipe
from ramify.train.fresh_networks import scratch


def begin(
    source: Path, given: Mapping[str, Any], file: Path | None, out: Path | None
) -> tuple[RetrainSettings | RetrainCellsSettings, RunFolder, Dataset]:
    """Find what is to be trained, try it, and make the run folder."""
    path, here = out or default_folder(source), Path.cwd()
    files = {} if file is None else {"config": file}
    again = command_line("retrain", {**given, **files}, [str(source)])
    if (source / CONFIG).exists() and RunFolder.open(source).command() == "search":
        cells = RetrainCellsSettings.of_search(
            RunFolder.open(source), given, RetrainCellsSettings.of_file(file, given)
        )
        dataset = prepare_cells(cells)
        sources = {SOURCES: sources_of(cells, dataset)}
        path = root_from(here) / path
        return cells, RunFolder.create(path, cells.to_json(), sources, again), dataset
    settings, recipes = shapes_of(source, given, RetrainSettings.of_file(file, given))
    dataset = prepare(settings)
    settings = settings.suited(dataset, given)
    for recipe in recipes:  # does each fit the network?
        scratch(lambda: build_seed(settings, dataset), recipe)
    beside = {
        name_of_seed("shape", seed, settings.seed, ".json"): recipes[number % len(recipes)]
        for number, seed in enumerate(settings.all_seeds)
    }
    beside[SOURCES] = sources_of(settings, dataset)
    path = root_from(here) / path
    return settings, RunFolder.create(path, settings.to_json(), beside, again), dataset


def shapes_of(
    source: Path, given: Mapping[str, Any], base: Mapping[str, Any] | None = None
) -> tuple[RetrainSettings, list[Recipe]]:
    """Find the shapes to train, and fill in what the user left open."""
    base = base or {}
    if (source / CONFIG).exists():
        folder = RunFolder.open(source)
        settings = RetrainSettings.of_run(folder, given, base)
        advice = f"restore it from a copy, or {folder.command()} the network again."
        seeds = SHAPED[folder.command()].read(folder.config()).all_seeds
        paths = [folder.of_seed("model", seed, ".json") for seed in seeds]
    else:
        stem = saved_stem(source, {**base, **given}, "retrain")
        settings = RetrainSettings.of_saved(source, given, base)
        advice = "ramify.save wrote it: copy it again."
        paths = [stem.with_name(stem.name + ".json")]
    return settings, [read_json(path, advice) for path in paths]


def run_retrain(job: Job, setup: Setup) -> None:
    """Train a shape from fresh weights to the end."""
    settings = setup.settings
    assert isinstance(settings, RetrainSettings)
    torch.manual_seed(job.seed)
    recipe = read_json(setup.folder.of_seed("shape", job.seed, ".json"), RESTORE)
    train_job(job, setup, scratch(setup.build, recipe), settings.training())


def default_folder(source: Path) -> Path:
    """``RUN/retrain``, or ``NAME-retrain`` beside a saved network."""
    if source.is_dir():
        return source / RETRAINED
    return source.with_name(source.name.removesuffix(SUFFIX) + "-retrain")


def saved_stem(source: Path, given: Mapping[str, Any], verb: str) -> Path:
    """Where a network lies that `ramify.save` wrote."""
    stem = source / "model" if source.is_dir() else Path(str(source).removesuffix(SUFFIX))
    shape = stem.with_name(stem.name + ".json")
    if not shape.exists():
        raise RamifyError(
            f"{source} is neither a run folder nor a saved network: there is no {shape}; give the "
            "folder of a run, or what was given to ramify.save."
        )
    missing = [f"--{name}" for name in ("data", "model") if name not in given]
    if missing:
        raise RamifyError(
            f"{source} is a saved network, not a run; to {verb} it, say with "
            f"{' and '.join(missing)} what it is trained on and what builds it."
        )
    return stem
