"""Every setting of a growing run, with defaults for each data set."""

from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from ramify.errors import RamifyError
from ramify.methods import SplittingDescent
from ramify.models import NAMES
from ramify.run.training import Training
from ramify.select import Threshold, TopFraction

ARMS = ("grown", "seed", "scratch", "wide")


@dataclass(frozen=True)
class GrowConfig:
    """The settings of ``ramify grow``; a run folder keeps them in ``config.json``.

    Attributes:
        data: Name of a data set, or a folder of images.
        model: Name of a built-in network, or ``package.module:build``.
        width: Channels a layer of the seed network; None leaves it to the model.
        rounds: How often to split.
        epochs: Passes over the data in each round.
        batch_size: Samples a step.
        optimizer: As in :class:`Training`, like the next four.
        lr: Learning rate at the start of each round.
        momentum: Momentum of SGD.
        weight_decay: Applied to every parameter.
        schedule: Of the learning rate within a round.
        fraction: Share of the channels to split each round; None where the next two decide.
        most: The most channels to split each round.
        threshold: Split only channels whose splitting index is at most this.
        step: Displacement of the two halves of a split channel.
        surrogate: Sharpness of the softplus whose curvature stands in for that of piecewise-linear
            activations; 0 for the true curvature.
        probe_samples: Training samples on which the splitting matrices are averaged.
        seed: The first random seed.
        seeds: How many seeds, one after the other.
        compare: Also train the seed, the same shape from scratch and a uniformly wider network.
        device: ``"cpu"``, ``"cuda"``, ...
        threads: CPU threads of torch; part of the settings because the last bit of a sum hangs on
            their number.
    """

    data: str
    model: str
    width: int | None
    rounds: int
    epochs: int
    batch_size: int
    optimizer: str
    lr: float
    momentum: float
    weight_decay: float
    schedule: str
    fraction: float | None
    most: int | None
    threshold: float | None
    step: float
    surrogate: float
    probe_samples: int
    seed: int
    seeds: int
    compare: bool
    device: str
    threads: int

    @classmethod
    def resolve(cls, given: dict[str, Any]) -> "GrowConfig":
        """Fill in what the user left open, from the defaults of the data set.

        Args:
            given: Settings by name; those left open are absent.

        Returns:
            All settings.

        Raises:
            RamifyError: Settings exclude each other or are out of range.
        """
        both = {"fraction"} & set(given) and {"most", "threshold"} & set(given)
        if both:
            raise RamifyError(
                "fraction was given together with most or threshold; choose a share of the channels"
                " (fraction), or Algorithm 1's number and threshold (most, threshold)."
            )
        values = COMMON | DEFAULTS.get(given["data"], DEFAULTS["folder"])
        values = {"threads": torch.get_num_threads()} | values | given
        if values["model"] not in NAMES and "width" not in given:
            values["width"] = None  # a function of the user's need not take one
        if {"most", "threshold"} & set(given):
            values["fraction"] = None
        config = cls(**values)
        for name in ("batch_size", "probe_samples", "seeds", "threads"):
            if values[name] < 1:
                raise RamifyError(f"{name} is {values[name]}; it must be at least 1.")
        if config.threshold is not None and config.threshold > 0:
            raise RamifyError(
                f"threshold is {config.threshold}; only splitting indices below 0 pay, so it is "
                "0 or less."
            )
        if config.rounds < 0:
            raise RamifyError(f"rounds is {config.rounds}; it must not be negative.")
        config.training(), config.rule(), config.method()
        return config

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "GrowConfig":
        """The settings that a run folder keeps.

        Args:
            values: What :meth:`to_json` gave.

        Returns:
            All settings.

        Raises:
            RamifyError: A setting is missing or unknown.
        """
        wrong = {field.name for field in fields(cls)} ^ set(values)
        if wrong:
            raise RamifyError(
                f"config.json is damaged or of another version of Ramify ({min(wrong)} is missing "
                "or unknown); restore it, or begin a new run in another folder."
            )
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """The settings as plain values."""
        return asdict(self)

    def arms(self) -> tuple[str, ...]:
        """The networks that each seed trains."""
        return ARMS if self.compare else ARMS[:1]

    def training(self) -> Training:
        """How to train in each round."""
        return Training(
            epochs=self.epochs,
            optimizer=self.optimizer,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
        )

    def method(self) -> SplittingDescent:
        """What proposes the splits."""
        return SplittingDescent(step=self.step, surrogate=self.surrogate or None)

    def rule(self) -> TopFraction | Threshold:
        """What selects among them."""
        if self.fraction is not None:
            return TopFraction(self.fraction)
        return Threshold(most=self.most, index=self.threshold or 0.0)


COMMON: dict[str, Any] = {
    "rounds": 4,
    "width": None,
    "optimizer": "sgd",
    "lr": 0.1,
    "momentum": 0.9,
    "schedule": "cosine",
    "fraction": 0.35,
    "most": None,
    "threshold": None,
    "surrogate": 3.0,
    "seed": 0,
    "seeds": 1,
    "compare": False,
    "device": "cpu",
}
# One thread for the small net: on tensors of its size a second one only waits for the first.
SMALL = {"model": "digits_net", "width": 4, "step": 0.1, "probe_samples": 1024, "threads": 1}
LARGE = {"model": "vgg19", "width": 16, "step": 0.01, "probe_samples": 512}
MNIST = SMALL | {"epochs": 2, "batch_size": 128, "weight_decay": 5e-4}
CIFAR = LARGE | {"rounds": 2, "epochs": 4, "batch_size": 64, "weight_decay": 1e-4}
DEFAULTS: dict[str, dict[str, Any]] = {
    "digits": SMALL | {"epochs": 20, "batch_size": 64, "weight_decay": 5e-3},
    "mnist": MNIST,
    "fashion-mnist": MNIST,
    "cifar10": CIFAR,
    "cifar100": CIFAR,
    "folder": SMALL | {"epochs": 10, "batch_size": 64, "weight_decay": 5e-4},
}
