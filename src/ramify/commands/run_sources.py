"""The sources of a run (settings, data, code, software), so that resuming notices changes."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ramify import distributed
from ramify.commands.run_folder import CONFIG, VERSIONS, RunFolder, versions
from ramify.commands.settings import DOORS, Settings
from ramify.data import Dataset
from ramify.data.dataset import MEMBERS
from ramify.errors import RamifyError
from ramify.store.files import read_json

SOURCES = "sources.json"
ANY = ("device", "tensorboard", "seeds")  # settings that do not affect the results of a seed
ADVICE = "restore it from a copy, or delete it to go on without."


def sources_of(settings: Settings, dataset: Dataset) -> dict[str, Any]:
    """The settings of a run, and digests of its data and of the user's code.

    Args:
        settings: The settings of the run; the user's modules that they name have been imported.
        dataset: The data of the run.

    Returns:
        Plain JSON: ``settings``; ``data``, a digest of the samples and labels; and ``code``, a
        digest of the file for each setting that names a module.

    Raises:
        RamifyError: The processes that work together have different sources.
    """
    code = {
        name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in _files_of(settings)
    }
    found = {"settings": settings.to_json(), "data": data_digest(dataset), "code": code}
    _check_ranks(distributed.all_gather(found))
    return found


def _check_ranks(found: Sequence[Mapping[str, Any]]) -> None:
    """Raise an error if the sources of a process differ from those of the first."""
    for rank, other in enumerate(found):
        first, second = found[0]["settings"], other["settings"]
        for name in sorted(set(first) & set(second)):
            if first[name] != second[name]:
                raise RamifyError(
                    f"{name} is {first[name]!r} on rank 0 and {second[name]!r} on rank {rank}: "
                    "start every process by the same command."
                )
        different = [f"data set {first['data']}"] if found[0]["data"] != other["data"] else []
        codes = found[0]["code"], other["code"]
        names = [name for name in first if codes[0].get(name) != codes[1].get(name)]
        different += [f"code of the {name} {first[name]}" for name in names]
        if different:
            raise RamifyError(
                f"the {different[0]} is not the same on rank 0 and on rank {rank}: give every "
                "process the same files, and what draws numbers a seed of its own."
            )


def data_digest(dataset: Dataset) -> str:
    """The SHA-256 of samples, labels, class names and the augmentation flag."""
    found = hashlib.sha256(repr((dataset.classes, dataset.augment)).encode())
    for name in MEMBERS:
        tensor: Tensor = getattr(dataset, name).contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.numpy().data)
    return found.hexdigest()


def changes(folder: RunFolder, settings: Settings, dataset: Dataset) -> Iterator[str]:
    """The changes since the run began that do not prevent resuming.

    Args:
        folder: The folder of the run.
        settings: Its settings.
        dataset: The data, loaded again.

    Yields:
        One sentence for each software package and each of the user's files that has changed.

    Raises:
        RamifyError: The settings or the data have changed.
    """
    path = folder.path / SOURCES
    kept = _table(path)
    _check_settings(kept.get("settings"), folder)
    now = sources_of(settings, dataset)
    if "data" in kept and kept["data"] != now["data"]:
        raise RamifyError(
            f"the data set {settings.data} is not the one that {folder.path} was started with: "
            f"restore it, or begin a new run in another folder; to go on with the changed data all "
            f"the same, delete {path}."
        )
    before = _table(folder.path / VERSIONS)
    for name, version in versions().items():
        if name in before and before[name] != version:
            yield (
                f"the run was started with {name} {before[name]}, and this is {version}: it "
                "continues, but its results may differ from those of an uninterrupted run."
            )
    known = kept.get("code")
    for name, digest in now["code"].items():
        if isinstance(known, Mapping) and known.get(name, digest) != digest:
            yield (
                f"the code of the {name} {getattr(settings, name)} has changed since the run began:"
                " it continues, but its result may differ from that of either version of the code."
            )


def _check_settings(kept: Any, folder: RunFolder) -> None:
    """Raise an error if the settings were edited, since old and new results would not agree."""
    if not isinstance(kept, Mapping):  # a folder of an earlier version
        return
    now = folder.config()
    for name in sorted(set(kept) & set(now) - set(ANY)):
        if kept[name] != now[name]:
            raise RamifyError(
                f"{folder.path / CONFIG} has {name} = {now[name]!r}, and the run was started with "
                f"{kept[name]!r}: write that there again, or begin a new run in another folder."
            )


def _table(path: Path) -> Mapping[str, Any]:
    """The table in a file; empty for folders of earlier versions, which lack the file."""
    found = read_json(path, ADVICE) if path.exists() else {}
    if not isinstance(found, dict):
        raise RamifyError(f"{path} holds no table; {ADVICE}")
    return found


def _files_of(settings: Settings) -> Iterator[tuple[str, Path]]:
    """Each setting that names a user's module, with the file of the module."""
    for name in DOORS:
        text = getattr(settings, name, None)
        module = sys.modules.get(str(text).partition(":")[0]) if ":" in str(text) else None
        file = getattr(module, "__file__", None)
        if file is not None and Path(file).is_file():
            yield name, Path(file)
