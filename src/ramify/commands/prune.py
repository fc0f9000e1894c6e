"""Shrinking a network by a search for its widths: what ``ramify prune`` does (Algorithm 3)."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import nn

from ramify.commands.compare import scratch
from ramify.commands.config import COMMON, DEFAULTS, TrainConfig, refuse_idle
from ramify.commands.jobs import (
    RESTORE,
    Job,
    Setup,
    Shuffled,
    build_seed,
    model_path,
    prepare,
    probe,
)
from ramify.data import Dataset
from ramify.errors import RamifyError
from ramify.probe.loss import Loss
from ramify.relax import Pairs, distilled, halves
from ramify.select import Rule, Threshold, TopFraction
from ramify.store.files import read_json
from ramify.store.model import load, save
from ramify.train.epoch import cross_entropy
from ramify.train.loop import train
from ramify.train.rounds import checked_budget
from ramify.train.shrink import check_widths, cut, search_widths
from ramify.train.width_search import PLAIN, SEARCHERS, WidthSearch

RELAXED = frozenset({"gamma", "arch_lr"})
TAKERS: dict[str, frozenset[str]] = {
    name: RELAXED if name not in PLAIN else frozenset() for name in SEARCHERS
} | {"rarts": RELAXED | {"lam", "beta"}, "milenas": RELAXED | {"lam"}}
TAKERS["bn"] = frozenset({"gamma"})
"""Which of the settings that hang on the searcher each takes."""
OPTIONS = frozenset[str]().union(*TAKERS.values())
SEARCHER_NAMES = ("darts", *SEARCHERS)
CUTS = ("ratio", "threshold", "budget")


@dataclass(frozen=True)
class PruneConfig(TrainConfig):
    """The settings of ``ramify prune``; what its searcher does not take is None.

    Attributes:
        searcher: What scores the channels, as in :class:`WidthSearch`, like the next four.
        lam: λ.
        beta: β.
        gamma: γ.
        arch_lr: Learning rate of the gates.
        groups: Patterns of the groups to score; None for all.
        ratio: Share of the channels to cut.
        per_layer: Whether the share is that of each layer.
        threshold: Cut what scores at most this.
        budget: The most that the network may cost, by name.
        multiple_of: What the width of a layer that changes becomes a multiple of.
        pretrain_epochs: Passes over the data that the full network is trained first; 0 for none.
        search_epochs: Passes over the pairs of the two halves.
        from_scratch: Whether the cut network is trained with fresh weights.
        distill: Whether the full network teaches the cut one.
        temperature: T of the distillation.
        probe_samples: Training samples on which ``taylor`` scores, and the cut is measured.
    """

    command: ClassVar[str] = "prune"
    searcher: str
    lam: float | None
    beta: float | None
    gamma: float | None
    arch_lr: float | None
    groups: tuple[str, ...] | None
    ratio: float | None
    per_layer: bool
    threshold: float | None
    budget: dict[str, float] | None
    multiple_of: int
    pretrain_epochs: int
    search_epochs: int
    from_scratch: bool
    distill: bool
    temperature: float | None
    probe_samples: int

    @classmethod
    def resolve(cls, given: dict[str, Any]) -> "PruneConfig":
        """Fill in what the user left open, from the defaults of the data set and the searcher.

        Args:
            given: Settings by name; those left open are absent. ``searcher_order`` says which
                order of DARTS ``darts`` is, which is otherwise the first.

        Returns:
            All settings.

        Raises:
            RamifyError: Settings exclude each other or are out of range.
        """
        given = ordered(given)
        full = FULL.get(given["data"], {})
        values = {"threads": torch.get_num_threads()} | COMMON
        values |= DEFAULTS.get(given["data"], DEFAULTS["folder"]) | {"width": None} | PRUNE | full
        if given.get("model", values["model"]) != values["model"]:
            values["width"] = None
        epochs = given.get("epochs", values["epochs"])
        values |= {"pretrain_epochs": epochs, "search_epochs": epochs} | given
        _check_given(given, values)
        refuse_idle(given, values)
        cuts = [name for name in CUTS if name in given] or ["ratio"]
        values |= dict.fromkeys(set(CUTS) - set(cuts))
        values |= dict.fromkeys(OPTIONS - TAKERS[values["searcher"]])
        values["temperature"] = values["temperature"] if values["distill"] else None
        if "arch_lr" in TAKERS[values["searcher"]] and "arch_lr" not in given:
            values["arch_lr"] = values["lr"]
        config = cls(**{field.name: values[field.name] for field in fields(cls)})
        config.check()
        return config

    def check(self) -> None:
        """Raise a RamifyError where a setting is out of range."""
        self.check_training()
        if self.probe_samples < 1 or self.pretrain_epochs < 0:
            name = "probe_samples" if self.probe_samples < 1 else "pretrain_epochs"
            raise RamifyError(f"{name} is {getattr(self, name)}; give a larger number.")
        if self.threshold is not None and not self.threshold >= 0:
            raise RamifyError(f"threshold is {self.threshold}; scores are 0 or more.")
        if self.temperature is not None and not self.temperature > 0:
            raise RamifyError(f"the temperature is {self.temperature}; give a number above 0.")
        checked_budget(self.budget)
        self.rule(), self.search(self.seed)

    def arms(self) -> tuple[str, ...]:
        """The networks that each seed trains."""
        return ("baseline",) * bool(self.pretrain_epochs) + ("scored", "pruned")

    def passes(self) -> int:
        """Epochs that the arms of a seed make together."""
        return self.pretrain_epochs + self.search_epochs + self.epochs

    def search(self, seed: int) -> WidthSearch:
        """How the job with this seed scores channels."""
        given = {name: getattr(self, name) for name in OPTIONS}
        own = {name: value for name, value in given.items() if value is not None}
        common: dict[str, Any] = {"seed": seed, "groups": self.groups}
        return WidthSearch(self.searcher, self.search_epochs, **common, **own)

    def rule(self) -> Rule:
        """What selects among the prunes."""
        if self.threshold is not None:
            return Threshold(value=-self.threshold, multiple_of=self.multiple_of)
        share = 1.0 if self.ratio is None else self.ratio
        return TopFraction(share, per_group=self.per_layer, multiple_of=self.multiple_of)


def ordered(given: dict[str, Any]) -> dict[str, Any]:
    """The settings with the order of DARTS in the searcher's name.

    Args:
        given: Settings by name, as the user gave them.

    Returns:
        The same without ``searcher_order``.

    Raises:
        RamifyError: The order is none of the searcher's.
    """
    order, name = given.get("searcher_order"), given.get("searcher", PRUNE["searcher"])
    if order is not None and (name != "darts" or order not in (1, 2)):
        raise RamifyError(
            f"searcher_order is {order} for the searcher {name}; it is 1 or 2, of darts alone."
        )
    named = {"searcher": f"darts{order or 1}"} if name == "darts" else {}
    return {key: value for key, value in given.items() if key != "searcher_order"} | named


def _check_given(given: dict[str, Any], values: dict[str, Any]) -> None:
    """Refuse settings that exclude each other, or that have no effect beside the others."""
    searcher = values["searcher"]
    if searcher not in TAKERS:
        raise RamifyError(
            f"there is no searcher {searcher!r}; choose one of {', '.join(SEARCHER_NAMES)}."
        )
    for name in sorted(OPTIONS & set(given) - TAKERS[searcher]):
        takers = ", ".join(other for other, taken in TAKERS.items() if name in taken)
        raise RamifyError(
            f"{name} is no setting of the searcher {searcher} but of {takers}; leave it out, or "
            "choose another searcher."
        )
    cuts = [name for name in CUTS if name in given]
    if len(cuts) > 1:
        raise RamifyError(f"{' and '.join(cuts)} each say how much to cut; give one of them.")
    if values["per_layer"] and cuts not in ([], ["ratio"]):
        raise RamifyError(f"per_layer goes with ratio, not with {cuts[0]}; leave it out.")
    if "threshold" in cuts and searcher in PLAIN:
        raise RamifyError(
            f"a threshold is on gates or norm scales, which {searcher} does not learn; give a "
            "ratio or a budget, or choose another searcher."
        )
    if values["distill"] and not values["pretrain_epochs"]:
        raise RamifyError(
            "distill needs the full network as a teacher, and pretrain_epochs is 0; give some."
        )
    if "temperature" in given and not values["distill"]:
        raise RamifyError("temperature is a setting of distill; give both or neither.")


def prepare_widths(config: PruneConfig) -> Dataset:
    """Load the data, and try the search and the cut on the untrained network, before any work.

    Args:
        config: The settings of the run.

    Returns:
        The data.

    Raises:
        RamifyError: As :func:`ramify.commands.jobs.prepare`; or the network has nothing for this
            searcher, or the budget is out of reach.
    """
    dataset = prepare(config)
    try_widths(config, dataset)
    return dataset


def try_widths(config: PruneConfig, dataset: Dataset) -> None:
    """Try the search and the cut on the untrained network; errors as :func:`prepare_widths`."""
    model = build_seed(config, dataset)
    inputs = dataset.x_train[:1]
    check_widths(model, inputs, config.search(0), config.rule(), config.budget)


def run_phase(job: Job, setup: Setup) -> None:
    """Run one phase of a seed to its end: the full network, the search with the cut, the tuning.

    Args:
        job: Its arm is ``"baseline"``, ``"scored"`` or ``"pruned"``.
        setup: What the jobs of the run share; the settings are a :class:`PruneConfig`.

    Raises:
        RamifyError: From the folder, the model, the search or the training.
    """
    config = setup.config
    assert isinstance(config, PruneConfig)
    torch.manual_seed(job.seed)
    if job.arm == "scored":
        _search(config, job, setup)
        return
    if job.arm == "baseline":
        model, path = setup.build(), _kept(setup, "baseline", job.seed)
        epochs, loss = config.pretrain_epochs, cast(Loss, cross_entropy)
    else:
        model, path = _cut_network(config, job, setup), model_path(config, setup.folder, job.seed)
        epochs, loss = config.epochs, _tuning_loss(config, job, setup)
    history = train(
        model.to(config.device),
        setup.inputs(),
        loss,
        Shuffled(setup.dataset, config, job.seed, setup.ticked),
        training=replace(config.training(), epochs=epochs),
        **setup.training(job),
    ).history
    save(model, path)
    setup.finish(job, history)


def _search(config: PruneConfig, job: Job, setup: Setup) -> None:
    """Search, cut, and keep the cut network."""
    kept = _kept(setup, "baseline", job.seed)
    model = load(kept, setup.build) if config.pretrain_epochs else setup.build()
    judged = probe(setup, config.probe_samples, job.seed) or []
    scored = search_widths(
        model.to(config.device),
        setup.inputs(),
        cross_entropy,
        _pairs(setup, job.seed),
        search=config.search(job.seed),
        training=config.training(),
        probe=judged,
        **setup.training(job),
    )
    _, event = cut(
        scored,
        cross_entropy,
        judged,
        rule=config.rule(),
        budget=config.budget,
        evaluate=setup.measures,
    )
    save(model, _kept(setup, "cut", job.seed))
    setup.record(event | job.tags() | {"t": scored.history[-1]["t"]})
    setup.finish(job, scored.history)


def _cut_network(config: PruneConfig, job: Job, setup: Setup) -> nn.Module:
    """What the cut has left, with its weights or with fresh ones."""
    path = _kept(setup, "cut", job.seed)
    if config.from_scratch:
        return scratch(setup.build, read_json(path.with_name(f"{path.name}.json"), RESTORE))
    return load(path, setup.build)


def _tuning_loss(config: PruneConfig, job: Job, setup: Setup) -> Loss:
    if config.temperature is None:
        return cross_entropy
    teacher = load(_kept(setup, "baseline", job.seed), setup.build).to(config.device)
    return distilled(cross_entropy, teacher, config.temperature)


def _kept(setup: Setup, arm: str, seed: int) -> Path:
    """Where a network is kept that the next phase begins with."""
    return setup.folder.path / f"{arm}-{seed}"


def _pairs(setup: Setup, seed: int) -> Pairs:
    """Batches of two halves of the training data, each in an order of its own."""
    data, config = setup.dataset, setup.config

    def half(index: torch.Tensor, number: int) -> Shuffled:
        part = replace(data, x_train=data.x_train[index], y_train=data.y_train[index])
        ticked = setup.ticked if number == 0 else lambda fraction: None
        return Shuffled(part, config, 2 * seed + number, ticked)

    each = halves(len(data.x_train), seed)
    return Pairs(*(half(index, number) for number, index in enumerate(each)))


PRUNE: dict[str, Any] = {
    "searcher": "rarts",
    "lam": 1.0,
    "beta": 0.01,
    "gamma": 1e-4,
    "groups": None,
    "ratio": 0.4,
    "per_layer": False,
    "multiple_of": 1,
    "distill": False,
    "temperature": 4.0,
    "from_scratch": False,
}
SMALL = {"model": "digits_net", "width": 16}
CIFAR = {"model": "preresnet20", "epochs": 10}
FULL: dict[str, dict[str, Any]] = {
    "digits": SMALL,
    "mnist": SMALL,
    "fashion-mnist": SMALL,
    "cifar10": CIFAR,
    "cifar100": CIFAR,
}
"""The networks that are worth shrinking, where those of ``ramify grow`` are small on purpose."""
