"""Spoken digits: recordings as MFCC features.

On the command line: ``--data experiments.s2d.speech.recordings:load``.

Shapes: N recordings, T frames, F coefficients.
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

FOLDERS = ("spoken-digits", "fsdd", "free-spoken-digit-dataset")
RATE = 8000  # samples a second
LENGTH = RATE  # of a recording: one second, cut or filled with silence
WINDOW, HOP = RATE * 40 // 1000, RATE * 20 // 1000  # 40 ms every 20 ms: 49 frames
BANDS, COEFFICIENTS = 40, 10
TEST_TAKES = 5  # of each digit by each speaker: takes 0 to 4 are the official test split


def load() -> Dataset:
    """Read the Free Spoken Digit Dataset: 3,000 recordings of ten digits by six speakers.

    A recording, ``DIGIT_SPEAKER_TAKE.wav``, becomes 10 coefficients (MFCC) of 49 windows of 40 ms,
    the features that DS-CNN was designed for. Each coefficient is normalised by its mean and
    standard deviation over all frames of the training recordings.

    The RAMIFY_DATA folder holds ``spoken-digits/``, ``fsdd/`` or ``free-spoken-digit-dataset/``,
    with the files in ``train/`` and ``test/``, or all in ``recordings/`` as in the official
    repository; then takes 0 to 4 are the test split.

    Returns:
        Features (N, 1, 49, 10); ``mean`` and ``std`` have one entry per coefficient.

    Raises:
        RamifyError: if librosa is not installed, or a file is missing or damaged.

    Source: Z. Jackson and others, "Free Spoken Digit Dataset"; features of Y. Zhang and others,
    "Hello edge: keyword spotting on microcontrollers", 2017, section 4.
    """
    splits = _find(data_folder("spoken-digits"))
    for package in ("librosa", "soundfile"):
        require(package, "experiments", "spoken digits are read by")
    (x_train, y_train), (x_test, y_test) = (_read_split(paths) for paths in splits)
    mean, std = x_train.mean((0, 1, 2)), x_train.std((0, 1, 2))
    std = np.where(std > 0, std, 1).astype(np.float32)
    features = SimpleNamespace(
        x_train=(x_train - mean) / std,
        y_train=y_train,
        x_test=(x_test - mean) / std,
        y_test=y_test,
        classes=tuple("zero one two three four five six seven eight nine".split()),
        mean=mean.tolist(),
        std=std.tolist(),
    )
    return as_dataset(features, "spoken-digits")


def mfcc(wave: NDArray[np.float32]) -> NDArray[np.float32]:
    """The features of one recording.

    Args:
        wave: any number of samples, at 8,000 per second.

    Returns:
        Coefficients (49, 10), in the order of the windows.
    """
    import librosa

    wave = librosa.util.fix_length(wave, size=LENGTH)
    coefficients: NDArray[np.float32] = librosa.feature.mfcc(
        y=wave,
        sr=RATE,
        n_mfcc=COEFFICIENTS,
        n_mels=BANDS,
        n_fft=WINDOW,
        hop_length=HOP,
        center=False,
    )
    return coefficients.T


def _find(root: Path) -> tuple[list[Path], list[Path]]:
    """The recordings of the training and of the test split."""
    for folder in (root / name for name in FOLDERS):
        if (folder / "recordings").is_dir():
            every = sorted((folder / "recordings").glob("*.wav"))
            splits = [p for p in every if not _is_test(p)], [p for p in every if _is_test(p)]
        elif folder.is_dir():
            splits = sorted(folder.glob("train/*.wav")), sorted(folder.glob("test/*.wav"))
        else:
            continue
        if all(splits):
            return splits
        raise RamifyError(
            f"{folder} holds {len(splits[0])} training and {len(splits[1])} test recordings, and "
            "both are needed: put the files into train/ and test/, or all into recordings/."
        )
    raise RamifyError(
        f"{root} does not hold spoken-digits: unpack the Free Spoken Digit Dataset into "
        f"{root / FOLDERS[0]}, its files in recordings/, or in train/ and test/."
    )


def _is_test(path: Path) -> bool:
    take = path.stem.rpartition("_")[2]
    return take.isdigit() and int(take) < TEST_TAKES


def _read_split(paths: list[Path]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    features = np.stack([mfcc(_wave(path)) for path in paths])[:, None]
    return features, np.array([_digit(path) for path in paths])


def _digit(path: Path) -> int:
    digit = path.name.partition("_")[0]
    if len(digit) != 1 or not digit.isdecimal():
        raise RamifyError(
            f"{path} is not named as a recording of a digit: its name is DIGIT_SPEAKER_TAKE.wav."
        )
    return int(digit)


def _wave(path: Path) -> NDArray[np.float32]:
    import librosa
    import soundfile

    try:
        sound, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise RamifyError(
            f"{path} cannot be read as a recording ({error}): replace or remove it."
        ) from error
    if not len(sound):
        raise RamifyError(f"{path} holds no sound: replace or remove it.")
    wave: NDArray[np.float32] = librosa.resample(sound.mean(1), orig_sr=rate, target_sr=RATE)
    return wave
