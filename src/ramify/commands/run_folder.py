"""A run folder: the settings, software versions, events and results of a run.

``config.json`` holds every setting, ``command.txt`` a command line that repeats the run,
``versions.json`` the software versions, ``sources.json`` digests of the data and of the user's
code, ``metrics.jsonl`` one event per line, ``checkpoint.safetensors`` the state to resume from,
``model.safetensors`` and ``model.json`` the final network of the first seed, ``model-SEED.*`` those
of the other seeds, and ``retrain`` the run folder of networks of the same shapes trained from
scratch. A search for cells has ``genotype.json`` and ``.txt`` instead of a model, ``space.json``,
and ``latency.json`` if latency was requested.
"""

import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ramify import distributed
from ramify.commands.run_lock import LOCK, locked
from ramify.data.catalog import has_no_file
from ramify.errors import RamifyError, check_plain
from ramify.imports import is_users, refuse_foreign
from ramify.store.disk import (
    is_temporary,
    make_folder,
    refusals_named,
    sweep,
    write_all,
)
from ramify.store.files import (
    append_line,
    bytes_writer,
    json_bytes,
    parse_json,
    read_json,
    write_lines,
)

CONFIG, VERSIONS, METRICS = "config.json", "versions.json", "metrics.jsonl"
CHECKPOINT = "checkpoint.safetensors"
COMMAND = "command.txt"  # the command line that repeats the run
RETRAINED = "retrain"  # the folder within that of a run
# Files that a folder may hold before config.json; without config.json the run has not begun.
FIRST = re.compile(rf"{LOCK}|command\.txt|versions\.json|sources\.json|shape(-\d+)?\.json")


