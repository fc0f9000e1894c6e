"""The default value of every setting: one table, read from top to bottom.

A row applies if all of its conditions hold: the kind of run, the data set, the method, the space.
Its values override those of earlier rows, and the user's values override all of them. A few
defaults depend on other values (for example, the epochs of a phase are those of a round); these are
in `fill` of the settings of each command.
"""

from collections.abc import Mapping
from typing import Any

from ramify.errors import RamifyError

CIFAR = ("cifar10", "cifar100")
MNIST = ("mnist", "fashion-mnist")
DATA_SETS = ("digits", *MNIST, *CIFAR, "caltech20")
OTHER = "other"  # a folder of images, a .npz file, or the user's own object
TABLE_DATA = "table"  # a .csv file, or a column of one
SMALL, LARGE = ("digits", *MNIST, OTHER, TABLE_DATA), (*CIFAR, "caltech20")
WIDTHS, FITS = ("grow", "prune"), ("grow", "prune", "retrain-cells")

Row = tuple[dict[str, str | tuple[str, ...]], dict[str, Any]]

# fmt: off
TABLE: tuple[Row, ...] = (
    # --- every command; None for threads means all of the machine's
    ({}, {"seed": 0, "seeds": 1, "device": "cpu", "threads": None, "tensorboard": False}),

    # --- how networks are trained
    ({"kind": FITS}, {
        "optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": False,
        "schedule": "cosine", "milestones": (0.5, 0.75), "span": "round", "warmup": 0.0,
        "label_smoothing": 0.0}),

    # --- ramify grow
    ({"kind": "grow"}, {
        "method": "gauss-newton", "rounds": 4, "multiple_of": 1, "fraction": 0.35,
        "per_layer": False, "tradeoff": 3e-7, "surrogate": 3.0, "step": 0.1, "step_unit": "kernel",
        "trial": True, "rescale": True, "depth": False, "bottlenecks": False, "compare": False}),

    # --- by data set: a small network on small images, what the papers take on others. The small
    #     one has one thread: on tensors of its size a second one only waits for the first.
    ({"kind": WIDTHS, "data": SMALL}, {
        "model": "digits_net", "width": 4, "probe_samples": 1024, "threads": 1}),
    ({"kind": WIDTHS, "data": LARGE}, {
        "model": "vgg19", "width": 16, "probe_samples": 512, "rounds": 2}),
    ({"kind": WIDTHS, "data": "digits"}, {"epochs": 20, "batch_size": 64, "weight_decay": 5e-3}),
    ({"kind": WIDTHS, "data": MNIST}, {"epochs": 2, "batch_size": 128, "weight_decay": 5e-4}),
    ({"kind": WIDTHS, "data": CIFAR}, {"epochs": 4, "batch_size": 64, "weight_decay": 1e-4}),
    ({"kind": WIDTHS, "data": "caltech20"}, {
        "model": "mobilenet_v2", "probe_samples": 256, "epochs": 10, "batch_size": 32,
        "weight_decay": 1e-4, "lr": 0.05}),
    ({"kind": WIDTHS, "data": OTHER}, {"epochs": 10, "batch_size": 64, "weight_decay": 5e-4}),
    ({"kind": WIDTHS, "data": TABLE_DATA}, {
        "model": "mlp", "width": 8, "epochs": 20, "batch_size": 32, "optimizer": "adamw",
        "lr": 0.01, "weight_decay": 0.01}),

    # --- by growth method
    ({"kind": "grow", "method": "s3d"}, {"signed": 1.3, "copies": (2,)}),
    ({"kind": "grow", "method": "gauss-newton"}, {
        "fraction": 0.3, "schedule": "steps", "span": "run", "radius": 1.0,
        "curvature": "fisher", "morphism_lr": 0.01}),
    ({"kind": "grow", "method": "expansion"}, {"probe_samples": 256}),

    # --- ramify prune, which begins with a full network where ramify grow begins with a narrow one
    ({"kind": "prune"}, {
        "width": None, "searcher": "takeover", "lam": 1.0, "beta": 0.01, "gamma": 1e-4,
        "budget": {"macs": "50%"}, "per_layer": False, "multiple_of": 1, "keep": 0.1,
        "raw": False, "refit": True, "rounds": 1, "depth": False, "sensitivity": False,
        "from_scratch": False, "temperature": 2.0}),
    ({"kind": "prune", "data": ("digits", *MNIST)}, {"model": "digits_net", "width": 16}),
    ({"kind": "prune", "data": CIFAR}, {"model": "preresnet20", "epochs": 10}),
    ({"kind": "prune", "data": TABLE_DATA}, {"width": 32}),

    # --- ramify search: seconds, to see it work; on CIFAR as DARTS and the RARTS thesis (3.2.1),
    #     which leaves λ and β open
    ({"kind": "search"}, {
        "space": "darts", "searcher": "rarts", "channels": 4, "cells": 3, "epochs": 5,
        "batch_size": 64, "lr": 0.025, "weight_decay": 3e-4,
        "arch_lr": 0.01, "arch_weight_decay": 1e-3, "lam": 1.0, "beta": 0.1,
        "latency_weight": 0.0, "warmup_epochs": 0, "partial_channels": 1, "select": "mixing",
        "threads": 1}),
    ({"kind": "search", "space": "nats"}, {"cells": 1, "weight_decay": 5e-4}),
    ({"kind": "search", "data": CIFAR}, {
        "channels": 16, "cells": 8, "epochs": 50, "arch_lr": 3e-4, "threads": None}),
    ({"kind": "search", "data": CIFAR, "space": "nats"}, {"cells": 5}),

    # --- ramify retrain, of cells: likewise; on CIFAR those of darts as DARTS trains its networks,
    #     those of nats as NAS-Bench-201. Elsewhere a network is as large as the supernet was.
    ({"kind": "retrain-cells"}, {
        "epochs": 20, "batch_size": 64, "lr": 0.025, "weight_decay": 3e-4,
        "auxiliary": 0.0, "drop_path": 0.0, "cutout": 0}),
    ({"kind": "retrain-cells", "space": "nats"}, {
        "nesterov": True, "lr": 0.1, "weight_decay": 5e-4}),
    ({"kind": "retrain-cells", "data": CIFAR}, {
        "channels": 36, "cells": 20, "epochs": 600, "batch_size": 96,
        "auxiliary": 0.4, "drop_path": 0.2, "cutout": 16}),
    ({"kind": "retrain-cells", "data": CIFAR, "space": "nats"}, {
        "channels": 16, "cells": 5, "epochs": 200, "batch_size": 256,
        "auxiliary": 0.0, "drop_path": 0.0, "cutout": 0}),
)
# fmt: on


