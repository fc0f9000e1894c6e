"""The work of ``ramify retrain``: train a network's shape from scratch (Gauss-Newton, 4.3)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ramify.commands.command_line import command_line
from ramify.commands.jobs import RESTORE, Job, Setup, build_seed, prepare, train_job
from ramify.commands.retrain_cells import prepare_cells
from ramify.commands.retrain_settings import (
    SHAPED,
    SHAPES,
    RetrainCellsSettings,
    RetrainSettings,
)
from ramify.commands.run_folder import CONFIG, RETRAINED, RunFolder, name_of_seed, root_from
from ramify.commands.run_sources import SOURCES, sources_of
from ramify.commands.settings import NetworkSettings
from ramify.data import Dataset
from ramify.errors import RamifyError
from ramify.store.files import read_json
from ramify.store.model import SUFFIX, recipe_of
from ramify.store.recipe_checks import Recipe
from ramify.tracing import trace
from ramify.train.fresh_networks import resize, scratch


def begin(
    source: Path, given: Mapping[str, Any], file: Path | None, out: Path | None
) -> tuple[RetrainSettings | RetrainCellsSettings, RunFolder, Dataset]:
    """Find the shape to train, check it, and create the run folder."""
    path, here = out or default_folder(source, given.get("round")), Path.cwd()
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
    if settings.round is not None:
        recipes = shapes_after(RunFolder.open(source), settings, settings.round, dataset)
    for recipe in recipes:  # check that each fits the network
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
    """Find the shapes to train, and fill in the settings that the user left open."""
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


def shapes_after(
    folder: RunFolder, settings: NetworkSettings, number: int, dataset: Dataset
) -> list[Recipe]:
    """The shape of each seed's network after a number of changes of its widths.

    Args:
        folder: The folder of a finished run of ``ramify grow`` or ``prune``.
        settings: The settings of its network.
        number: Number of changes; 0 for the initial network of the run.
        dataset: Its data.

    Returns:
        The shapes, in order of the seeds.

    Raises:
        RamifyError: There were fewer changes, or one of them inserted or removed blocks.
    """
    recipes, events = [], folder.events()
    for seed in SHAPED[folder.command()].read(folder.config()).all_seeds:
        edits = [
            event
            for event in events
            if event["event"] == "edit" and event["arm"] in SHAPES and event["seed"] == seed
        ]
        if number > len(edits):
            raise RamifyError(
                f"{folder.path} has {len(edits)} changes of the shape with seed {seed}: give a "
                f"round from 0 to {len(edits)}, or leave it out for the last shape."
            )
        for place, event in enumerate(edits[:number], start=1):
            if event.get("drops") or event.get("came_from"):
                raise RamifyError(
                    f"blocks were inserted or removed in round {place} of {folder.path}, and for "
                    "such rounds only the last shape is kept: leave round out to get it."
                )
        model = build_seed(settings, dataset)
        if number:
            graph = trace(model, dataset.x_train[:1])
            resize(graph, edits[number - 1]["widths_after"])
        recipes.append(recipe_of(model))
    return recipes


def run_retrain(job: Job, setup: Setup) -> None:
    """Train a shape from scratch to the end."""
    settings = setup.settings
    assert isinstance(settings, RetrainSettings)
    torch.manual_seed(job.seed)
    recipe = read_json(setup.folder.of_seed("shape", job.seed, ".json"), RESTORE)
    train_job(job, setup, scratch(setup.build, recipe), settings.training())


def default_folder(source: Path, number: int | None = None) -> Path:
    """``RUN/retrain``, or ``RUN/retrain-2`` of a round, or ``NAME-retrain`` of a saved network."""
    if source.is_dir():
        return source / (RETRAINED if number is None else f"{RETRAINED}-{number}")
    return source.with_name(source.name.removesuffix(SUFFIX) + "-retrain")


def saved_stem(source: Path, given: Mapping[str, Any], verb: str) -> Path:
    """The path stem of a network written by `ramify.save`."""
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
