"""Point clouds of ten parametric shapes, generated from a seed without any files.

On the command line: ``--data experiments.s2d.points.shapes:load``.

Shapes: N clouds, P points in a cloud, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from ramify.data import Dataset, as_dataset

Points = NDArray[np.float64]  # (P, 3)
Generator = np.random.Generator

POINTS = 128
TRAIN, TEST = 160, 60  # clouds of each class
NOISE = 0.04  # deviation of every coordinate, where the largest radius is 1
FLAT = (0.35, 0.85)  # second and third radius of the ellipsoid, as drawn between


def _sphere(count: int, draw: Generator) -> Points:
    points = draw.normal(size=(count, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def _ellipsoid(count: int, draw: Generator) -> Points:
    return _sphere(count, draw) * np.array([1.0, *draw.uniform(*FLAT, size=2)])


def _cube(count: int, draw: Generator) -> Points:
    points = draw.uniform(-1, 1, size=(count, 3))
    face = draw.integers(3, size=count)
    points[np.arange(count), face] = draw.choice([-1.0, 1.0], size=count)
    return points


def _disc(count: int, draw: Generator) -> Points:
    radius, angle = np.sqrt(draw.uniform(size=count)), _angles(count, draw)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), np.zeros(count)], axis=1)


def _cylinder(count: int, draw: Generator) -> Points:
    height = draw.uniform(1.0, 2.5)
    points = _disc(count, draw)
    side = draw.uniform(size=count) < height / (height + 1)  # 2πh of the side, 2π of both ends
    points[side, :2] /= np.linalg.norm(points[side, :2], axis=1, keepdims=True)
    points[:, 2] = np.where(
        side, draw.uniform(-0.5, 0.5, size=count), draw.choice([-0.5, 0.5], size=count)
    )
    return points * np.array([1.0, 1.0, height])


def _cone(count: int, draw: Generator) -> Points:
    height = draw.uniform(1.0, 2.5)
    slope = math.hypot(1.0, height)
    points = _disc(count, draw)
    side = draw.uniform(size=count) < slope / (slope + 1)  # π·slope of the side, π of the base
    points[side, 2] = height * (1 - np.linalg.norm(points[side, :2], axis=1))
    return points


def _pyramid(count: int, draw: Generator) -> Points:
    height = draw.uniform(1.0, 2.5)
    slope = math.hypot(1.0, height)
    points = np.zeros((count, 3))
    points[:, :2] = draw.uniform(-1, 1, size=(count, 2))
    side = draw.uniform(size=count) < slope / (slope + 1)  # 4·slope of the sides, 4 of the base
    points[side, 2] = height * (1 - np.abs(points[side, :2]).max(axis=1))
    return points


def _torus(count: int, draw: Generator) -> Points:
    tube = draw.uniform(0.2, 0.45)
    around = np.empty(0)
    while len(around) < count:  # the outer side has more room than the inner
        angle = _angles(2 * count, draw)
        kept = draw.uniform(size=2 * count) * (1 + tube) < 1 + tube * np.cos(angle)
        around = np.concatenate([around, angle[kept]])
    around, along = around[:count], _angles(count, draw)
    radius = 1 + tube * np.cos(around)
    return np.stack([radius * np.cos(along), radius * np.sin(along), tube * np.sin(around)], axis=1)


def _helix(count: int, draw: Generator) -> Points:
    turns, height = draw.uniform(1.5, 3.0), draw.uniform(1.0, 2.5)
    time = draw.uniform(size=count)
    angle = 2 * math.pi * turns * time
    return np.stack([np.cos(angle), np.sin(angle), height * time], axis=1)


def _moebius(count: int, draw: Generator) -> Points:
    width = draw.uniform(0.3, 0.6)
    angle, across = _angles(count, draw), draw.uniform(-width, width, size=count)
    radius = 1 + across * np.cos(angle / 2)
    height = across * np.sin(angle / 2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=1)


def _saddle(count: int, draw: Generator) -> Points:
    bend = draw.uniform(0.4, 1.0)
    x, y = draw.uniform(-1, 1, size=(2, count))
    return np.stack([x, y, bend * (x**2 - y**2)], axis=1)


def _angles(count: int, draw: Generator) -> NDArray[np.float64]:
    return draw.uniform(0, 2 * math.pi, size=count)


SHAPES: dict[str, Callable[[int, Generator], Points]] = {
    "sphere": _sphere,
    "ellipsoid": _ellipsoid,
    "cube": _cube,
    "cylinder": _cylinder,
    "cone": _cone,
    "pyramid": _pyramid,
    "torus": _torus,
    "helix": _helix,
    "moebius strip": _moebius,
    "saddle": _saddle,
}


def cloud(shape: str, draw: Generator, points: int = POINTS) -> NDArray[np.float32]:
    """Draw one cloud: points on the surface, centred, scaled, randomly rotated, with noise.

    Args:
        shape: a name in ``SHAPES``; free parameters, such as a height, are drawn at random.
        draw: the random generator.
        points: number of points, P.

    Returns:
        Coordinates (3, P). Before the noise the centre is 0 and the largest radius 1.
    """
    surface = SHAPES[shape](points, draw)
    surface = surface - surface.mean(axis=0)
    surface /= np.linalg.norm(surface, axis=1).max()
    turned = surface @ _rotation(draw) + draw.normal(scale=NOISE, size=(points, 3))
    return turned.T.astype(np.float32)


def _rotation(draw: Generator) -> NDArray[np.float64]:
    """A uniformly random rotation (3, 3): a random basis with the signs made unique."""
    basis, upper = np.linalg.qr(draw.normal(size=(3, 3)))
    basis = basis * np.sign(np.diag(upper))
    return basis * np.linalg.det(basis)  # the determinant is 1 or -1: no mirror images


def load(seed: int = 0) -> Dataset:
    """Draw the training and the test clouds, equally many of every shape.

    Args:
        seed: of the clouds; all results of the project use 0.

    Returns:
        1,600 training and 600 test clouds (N, 3, 128), with unchanged coordinates.
    """
    train, test = np.random.default_rng(seed).spawn(2)
    (x_train, y_train), (x_test, y_test) = _split(train, TRAIN), _split(test, TEST)
    drawn = SimpleNamespace(
        x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test, classes=tuple(SHAPES)
    )
    return as_dataset(drawn, "shapes")


def _split(draw: Generator, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    clouds = np.stack([cloud(shape, draw) for shape in SHAPES for _ in range(count)])
    return clouds, np.repeat(np.arange(len(SHAPES), dtype=np.int64), count)