def defaults(kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The default values for the given settings.

    Args:
        kind: The kind of run.
        given: Settings by name; ``data``, ``method`` and ``space`` determine other defaults.

    Returns:
        The values of all rows that apply.

    Raises:
        RamifyError: No data set is given.

    Example:
        >>> values = defaults("search", {"data": "cifar10", "space": "nats"})
        >>> values["channels"], values["cells"], values["searcher"]
        (16, 5, 'rarts')
    """
    if "data" not in given:
        raise RamifyError("no data set was given; try --data digits, or --resume RUN.")
    data = given["data"]
    if data not in DATA_SETS:
        data = TABLE_DATA if data.partition(":")[0].endswith(".csv") else OTHER
    values: dict[str, Any] = {}
    for conditions, own in TABLE:
        known = {**values, **given, "kind": kind, "data": data}
        if all(known.get(name) in _several(wanted) for name, wanted in conditions.items()):
            values |= own
    return values


def default_in_words(kind: str, name: str) -> str:
    """The default of a setting, in words for the help.

    Args:
        kind: The kind of run.
        name: The name of the setting.

    Returns:
        A value, or what it depends on; empty if the help text already says it.

    Example:
        >>> default_in_words("search", "beta"), default_in_words("search", "channels")
        ('0.1', 'depends on the data set')
    """
    rows = [(conditions, own[name]) for conditions, own in TABLE if name in own]
    rows = [row for row in rows if _of(row[0], kind)]
    always = [number for number, (conditions, _) in enumerate(rows) if set(conditions) <= {"kind"}]
    rows = rows[always[-1] :] if always else rows  # earlier rows are overridden
    others = {condition for conditions, _ in rows for condition in conditions} - {"kind"}
    if others and len(rows) > 1:
        words = {"data": "the data set"}
        return f"depends on {' and '.join(words.get(o, f'--{o}') for o in sorted(others))}"
    value = rows[-1][1] if rows else None
    if value is None or isinstance(value, bool):
        return ""
    if isinstance(value, dict):
        return ", ".join(f"{key}={most}" for key, most in value.items())
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _of(conditions: Mapping[str, Any], kind: str) -> bool:
    return "kind" not in conditions or kind in _several(conditions["kind"])


def _several(wanted: str | tuple[str, ...]) -> tuple[str, ...]:
    return (wanted,) if isinstance(wanted, str) else wanted
