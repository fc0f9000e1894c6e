"""Training a network's shape from scratch: what ``ramify retrain`` does (Gauss-Newton, 4.3)."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import torch

from ramify.commands.cell_config import CELL_SETTINGS
from ramify.commands.compare import scratch
from ramify.commands.config import COMMON, DEFAULTS, GrowConfig, TrainConfig, refuse_idle
from ramify.commands.folder import CONFIG, RETRAINED, RunFolder
from ramify.commands.jobs import build_seed, model_path, shape_path
from ramify.data import Dataset
from ramify.errors import RamifyError
from ramify.store.files import read_json, write_json
from ramify.store.model import SUFFIX, Recipe


@dataclass(frozen=True)
class RetrainConfig(TrainConfig):
    """The settings of ``ramify retrain``.

    Attributes:
        source: The run or the saved network whose shape is trained.
    """

    command: ClassVar[str] = "retrain"
    source: str

    def check(self) -> None:
        """Raise a RamifyError where a setting is out of range."""
        self.check_training()

    def arms(self) -> tuple[str, ...]:
        """The networks that each seed trains."""
        return ("retrained",)

    def passes(self) -> int:
        """Epochs that the arms of a seed make together."""
        return self.epochs


def resolve(source: Path, given: dict[str, Any]) -> tuple[RetrainConfig, list[Recipe]]:
    """Find the shapes to train, and fill in what the user left open.

    A run is retrained with its own settings, each of its networks for as many epochs as the first
    one grew. A network that ``ramify.save`` wrote needs its data set and its builder.

    Args:
        source: A run folder, or what was given to ``ramify.save``, or the folder it lies in.
        given: Settings by name; those left open are absent.

    Returns:
        All settings, and the shape of each seed, or one for all.

    Raises:
        RamifyError: There is nothing to train, or the settings are out of range.
    """
    if (source / CONFIG).exists():
        values, recipes = _of_run(source)
    else:
        values, recipes = _of_model(source, given)
    values = {"threads": torch.get_num_threads()} | values | given | {"source": str(source)}
    for name in CELL_SETTINGS:
        if name in given:
            raise RamifyError(
                f"{name.replace('_', '-')} is a setting of cells, which {source} does not hold; "
                "leave it out."
            )
    refuse_idle(given, values)
    if len(recipes) > 1 and {"seed", "seeds"} & set(given):
        raise RamifyError(
            f"{source} holds {len(recipes)} networks, and each is trained with its own seed; leave "
            f"--seed and --seeds out, or give one network, such as {source / 'model'}."
        )
    config = RetrainConfig(**{field.name: values[field.name] for field in fields(RetrainConfig)})
    config.check()
    return config, recipes


def begin(config: RetrainConfig, recipes: list[Recipe], dataset: Dataset, path: Path) -> RunFolder:
    """Make the run folder, once the shapes have been seen to fit the network.

    Args:
        config: From :func:`resolve`.
        recipes: Likewise.
        dataset: From :func:`ramify.commands.jobs.prepare`.
        path: A folder that is empty or does not exist yet.

    Returns:
        The folder, with the shapes in it.

    Raises:
        RamifyError: A shape is of another network, or there is something at ``path`` already.
    """
    for recipe in recipes:
        scratch(lambda: build_seed(config, dataset), recipe)
    folder = RunFolder.create(path, config.to_json())
    for number in range(config.seeds):
        recipe = recipes[number % len(recipes)]
        write_json(shape_path(config, folder, config.seed + number), recipe)
    return folder


def default_folder(source: Path) -> Path:
    """``RUN/retrain``, or ``NAME-retrain`` beside a saved network."""
    if source.is_dir():
        return source / RETRAINED
    return source.with_name(source.name.removesuffix(SUFFIX) + "-retrain")


def _of_run(source: Path) -> tuple[dict[str, Any], list[Recipe]]:
    folder = RunFolder.open(source)
    if folder.command() == "prune":
        raise RamifyError(
            f"{source} is a run of ramify prune, which trains a cut shape with fresh weights by "
            f"--from-scratch; or give its network, {source / 'model'}, with --data and --model."
        )
    grown = GrowConfig.from_json(folder.config())
    events = folder.events()
    done = {e["seed"] for e in events if e["event"] == "result" and e["arm"] == "grown"}
    seeds = list(range(grown.seed, grown.seed + grown.seeds))
    if not set(seeds) <= done:
        raise RamifyError(
            f"{source} is not finished; go on with it by ramify grow --resume {source}, then "
            "retrain it."
        )
    first = [e for e in events if e["event"] == "epoch" and e["arm"] == "grown"]
    epochs = sum(event["seed"] == grown.seed for event in first)
    advice = "restore it from a copy, or grow the network again."
    recipes = [read_json(model_path(grown, folder, seed, ".json"), advice) for seed in seeds]
    values = {field.name: getattr(grown, field.name) for field in fields(TrainConfig)}
    return values | {"epochs": epochs, "span": "round"}, recipes


def _of_model(source: Path, given: dict[str, Any]) -> tuple[dict[str, Any], list[Recipe]]:
    stem = saved_stem(source, given, "retrain")
    defaults = DEFAULTS.get(given["data"], DEFAULTS["folder"])
    values = COMMON | defaults | {"width": None}
    advice = "ramify.save wrote it: copy it again."
    return values | {"epochs": values["epochs"] * (values["rounds"] + 1)}, [
        read_json(stem.with_name(stem.name + ".json"), advice)
    ]


def saved_stem(source: Path, given: Mapping[str, Any], verb: str) -> Path:
    """Where a network lies that `ramify.save` wrote.

    Args:
        source: What was given to it, or the folder it lies in.
        given: The settings given, which must say data and model.
        verb: What is to be done with it, for errors.

    Returns:
        The path without its ending.

    Raises:
        RamifyError: There is none, or it is not said what it is trained on.
    """
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