def seen_in_place_of(path: Path, wanted: str) -> str:
    """What is at a path where a folder with a certain file was expected.

    Args:
        path: the path of the folder.
        wanted: the name of the file.

    Returns:
        The predicate of a sentence, such as ``"does not exist"``.
    """
    if path.is_dir():
        return f"has no {wanted}"
    return "is a file" if path.exists() else "does not exist"


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    Attributes:
        path: Its path.
    """

    path: Path

    @classmethod
    def create(
        cls,
        path: Path,
        config: Mapping[str, Any],
        beside: Mapping[str, Any] | None = None,
        command_line: str = "",
    ) -> "RunFolder":
        """Create the folder of a new run.

        Args:
            path: A new path, or a folder left by a process that was killed before the run began.
            config: The settings.
            beside: Other JSON files that the run needs, by name. They are written before
                ``config.json``, so that a folder with that file is complete.
            command_line: The command that repeats the run; no file is written if it is empty.

        Returns:
            The folder.

        Raises:
            RamifyError: The path is taken, another process works there, or writing fails.
        """
        files = {**(beside or {}), VERSIONS: versions(), CONFIG: dict(config)}
        typed = f"{command_line}\n".encode(errors="surrogateescape")
        lines = {COMMAND: typed} if command_line else {}
        contents = lines | {name: json_bytes(value) for name, value in files.items()}

        def write() -> None:
            _check_free(path)
            make_folder(path)
            with locked(path):
                _check_free(path)
                sweep(path, alone=True)
                write_all({path / name: bytes_writer(part) for name, part in contents.items()})

        distributed.from_rank_zero(write)
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """The folder of an existing run."""
        if not (path / CONFIG).exists():
            seen = seen_in_place_of(path, CONFIG)
            if runs := sorted(inside.parent for inside in path.glob(f"*/{CONFIG}")):
                raise RamifyError(
                    f"{path} is not a run folder but contains some, like the folder of a sweep: "
                    f"give one of them, such as {runs[0]}, or run ramify compare {path}."
                )
            raise RamifyError(
                f"{path} is not a run folder: it {seen}; give the folder of an earlier run, or "
                "begin a new one without --resume."
            )
        return cls(path)

    @property
    def checkpoint(self) -> Path:
        """The file from which the unfinished job resumes."""
        return self.path / CHECKPOINT

    def of_seed(self, stem: str, seed: int, suffix: str = "") -> Path:
        """A seed's file: ``model.json`` for the first seed, ``model-SEED.json`` for others."""
        return self.path / name_of_seed(stem, seed, self.config()["seed"], suffix)

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
        """Check that settings given again equal those of the run."""
        config = self.config()
        for key, value in given.items():
            if config.get(key) != value:
                raise RamifyError(
                    f"{self.path} was started with {key} = {config.get(key)!r}, not {value!r}; "
                    "resume without that option, or begin a new run in another folder."
                )

    def refuse_foreign(self, names: Iterable[str], given: Mapping[str, Any]) -> None:
        """Refuse to load what the settings name: a path that does not exist, or foreign code.

        Args:
            names: The settings that may name something to load.
            given: As for :func:`ramify.imports.refuse_foreign`.

        Raises:
            RamifyError: The data are not where they were, or code would be imported that is not the
                user's.
        """
        config, file = self.config(), self.path / CONFIG
        data = str(config.get("data"))
        missing = "data" in names and "data" not in given and has_no_file(data)
        if missing and not is_users(data.partition(":")[0], file):
            raise RamifyError(
                f"{self.path} is a run on the data {data}, and there is no such file or folder "
                "here: run the command in the directory in which that run was begun."
            )
        refuse_foreign(config, names, given, file)

    def append(self, event: Mapping[str, Any]) -> None:
        """Add one event to the metrics."""
        if not (self.path / CONFIG).exists():
            raise RamifyError(f"{self.path} was deleted, with its {CONFIG}: begin a new run.")
        append_line(self.path / METRICS, dict(event))

    def events(self) -> list[dict[str, Any]]:
        """Every event so far, without a last line that was truncated by a kill."""
        path = self.path / METRICS
        if path.exists():
            check_plain(path)
        lines = path.read_bytes().splitlines() if path.exists() else []
        events = []
        for number, line in enumerate(lines, start=1):
            try:
                event = parse_json(line.decode())
                kind, job = event["event"], event["job"]
                if not (isinstance(kind, str) and isinstance(job, str)):
                    raise TypeError
                events.append({"event": kind, "job": job} | event)
            except (ValueError, KeyError, TypeError):
                if number < len(lines):
                    raise RamifyError(
                        f"{path} is damaged at line {number}; restore it, or delete that line and "
                        "all after it and resume, which runs the jobs concerned again."
                    ) from None
        return events

    def rewrite(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Replace the metrics, to drop events that are newer than the checkpoint."""
        write_lines(self.path / METRICS, list(events))


def command_of(config: Mapping[str, Any]) -> str:
    """The command whose settings these are; folders of earlier versions do not name it."""
    return str(config.get("command", "retrain" if "source" in config else "grow"))


def name_of_seed(stem: str, seed: int, first: int, suffix: str = "") -> str:
    """The file name for a seed, in a run whose first seed is ``first``."""
    return (stem if seed == first else f"{stem}-{seed}") + suffix


def root_from(here: Path) -> Path:
    """The prefix of relative paths, in case a user's module changed the current directory.

    Args:
        here: The directory in which the command was started.

    Returns:
        An empty path if that is still the current directory; otherwise that directory.
    """
    return Path() if Path.cwd() == here else here


def _check_free(path: Path) -> None:
    """Raise an error if a new run would overwrite something."""
    with refusals_named(path):
        if not path.exists() or (path.is_dir() and all(map(_is_first, path.iterdir()))):
            return
        is_run = (path / CONFIG).exists()
    raise RamifyError(
        f"{path} already holds {'a run' if is_run else 'something'}; give another folder by --out"
        + (f", or resume that run with --resume {path}." if is_run else ".")
    )


def _is_first(path: Path) -> bool:
    return is_temporary(path.name) or FIRST.fullmatch(path.name) is not None


def versions() -> dict[str, str]:
    """The software of this process, by name."""
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
