"""Every setting of a run, with defaults for each data set and method."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields
from types import NoneType, UnionType
from typing import Any, ClassVar, Self, get_args, get_origin, get_type_hints

import torch

from ramify.commands.method_settings import OPTIONS, check_options, named
from ramify.errors import RamifyError
from ramify.methods import Method
from ramify.models import NAMES
from ramify.select import Rule, Threshold, TopFraction, TradeOff
from ramify.train.epoch import Training
from ramify.train.rounds import checked_budget, checked_rounds

ARMS = ("grown", "seed", "scratch", "wide")
# At most, where a budget is to end the run; a schedule over the run must know how long that is.
MANY_ROUNDS = 20


@dataclass(frozen=True)
class RunConfig(ABC):
    """The settings of a command that makes a run folder, which keeps them in ``config.json``.

    Attributes:
        command: The command's name.
        data: Name of a data set, or a folder of images.
        epochs: Passes over the data, of a run that changes shapes in each round.
        batch_size: Samples a step.
        seed: The first random seed.
        seeds: How many seeds, one after the other.
        device: ``"cpu"``, ``"cuda"``, ...
        threads: CPU threads of torch; part of the settings because the last bit of a sum hangs on
            their number.
    """

    command: ClassVar[str]
    data: str
    epochs: int
    batch_size: int
    seed: int
    seeds: int
    device: str
    threads: int

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The settings that a run folder keeps.

        Args:
            values: What :meth:`to_json` gave.

        Returns:
            All settings.

        Raises:
            RamifyError: A setting is missing, unknown, of another type or out of range.
        """
        values = {key: value for key, value in values.items() if key != "command"}
        wrong = {field.name for field in fields(cls)} ^ set(values)
        if wrong:
            raise RamifyError(
                f"config.json is damaged or of another version of Ramify ({min(wrong)} is missing "
                "or unknown); restore it, or begin a new run in another folder."
            )
        hints = get_type_hints(cls)
        for name in values:
            if not _is_a(values[name], kind := hints[name]):
                raise RamifyError(
                    f"config.json gives {name} as {values[name]!r}, which is not "
                    f"{_in_words(kind)}; restore it, or begin a new run in another folder."
                )
        plain: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v for key, v in values.items()
        }
        config = cls(**plain)
        config.check()
        return config

    def to_json(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        values = {"command": self.command} | asdict(self)
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}

    @abstractmethod
    def check(self) -> None:
        """Raise a RamifyError where a setting is out of range."""

    @abstractmethod
    def arms(self) -> tuple[str, ...]:
        """The networks that each seed trains."""

    @abstractmethod
    def passes(self) -> int:
        """Epochs that the arms of a seed make together, at most."""

    def check_counts(self) -> None:
        """Raise a RamifyError where a number that every command has is out of range."""
        for name in ("batch_size", "seeds", "threads"):
            if getattr(self, name) < 1:
                raise RamifyError(f"{name} is {getattr(self, name)}; it must be at least 1.")


@dataclass(frozen=True)
class FitConfig(RunConfig):
    """The settings of a command that trains networks by one optimizer.

    Attributes:
        optimizer: As in :class:`Training`, like all others.
        lr: Learning rate at the start.
        momentum: Momentum of SGD.
        nesterov: Nesterov's form of it.
        weight_decay: Applied to every parameter.
        schedule: Of the learning rate.
        milestones: Where the schedule ``"steps"`` divides the rate, as shares of it.
        span: Whether the schedule goes over each ``"round"`` or the whole ``"run"``.
    """

    optimizer: str
    lr: float
    momentum: float
    nesterov: bool
    weight_decay: float
    schedule: str
    milestones: tuple[float, ...]
    span: str

    def check_training(self) -> None:
        """Raise a RamifyError where a setting of the training is out of range."""
        self.check_counts()
        self.training()

    def training(self) -> Training:
        """How to train in each round."""
        return Training(
            epochs=self.epochs,
            optimizer=self.optimizer,
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            milestones=self.milestones,
            span=self.span,
        )


@dataclass(frozen=True)
class TrainConfig(FitConfig):
    """The settings of a command that trains a network known by its name.

    Attributes:
        model: Name of a built-in network, or ``package.module:build``.
        width: Channels a layer of the seed network; None leaves it to the model.
    """

    model: str
    width: int | None


