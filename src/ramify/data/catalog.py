"""Data sets by name: the built-in ones, files, folders, and the user's own objects."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from ramify.arguments import check_kind
from ramify.data.cifar import read_binary_batches, read_python_batches
from ramify.data.dataset import Dataset, RawSplit, as_dataset, from_raw
from ramify.data.digits import load_digits
from ramify.data.folder import load_folder
from ramify.data.idx import read_idx_split
from ramify.data.npz import load_npz, read_npz
from ramify.data.table import SUFFIX, load_table, table_of
from ramify.data.task import task_named
from ramify.errors import RamifyError, did_you_mean
from ramify.imports import made, makes_objects, object_at

VARIABLE = "RAMIFY_DATA"
CALTECH = "caltech20"


@dataclass(frozen=True)
class _Layout:
    """One official file layout of a data set: file names of the two splits, and their reader."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    read: Callable[[list[Path]], RawSplit]

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.train, *self.test)


@dataclass(frozen=True)
class _FileSet:
    """A data set stored in files: ``folders`` are the names of its folder, its own name first."""

    folders: tuple[str, ...]
    layouts: tuple[_Layout, ...]
    classes: tuple[str, ...]
    channels: int
    augment: bool = False

    @property
    def name(self) -> str:
        return self.folders[0]


