"""A run folder: what was asked, with which software, what happened, and what came of it.

``config.json`` holds every setting, ``versions.json`` the software, ``metrics.jsonl`` one event a
line, ``checkpoint.safetensors`` where to go on from, ``model.safetensors`` and ``model.json`` the
grown network of the first seed, ``model-SEED.*`` those of the others, ``retrain`` the run folder of
what was trained from scratch in their shapes. A search for cells has ``genotype.json`` and ``.txt``
in the place of a model, ``space.json``, and ``latency.json`` where latency was asked for.
"""

import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ramify.errors import RamifyError
from ramify.imports import refuse_foreign
from ramify.store.files import read_json, write_json, write_lines

CONFIG, VERSIONS, METRICS = "config.json", "versions.json", "metrics.jsonl"
CHECKPOINT = "checkpoint.safetensors"
RETRAINED = "retrain"  # the folder within that of a run


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    Attributes:
        path: Where it is.
    """

    path: Path

    @classmethod
    def create(cls, path: Path, config: Mapping[str, Any]) -> "RunFolder":
        """Make the folder of a new run."""
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            is_run = (path / CONFIG).exists()
            raise RamifyError(
                f"{path} already holds {'a run' if is_run else 'something'}; give another "
                "folder by --out"
                + (f", or go on with that run by --resume {path}." if is_run else ".")
            )
        try:
            write_json(path / VERSIONS, _versions())
            write_json(path / CONFIG, dict(config))
        except OSError as error:
            raise RamifyError(
                f"{path} cannot be written ({error.strerror}); give another folder by --out."
            ) from error
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """The folder of a run that was begun before."""
        if not (path / CONFIG).exists():
            seen = f"has no {CONFIG}" if path.is_dir() else "does not exist"
            raise RamifyError(
                f"{path} is not a run folder: it {seen}; give the folder of an earlier run, or "
                "begin a new one without --resume."
            )
        return cls(path)

    @property
    def checkpoint(self) -> Path:
        """The file from which the unfinished job goes on."""
        return self.path / CHECKPOINT

    def of_seed(self, stem: str, seed: int, suffix: str = "") -> Path:
        """A file that each seed has: ``model.json`` of the first, ``model-SEED.json`` of others."""
        first = seed == self.config()["seed"]
        return self.path / ((stem if first else f"{stem}-{seed}") + suffix)

    def config(self) -> dict[str, Any]:
        """The settings of the run."""
        advice = "restore it from a copy, or begin a new run in another folder."
        config = read_json(self.path / CONFIG, advice)
        if not isinstance(config, dict):
            raise RamifyError(f"{self.path / CONFIG} does not hold settings; {advice}")
        return config

    def command(self) -> str:
        """The command that began the run, such as ``grow``."""
        return command_of(self.config())

    def check(self, given: Mapping[str, Any]) -> None:
        """Make sure that settings given again are those of the run."""
        config = self.config()
        for key, value in given.items():
            if config.get(key) != value:
                raise RamifyError(
                    f"{self.path} was begun with {key} = {config.get(key)!r}, not {value!r}; "
                    "resume without that option, or begin a new run in another folder."
                )

    def refuse_foreign(self, names: Iterable[str], given: Mapping[str, Any]) -> None:
        """Refuse to import what the settings name: see :func:`ramify.imports.refuse_foreign`."""
        refuse_foreign(self.config(), names, given, self.path / CONFIG)

    def append(self, event: Mapping[str, Any]) -> None:
        """Add one event to the metrics."""
        with (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")

    def events(self) -> list[dict[str, Any]]:
        """Every event so far; a last line that a kill cut short is left out."""
        path = self.path / METRICS
        lines = path.read_bytes().splitlines() if path.exists() else []
        events = []
        for number, line in enumerate(lines, start=1):
            try:
                event = json.loads(line)
                events.append({"event": event["event"], "job": event["job"]} | event)
            except (ValueError, KeyError, TypeError):
                if number < len(lines):
                    raise RamifyError(
                        f"{path} is damaged at line {number}; restore it, or delete that line and "
                        "all after it and resume, which runs the jobs concerned again."
                    ) from None
        return events

    def rewrite(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Replace the metrics: cut back what the checkpoint does not know of."""
        write_lines(self.path / METRICS, list(events))


def command_of(config: Mapping[str, Any]) -> str:
    """The command whose settings these are; folders of earlier versions do not name it."""
    return str(config.get("command", "retrain" if "source" in config else "grow"))


def _versions() -> dict[str, str]:
    try:
        own = version("ramify")
    except PackageNotFoundError:
        own = "not installed"
    return {
        "ramify": own,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }
