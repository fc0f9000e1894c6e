"""ModelNet40 in the HDF5 files of PointNet: 2,048 points on the surface of each of 40 objects.

On the command line: ``--data experiments.s2d.points.modelnet:load``.

Shapes: N clouds, P points in a cloud.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from ramify.data import Dataset, as_dataset
from ramify.data.catalog import data_folder
from ramify.errors import RamifyError
from ramify.imports import require

FOLDERS = ("modelnet40", "modelnet40_ply_hdf5_2048")
POINTS = 1024  # of each cloud, as DGCNN uses them
CLASSES = tuple(
    (
        "airplane bathtub bed bench bookshelf bottle bowl car chair cone cup curtain desk door "
        "dresser flower_pot glass_box guitar keyboard lamp laptop mantel monitor night_stand "
        "person piano plant radio range_hood sink sofa stairs stool table tent toilet tv_stand "
        "vase wardrobe xbox"
    ).split()
)


def load() -> Dataset:
    """Read the official training and test split.

    The RAMIFY_DATA folder holds the unpacked ``modelnet40_ply_hdf5_2048/`` (or ``modelnet40/``):
    ``train_files.txt`` and ``test_files.txt``, which list the HDF5 files, and these files, each
    with ``data`` (N, 2048, 3) and ``label`` (N, 1).

    Returns:
        Clouds (N, 3, 1024): the first 1,024 points of each, with unchanged coordinates.

    Raises:
        RamifyError: if h5py is not installed, or a file is missing or damaged.

    Source: Z. Wu and others, "3D ShapeNets", 2015; files of C. Qi and others, "PointNet", 2017.
    """
    root = data_folder("modelnet40")
    folder = next((root / name for name in FOLDERS if (root / name).is_dir()), None)
    if folder is None:
        raise RamifyError(
            f"{root} does not hold modelnet40: unpack modelnet40_ply_hdf5_2048.zip there."
        )
    require("h5py", "experiments", "ModelNet40 is read by")
    x_train, y_train = _read_split(folder, folder / "train_files.txt")
    x_test, y_test = _read_split(folder, folder / "test_files.txt")
    read = SimpleNamespace(
        x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test, classes=CLASSES
    )
    return as_dataset(read, "modelnet40")


def _read_split(folder: Path, listing: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    if not listing.is_file():
        raise RamifyError(f"{listing} is missing: unpack modelnet40_ply_hdf5_2048.zip again.")
    names = [Path(line).name for line in listing.read_text().split()]  # listed under another root
    if not names:
        raise RamifyError(f"{listing} lists no files: unpack modelnet40_ply_hdf5_2048.zip again.")
    parts = [_read_file(folder / name) for name in names]
    clouds, labels = zip(*parts, strict=True)
    return np.concatenate(clouds), np.concatenate(labels)


def _read_file(path: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            data, label = np.asarray(file["data"]), np.asarray(file["label"])
    except (OSError, KeyError) as error:
        raise RamifyError(
            f"{path} cannot be read as an HDF5 file with data and label ({error}): unpack "
            "modelnet40_ply_hdf5_2048.zip again."
        ) from error
    if data.ndim != 3 or data.shape[1] < POINTS or data.shape[2] != 3 or label.size != len(data):
        raise RamifyError(
            f"{path} holds data of shape {data.shape} and {label.size} labels, where (N, 2048, 3) "
            "and N are expected: unpack modelnet40_ply_hdf5_2048.zip again."
        )
    clouds = np.ascontiguousarray(data[:, :POINTS].transpose(0, 2, 1), dtype=np.float32)
    return clouds, label.reshape(-1).astype(np.int64)