@dataclass(frozen=True)
class GrowConfig(TrainConfig):
    """The settings of ``ramify grow``; what its method does not take is None.

    Attributes:
        method: Name of the growth method.
        rounds: How often to edit at most.
        budget: The most that the network may cost, by name.
        multiple_of: What the width of a layer that changes becomes a multiple of.
        fraction: Share of the channels to edit each round, for Gauss-Newton of each layer; None
            where the next two decide.
        most: The most channels to edit each round.
        threshold: Split only channels whose splitting index is at most this.
        step: Displacement of the halves of a split channel.
        surrogate: Sharpness of the softplus whose curvature stands in for that of piecewise-linear
            activations; 0 for the true curvature.
        probe_samples: Training samples on which edits are judged.
        signed: c of S3D.
        copies: Numbers of copies that S3D may split a channel into.
        tradeoff: What a parameter may cost in loss, λ_p of Gauss-Newton.
        phase: Epochs in which Gauss-Newton learns its morphisms.
        compare: Also train the seed, the same shape from scratch and a uniformly scaled network.
    """

    command: ClassVar[str] = "grow"
    method: str
    rounds: int
    budget: dict[str, float] | None
    multiple_of: int
    fraction: float | None
    most: int | None
    threshold: float | None
    step: float | None
    surrogate: float | None
    probe_samples: int | None
    signed: float | None
    copies: tuple[int, ...] | None
    tradeoff: float | None
    phase: int | None
    compare: bool

    @classmethod
    def resolve(cls, given: dict[str, Any]) -> "GrowConfig":
        """Fill in what the user left open, from the defaults of the data set and the method.

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
        method = given.get("method", COMMON["method"])
        check_options(method, given)
        values = COMMON | DEFAULTS.get(given["data"], DEFAULTS["folder"])
        values = {"threads": torch.get_num_threads()} | values | dict(named(method).defaults)
        if "budget" in given and given.get("span", values["span"]) == "round":
            values["rounds"] = MANY_ROUNDS
        values |= {"phase": given.get("epochs", values["epochs"])} | given
        refuse_idle(given, values)
        if values["model"] not in NAMES and "width" not in given:
            values["width"] = None  # a function of the user's need not take one
        if {"most", "threshold"} & set(given):
            values["fraction"] = None
        values |= dict.fromkeys(OPTIONS - named(method).options)
        complete: dict[str, Any] = {field.name: values.get(field.name) for field in fields(cls)}
        config = cls(**complete)
        config.check()
        return config

    def check(self) -> None:
        """Raise a RamifyError where a setting is out of range."""
        self.check_training()
        for name in ("probe_samples", "phase"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RamifyError(f"{name} is {value}; it must be at least 1.")
        if self.threshold is not None and self.threshold > 0:
            raise RamifyError(
                f"threshold is {self.threshold}; only splitting indices below 0 pay, so it is "
                "0 or less."
            )
        checked_rounds(self.rounds), checked_budget(self.budget)
        self.rule(), self.growth(self.seed)

    def arms(self) -> tuple[str, ...]:
        """The networks that each seed trains."""
        return ARMS if self.compare else ARMS[:1]

    def passes(self) -> int:
        """Epochs that the arms of a seed make together, at most."""
        return self.epochs * (self.rounds + 1) * len(self.arms()) + (self.phase or 0) * self.rounds

    def growth(self, seed: int) -> Method:
        """What proposes the edits of the job with this seed."""
        return named(self.method).make(self, seed)

    def rule(self) -> Rule:
        """What selects among them."""
        if self.tradeoff is not None:
            share = self.fraction or 0.0
            return TradeOff(self.tradeoff, per_group=share, multiple_of=self.multiple_of)
        if self.fraction is not None:
            return TopFraction(self.fraction, multiple_of=self.multiple_of)
        return Threshold(self.most, self.threshold or 0.0, multiple_of=self.multiple_of)


def refuse_idle(given: dict[str, Any], values: dict[str, Any]) -> None:
    """Refuse settings of training that have no effect beside the others.

    Args:
        given: The settings that the user gave.
        values: All settings.

    Raises:
        RamifyError: Names the setting.
    """
    for name in ("momentum", "nesterov"):
        if given.get(name) and values["optimizer"] != "sgd":
            raise RamifyError(
                f"{name} is a setting of sgd, not of {values['optimizer']}; leave it out."
            )
    if "milestones" in given and values["schedule"] != "steps":
        raise RamifyError(
            f"milestones are those of the schedule steps, not of {values['schedule']}; leave them "
            "out, or choose that schedule."
        )


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a JSON value is of a setting's type."""
    if get_origin(kind) is UnionType:
        return any(_is_a(value, one) for one in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, list) and all(_is_a(item, get_args(kind)[0]) for item in value)
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(_is_a(v, get_args(kind)[1]) for v in value.values())
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)


def _in_words(kind: Any) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    if get_origin(kind) is UnionType:
        return " or ".join(_in_words(one) for one in get_args(kind))
    if get_origin(kind) in (tuple, dict):
        return "a list of numbers" if get_origin(kind) is tuple else "a table of numbers"
    return "null" if kind is NoneType else words[kind]


COMMON: dict[str, Any] = {
    "method": "s2d",
    "rounds": 4,
    "multiple_of": 1,
    "width": None,
    "optimizer": "sgd",
    "lr": 0.1,
    "momentum": 0.9,
    "nesterov": False,
    "schedule": "cosine",
    "milestones": (0.5, 0.75),
    "span": "round",
    "fraction": 0.35,
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
    "caltech20": LARGE
    | {"model": "mobilenet_v2", "probe_samples": 256}
    | {"rounds": 2, "epochs": 10, "batch_size": 32, "weight_decay": 1e-4, "lr": 0.05},
    "folder": SMALL | {"epochs": 10, "batch_size": 64, "weight_decay": 5e-4},
}