_IDX = _Layout(
    train=("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    test=("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
    read=read_idx_split,
)

_FILE_SETS = (
    _FileSet(
        folders=("mnist", "MNIST"),
        layouts=(_IDX,),
        classes=tuple("0123456789"),
        channels=1,
    ),
    _FileSet(
        folders=("fashion-mnist", "FashionMNIST", "fashion_mnist"),
        layouts=(_IDX,),
        classes=(
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        channels=1,
    ),
    _FileSet(
        folders=("cifar10", "cifar-10-batches-py", "cifar-10-batches-bin"),
        layouts=(
            _Layout(
                train=tuple(f"data_batch_{i}" for i in range(1, 6)),
                test=("test_batch",),
                read=partial(read_python_batches, label_key="labels"),
            ),
            _Layout(
                train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
                test=("test_batch.bin",),
                read=partial(read_binary_batches, label_bytes=1),
            ),
        ),
        classes=tuple("airplane automobile bird cat deer dog frog horse ship truck".split()),
        channels=3,
        augment=True,
    ),
    _FileSet(
        folders=("cifar100", "cifar-100-python", "cifar-100-binary"),
        layouts=(
            _Layout(("train",), ("test",), partial(read_python_batches, label_key="fine_labels")),
            _Layout(("train.bin",), ("test.bin",), partial(read_binary_batches, label_bytes=2)),
        ),
        classes=tuple(
            (
                "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy "
                "bridge bus butterfly camel can castle caterpillar cattle chair chimpanzee clock "
                "cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish "
                "forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion "
                "lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange "
                "orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine "
                "possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper "
                "snail snake spider squirrel streetcar sunflower sweet_pepper table tank "
                "telephone television tiger tractor train trout tulip turtle wardrobe whale "
                "willow_tree wolf woman worm"
            ).split()
        ),
        channels=3,
        augment=True,
    ),
)


NAMES = ("digits", *(file_set.name for file_set in _FILE_SETS), CALTECH)


def load(name: str, seed: int = 0, *, task: str | None = None) -> Dataset:
    """Load a data set into memory.

    ``digits`` is part of scikit-learn. The other built-in sets are looked up in the folder that the
    environment variable RAMIFY_DATA names: as ``NAME.npz`` (x_train, y_train, x_test, y_test;
    uint8), or in their official files (idx, also compressed; CIFAR's Python or binary batches) in
    ``NAME/``, ``NAME/raw/`` or the folder itself, in this order. (MNIST and Fashion-MNIST use the
    same file names; to keep both, give each its own folder.) ``caltech20`` is a folder of that name
    with ``train/CLASS/*`` and ``test/CLASS/*`` images.

    Args:
        name: one of ``NAMES``; the path of a folder of images, ``train/CLASS/*`` and
            ``test/CLASS/*``, or ``CLASS/*``, which is split; ``FILE.csv``, whose last column is
            predicted, or ``FILE.csv:COLUMN``; any other NAME for ``NAME.npz`` in the
            folder RAMIFY_DATA, as :func:`ramify.data.npz.load_npz` reads it; or
            ``package.module:object`` for an object with the attributes of
            :class:`ramify.data.TrainTest`, or a function that returns one.
        seed: which split of the digits; the other sets have a fixed split.
        task: ``"classification"``, ``"regression"``, ``"segmentation"`` or ``"text"``; None to
            infer the task from the labels.

    Returns:
        The data set; ``augment`` is set for the CIFAR sets and caltech20.

    Raises:
        RamifyError: if the name is unknown, its files are missing or damaged, or its labels do not
            fit the task.

    Example:
        >>> load("digits").x_train.shape
        torch.Size([1437, 1, 8, 8])
    """
    check_kind(name, "name", str, Path, optional=False)
    check_kind(task, "task", str)
    if task is not None:
        task_named(task)
    return as_dataset(_found(name, seed, task), name, task)


def _found(name: str, seed: int, task: str | None) -> Dataset:
    """The data set of a name, for the given task or else its own."""
    # The named sets first, then folders, tables, objects and files of arrays.
    if name == "digits":
        return load_digits(seed)
    if name == CALTECH:
        return replace(load_folder(data_folder(name) / name), augment=True)
    for file_set in _FILE_SETS:
        if name == file_set.name:
            return _load_files(file_set, data_folder(name))
    if Path(name).is_dir():
        return load_folder(Path(name))
    if table := table_of(name):
        return load_table(*table, task)
    if all(name.partition(":")):
        found = _object(name)
        source = made(found, name, "data set") if makes_objects(found) else found
        return as_dataset(source, name, task)
    root = os.environ.get(VARIABLE)
    if root and (path := Path(root).expanduser() / f"{name}.npz").is_file():
        return load_npz(path, task)
    # Nothing has this name: say what the user may have meant.
    if name.endswith(".npz") and Path(name).is_file():
        raise RamifyError(
            f"{name!r} is a file, and sets of this kind are given by name: give "
            f"{Path(name).stem!r}, and its folder as the environment variable {VARIABLE}."
        )
    if Path(name).is_file():
        raise RamifyError(
            f"{name!r} is a file whose name does not end in .csv: if it is a table with cells "
            "separated by commas, semicolons or tabs, rename it to FILE.csv; give images as a "
            "folder, and arrays as the name of a .npz file in the folder that "
            f"{VARIABLE} names."
        )
    if "/" in name or name.startswith("."):
        raise RamifyError(
            f"there is no folder {name!r}: give the path of one with images in train/CLASS/* and "
            "test/CLASS/*, or in CLASS/*."
        )
    raise RamifyError(
        f"unknown data set {name!r}{did_you_mean(name, NAMES)}: give one of {', '.join(NAMES)}; "
        f"the name of a .npz file in the folder that {VARIABLE} names; package.module:object; the "
        "path of a folder with images in train/CLASS/* and test/CLASS/*; or FILE.csv."
    )


def _object(name: str) -> Any:
    """The object that ``package.module:object`` names."""
    try:
        return object_at(name, "data set")
    except RamifyError:
        file, column, _ = name.partition(f"{SUFFIX}:")
        if not column or name.partition(":")[0] in sys.modules:
            raise
        raise RamifyError(f"there is no file {file}{SUFFIX}: give the path of a table.") from None


def has_no_file(name: str) -> bool:
    """Whether a data set is named by the path of a file or folder, and there is none.

    Args:
        name: as for :func:`load`; ``FILE.csv:COLUMN`` counts as a path.

    Returns:
        False for a built-in set, a set of the folder RAMIFY_DATA, and ``package.module:object``.

    Example:
        >>> [has_no_file(name) for name in ("digits", "no/flowers", "no.csv:price", "numpy:zeros")]
        [False, True, True, False]
    """
    file, column, _ = name.partition(f"{SUFFIX}:")
    if name in NAMES or (":" in name and not column):
        return False
    root = os.environ.get(VARIABLE)
    places = [Path(file + SUFFIX)] if column else [Path(name)]
    places += [Path(root).expanduser() / f"{name}.npz"] if root else []
    return not any(place.exists() for place in places)


def data_folder(name: str) -> Path:
    """The folder that RAMIFY_DATA names, in which the set ``name`` is looked up."""
    value = os.environ.get(VARIABLE)
    if not value:
        raise RamifyError(
            f"{name} is read from files, but the environment variable {VARIABLE} is not set: set "
            "it to the folder that holds them, or use digits, which needs no files."
        )
    root = Path(value).expanduser()
    if not root.is_dir():
        raise RamifyError(
            f"{VARIABLE} is {value}, which is not a folder: set it to the folder that holds {name}."
        )
    return root


def _load_files(file_set: _FileSet, root: Path) -> Dataset:
    train, test = _read_splits(file_set, root)
    return from_raw(file_set.name, train, test, file_set.classes, augment=file_set.augment)


def _read_splits(file_set: _FileSet, root: Path) -> tuple[RawSplit, RawSplit]:
    """Read the first complete layout found; incomplete ones are skipped."""
    for folder in file_set.folders:
        if (path := root / f"{folder}.npz").is_file():
            return read_npz(path, file_set.channels)
    incomplete = ""
    for layout, place in product(file_set.layouts, _places(file_set, root)):
        files = _find(layout, place)
        missing = [name for name in layout.names if name not in files]
        if not missing:
            train, test = ([files[name] for name in part] for part in (layout.train, layout.test))
            return layout.read(train), layout.read(test)
        if files:
            incomplete = f"{place} has {', '.join(files)} but not {', '.join(missing)}"
    if incomplete:
        raise RamifyError(f"{incomplete}: add what is missing of {file_set.name}.")
    wanted = " or ".join(", ".join(layout.names) for layout in file_set.layouts)
    raise RamifyError(
        f"{root} does not hold {file_set.name}: put {file_set.name}.npz there (x_train, y_train, "
        f"x_test, y_test), or into {root / file_set.name} the official files {wanted}."
    )


def _places(file_set: _FileSet, root: Path) -> list[Path]:
    # The folder itself comes last: MNIST and Fashion-MNIST have files of the same names.
    own = [root / folder for folder in file_set.folders]
    return [*own, *(folder / "raw" for folder in own), root]


def _find(layout: _Layout, place: Path) -> dict[str, Path]:
    """Paths of the files of the layout that exist, plain or compressed."""
    choices = {name: (place / name, place / f"{name}.gz") for name in layout.names}
    return {
        name: next(path for path in paths if path.is_file())
        for name, paths in choices.items()
        if any(path.is_file() for path in paths)
    }
