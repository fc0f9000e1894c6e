"""A folder of images: train/CLASS/* and test/CLASS/*, or only CLASS/*, which is then split."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ramify.data.dataset import Dataset, RawSplit, from_raw
from ramify.data.splitting import for_testing
from ramify.errors import RamifyError, check_plain
from ramify.imports import require

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_SIDE = 1024  # pixels of the longer side; 18 photographs of 4000 by 3000 would take 2.4 GiB
GREY_MODES = {"1", "L", "LA"}
DEEP_MODES = ("I", "F")  # 16 and 32 bits a pixel, which a conversion to 8 bits would cut off


def load_folder(root: Path) -> Dataset:
    """Read the images of a folder with one sub-folder per class.

    All images are resized bilinearly to the size of the first one (first class, first file, by
    name), which may change their proportions; if its longer side has more than 1024 pixels, as in
    photographs, they are reduced to 1024, since the whole set is held in memory. They are read as
    greyscale if every image is grey, and as RGB otherwise. Transparency is dropped, and a rotation
    recorded by the camera is applied. Files without the extension of an image are ignored.

    Args:
        root: folder with ``train/CLASS/*`` and ``test/CLASS/*``, the same classes in both; or with
            ``CLASS/*``, where a fifth of each class becomes the test split, chosen by the names of
            the files, so that the split is always the same.

    Returns:
        The data set, named after the folder; classes in the order of their names.

    Raises:
        RamifyError: if a folder is missing or empty, the classes of the two splits differ, there
            are fewer than two, a class to split has one image, an image cannot be read, or Pillow
            is not installed.
    """
    require("PIL", "cli", "folders of images are read by Pillow, imported as")
    if any((root / split).is_dir() for split in ("train", "test")):
        files = {split: _class_files(root / split) for split in ("train", "test")}
    else:
        files = _divided(root, _class_files(root))
    if files["train"].keys() != files["test"].keys():
        raise RamifyError(
            f"{root / 'train'} and {root / 'test'} should have the same class folders, but only "
            f"one of them has {', '.join(sorted(files['train'].keys() ^ files['test'].keys()))}: "
            "add or remove those."
        )
    classes = tuple(files["train"])
    if len(classes) < 2:
        raise RamifyError(
            f"{root} has one class folder, {classes[0]}, where at least two are needed: "
            "put the images of each class into a folder of its own."
        )
    paths = [path for split in files.values() for group in split.values() for path in group]
    mode = "L" if {_mode(path) for path in paths} <= GREY_MODES else "RGB"
    size = _reduced(_open(paths[0], mode).size)
    train, test = (_read_split(list(split.values()), mode, size) for split in files.values())
    return from_raw(root.resolve().name, train, test, classes)


def _reduced(size: tuple[int, int]) -> tuple[int, int]:
    """A width and height of at most `MOST_SIDE`, in about the same proportion."""
    factor = min(1.0, MOST_SIDE / max(size))
    width, height = (max(1, round(factor * side)) for side in size)
    return width, height


def _divided(root: Path, classes: dict[str, list[Path]]) -> dict[str, dict[str, list[Path]]]:
    """The images of each class in two splits; adding images moves few others."""
    files: dict[str, dict[str, list[Path]]] = {"train": {}, "test": {}}
    for name, group in classes.items():
        if len(group) == 1:
            raise RamifyError(
                f"{root / name} has one image, and each class needs one to train on and one to "
                "test: add some, or make the folders train and test."
            )
        drawn = for_testing([path.name for path in group])
        files["train"][name] = [path for k, path in enumerate(group) if k not in drawn]
        files["test"][name] = [path for k, path in enumerate(group) if k in drawn]
    return files


def _class_files(split: Path) -> dict[str, list[Path]]:
    """Image files of every class folder, classes and files in the order of their names."""
    if not split.is_dir():
        raise RamifyError(
            f"{split} is not a folder: a folder of images needs train/CLASS/* and test/CLASS/*, or "
            "CLASS/* alone."
        )
    folders = sorted(path for path in split.iterdir() if _is_visible(path) and path.is_dir())
    if not folders:
        raise RamifyError(f"{split} has no class folders: put the images into {split}/CLASS/.")
    from PIL.Image import registered_extensions

    endings = registered_extensions()
    files = {
        folder.name: sorted(
            path
            for path in folder.iterdir()
            if _is_visible(path) and path.suffix.lower() in endings
        )
        for folder in folders
    }
    empty = [name for name, group in files.items() if not group]
    for folder in (split / name for name in empty):
        if inner := sorted(p.name for p in folder.iterdir() if _is_visible(p) and p.is_dir()):
            raise RamifyError(
                f"{folder} holds folders ({', '.join(inner[:3])}) and no images, where the images "
                f"of a class {folder.name} are expected: if its folders are the classes, or train "
                f"and test, give {folder}; otherwise put the images of each class directly into "
                "its folder."
            )
    if empty:
        raise RamifyError(
            f"{split} has no images of the class(es) {', '.join(empty)}: add some, or remove the "
            "folder(s)."
        )
    return files


def _is_visible(path: Path) -> bool:
    return not path.name.startswith(".")


def _mode(path: Path) -> str:
    from PIL.Image import open as read

    try:
        check_plain(path)
        with read(path) as image:
            mode = image.mode
    except Exception as error:  # damaged bytes make Pillow's readers raise nearly anything
        raise _unreadable(path, error) from error
    if mode.startswith(DEEP_MODES):
        raise RamifyError(
            f"{path} has more than 8 bits a pixel (mode {mode}), which are not read: save it as an "
            "8-bit image."
        )
    return mode


def _open(path: Path, mode: str) -> Image:
    from PIL import ImageOps
    from PIL.Image import open as read

    try:
        with read(path) as image:
            return ImageOps.exif_transpose(image).convert(mode)
    except Exception as error:  # as above
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> RamifyError:
    return RamifyError(f"{path} cannot be read as an image ({error}): replace or remove it.")


def _read_split(groups: list[list[Path]], mode: str, size: tuple[int, int]) -> RawSplit:
    from PIL.Image import Resampling

    paths = [path for group in groups for path in group]
    channels = len(mode)
    pixels = np.empty((len(paths), channels, size[1], size[0]), dtype=np.uint8)
    for row, path in zip(pixels, paths, strict=True):
        image = _open(path, mode)
        if image.size != size:
            image = image.resize(size, Resampling.BILINEAR)
        row[:] = np.asarray(image).reshape(size[1], size[0], channels).transpose(2, 0, 1)
    return RawSplit(pixels, np.repeat(np.arange(len(groups)), [len(group) for group in groups]))
