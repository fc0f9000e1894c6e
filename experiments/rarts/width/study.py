"""One seed: a network is trained, searched with every method, pruned and fine-tuned."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR

import ramify
from experiments.rarts.images import accuracy, halved, moved, pairs, placed, some
from experiments.rarts.width.output_gates import OutputGates
from experiments.resume import Stage, once
from ramify import relax
from ramify.cost import graph_cost
from ramify.data import batches
from ramify.models import build
from ramify.probe.loss import Loss
from ramify.relax.registry import searcher_named
from ramify.train.epoch import Training, cross_entropy, make_optimizer, train_epoch
from ramify.train.width_search import Chance

Row = dict[str, Any]

SEARCHED = ("rarts", "darts1", "darts2", "milenas", "joint")
RELATIVE = "-relative"  # gates over the mean of their layer, before layers are compared
OUTPUTS = "-outputs"  # gates on what layers give, in front of norms
SCORED = ("l1", "random")
CUT = "cut"  # `ramify.cut`, which has no ratio: to equal multiply-accumulates alone
CHANNELS, MACS = "channels", "macs"
METHODS = (
    *SEARCHED,
    *(name + RELATIVE for name in SEARCHED),
    *(name + OUTPUTS for name in SEARCHED),
    *SCORED,
    CUT,
)
CALIBRATION = 1024  # images that `ramify.cut` sees
LEARNED = 0.0  # in place of a ratio: all channels whose gate the penalty brought to zero go
ZERO = 1e-3
FEW = 2000  # test images on which networks that are not finished are measured


@dataclass(frozen=True)
class Settings:
    """The settings of the command.

    Attributes:
        data: data set.
        model: network.
        width: channels of its first layer.
        samples: training images, half of them for each of the two losses of a search.
        batch: images per step.
        pretrain: epochs before the search; its result is also the teacher.
        search: passes over the halves; every searcher takes the same number of steps.
        tune: epochs of fine-tuning after the cut.
        lr: learning rate of the first training; the others start at a fifth of it.
        weight_decay: of all training stages.
        arch_lr: learning rate of the gates.
        lam: λ.
        beta: β.
        gamma: γ, of the L1 penalty on the gates.
        ratios: shares of the channels to prune, ranked over all layers; 0 lets the penalty decide.
        macs: shares of the MACs to keep, by the same ranking; may be empty.
        pooled: pixels in each direction that are averaged into one, after augmentation.
        temperature: T of the distillation; 0 for none.
        device: the device of all computations.
    """

    data: str = "cifar10"
    model: str = "preresnet"
    width: int = 8
    samples: int = 4000
    batch: int = 64
    pretrain: int = 8
    search: int = 3
    tune: int = 2
    lr: float = 0.1
    weight_decay: float = 1e-4
    arch_lr: float = 1.0
    lam: float = 1.0
    beta: float = 0.1
    gamma: float = 1e-4
    ratios: str = "0.4,0.6"
    macs: str = ""
    pooled: int = 1
    temperature: float = 4.0
    device: str = "cpu"

    @property
    def goals(self) -> list[tuple[str, float]]:
        """The goals of each method: shares of the channels to prune, and of the MACs to keep."""
        given = ((CHANNELS, self.ratios), (MACS, self.macs))
        return [(of, float(part)) for of, text in given for part in text.split(",") if part]

    def tunings(self, method: str) -> list[tuple[str, float, bool]]:
        """The goals of a method, without and with distillation."""
        ways = (False, True) if self.temperature else (False,)
        return [
            (of, share, distilled)
            for of, share in self.goals
            if of == MACS or method != CUT
            for distilled in (ways if share != LEARNED else (False,))
        ]


class Study:
    """The trained network of one seed, from which every method starts.

    Args:
        seed: of the weights, the halves and the order of the images.
        settings: what to do.
        tick: called at every training step.
        stage: saves the networks that several methods start from.
    """

    def __init__(
        self, seed: int, settings: Settings, tick: Callable[[], None], stage: Stage = once
    ) -> None:
        torch.manual_seed(seed)
        self.stage = stage
        self.seed, self.settings, self.tick = seed, settings, tick
        self.data = some(settings.data, settings.samples, seed)
        self.halves = halved(self.data, seed)
        net = build(
            settings.model,
            dataset_shape=self.data.shape,
            classes=len(self.data.classes),
            width=settings.width,
        )
        if settings.pooled > 1:
            net = nn.Sequential(nn.AvgPool2d(settings.pooled), net)
        self.full = moved(net, settings.device)
        self.steps = -(-len(self.halves[0].y_train) // settings.batch) * settings.search
        self.trained("full", self.full, settings.pretrain, settings.lr)
        self.plain: nn.Module | None = None
        self.gated = set(ramify.fold(ramify.gate(self.trace(copy.deepcopy(self.full)))))
        self.ratio: float | None = None  # learned by RARTS, and given to random pruning

    def run(self, method: str) -> Iterator[Row]:
        """The results of one method: one row for each goal, without and with distillation."""
        model, proposals = self.searched(method)
        searched = self.roughly(model)
        before = {group.name: group.width for group in self.trace(model).groups}
        for of, share, distilled in self.settings.tunings(method):
            pruned = copy.deepcopy(model)
            graph = self.pruned(pruned, method, proposals, of, share)
            cost, cut = graph_cost(graph), self.roughly(pruned)
            loss: Loss = cross_entropy
            if distilled:
                loss = relax.distilled(loss, self.full, self.settings.temperature)
            self.train(pruned, self.settings.tune, self.settings.lr / 5, loss)
            widths = {group.name: group.width for group in graph.groups}
            gone = sum(before[name] - widths[name] for name in self.gated)
            yield {
                "method": method,
                "of": of,
                "ratio": share,
                "pruned": gone / sum(before[name] for name in self.gated),
                "distilled": distilled,
                "searched": searched,
                "cut": cut,
                "tuned": self.accuracy(pruned),
                "params": cost.params,
                "macs": cost.macs,
                "widths": widths,
            }

    def baseline(self) -> Row:
        """The full network, also after training it as long as a search and the fine-tuning."""
        on, steps = copy.deepcopy(self.full), self.settings.search + self.settings.tune
        self.train(on, steps, self.settings.lr / 5, cross_entropy)
        cost = graph_cost(self.trace(on))
        measures = {"searched": self.accuracy(self.full), "tuned": self.accuracy(on)}
        return {"method": "baseline", "params": cost.params, "macs": cost.macs} | measures

    def searched(self, method: str) -> tuple[nn.Module, list[ramify.Proposal]]:
        """A copy of the network after the search, and prunes of its channels, best first."""
        if method == CUT:
            return copy.deepcopy(self.plainly()), []
        if method in SCORED:
            model = copy.deepcopy(self.plainly())
            scorer: ramify.L1 | Chance = ramify.L1() if method == "l1" else Chance(self.seed)
            found = scorer.propose(self.trace(model), cross_entropy, [])
            return model, [p for p in found if p.edit.group in self.gated]
        name = method.removesuffix(RELATIVE)
        model = copy.deepcopy(self.full)
        kept = self.stage(f"search-{name}-{self.seed}", lambda: self.search(name))
        model.load_state_dict(kept["state"])
        scale = relax.GateScale(kept["scores"], relative=name != method)
        return model, scale.propose(self.trace(model))

    def search(self, method: str) -> dict[str, dict[str, Tensor]]:
        """The state of the network after a search, and the gates of each group."""
        model = copy.deepcopy(self.full)
        graph = self.trace(model)
        name = method.removesuffix(OUTPUTS)
        gates = ramify.gate(graph) if name == method else OutputGates(graph, self.gated)
        searcher = self.searcher(name, model, gates)
        model.train()
        good: dict[str, Any] = {}
        for epoch in range(self.settings.search):
            of = pairs(self.halves, self.settings.batch, self.seed, epoch, self.settings.device)
            for pair in of:
                searcher.step(*pair)
                self.tick()
            try:
                gates.check()
            except ramify.RamifyError:  # a layer without a channel: the last good epoch counts
                if not good:
                    raise
                model.load_state_dict(good)
                break
            good = copy.deepcopy(model.state_dict())
        scores = gates.fold() if isinstance(gates, OutputGates) else ramify.fold(gates)
        return {"state": dict(model.state_dict()), "scores": dict(scores)}

    def plainly(self) -> nn.Module:
        """The network after ordinary training for as many passes over the images."""
        if self.plain is None:
            self.plain = copy.deepcopy(self.full)
            self.trained("plain", self.plain, self.settings.search, self.settings.lr / 5)
        return self.plain

    def searcher(
        self, method: str, model: nn.Module, gates: relax.Gates | OutputGates
    ) -> relax.Searcher:
        """The searcher of that name, with the common settings."""
        held = self.settings
        decay = partial(CosineAnnealingLR, T_max=self.steps)
        common: dict[str, Any] = {
            "arch": gates,
            "loss": cross_entropy,
            "weight_optimizer": partial(
                SGD, lr=held.lr / 5, momentum=0.9, weight_decay=held.weight_decay
            ),
            "arch_optimizer": partial(SGD, lr=held.arch_lr),
            "schedules": {"weights": decay},
            "gamma": held.gamma,
            "penalty": relax.L1(by_proximal=True),
        }
        return searcher_named(method, held.lam, held.beta)(model, **common)

    def pruned(
        self,
        model: nn.Module,
        method: str,
        proposals: Sequence[ramify.Proposal],
        of: str,
        share: float,
    ) -> ramify.ChannelGraph:
        """Prune a network to a goal."""
        graph = self.trace(model)
        budget = {MACS: share * graph_cost(graph).macs}
        if method == CUT:
            drawn = batches(self.data, self.settings.batch, self.seed, 0)
            parts = -(-CALIBRATION // self.settings.batch)
            sample = [placed(batch, self.settings.device) for batch in islice(drawn, parts)]
            return ramify.cut(graph, cross_entropy, sample, budget=budget)
        chosen: Sequence[ramify.Proposal]
        if of == MACS:
            chosen = ramify.fit(ramify.TopFraction(1.0).select(proposals), graph, budget)
        else:
            chosen = self.chosen(method, proposals, share)
        return ramify.apply(graph, [proposal.edit for proposal in chosen])

    def chosen(
        self, method: str, proposals: Sequence[ramify.Proposal], share: float
    ) -> list[ramify.Proposal]:
        """The channels to prune."""
        if share != LEARNED:
            return ramify.TopFraction(share).select(proposals)
        if method in SCORED:
            if self.ratio is None:
                raise ramify.RamifyError(
                    f"{method} takes the ratio that rarts learns: name rarts before it in --methods"
                )
            return ramify.TopFraction(self.ratio).select(proposals) if self.ratio else []
        chosen = ramify.Threshold(value=-ZERO).select(proposals)
        if method == "rarts":
            self.ratio = len(chosen) / len(proposals)
        return chosen

    def trained(self, name: str, model: nn.Module, epochs: int, lr: float) -> None:
        """Ordinary training, or its saved result."""

        def make() -> dict[str, Tensor]:
            self.train(model, epochs, lr, cross_entropy)
            return dict(model.state_dict())

        model.load_state_dict(self.stage(f"{name}-{self.seed}", make))

    def train(self, model: nn.Module, epochs: int, lr: float, loss: Loss) -> None:
        """Ordinary training on all images, with a learning rate that falls to 0."""
        training = Training(epochs=epochs, lr=lr, weight_decay=self.settings.weight_decay)
        optimizer = make_optimizer(model, training)
        each = -(-len(self.data.y_train) // self.settings.batch)
        for epoch in range(epochs):
            factor = partial(_factor, training, epoch * each, epochs * each)
            drawn = batches(self.data, self.settings.batch, self.seed, epoch)
            passes = (placed(batch, self.settings.device) for batch in drawn)
            train_epoch(model, loss, passes, optimizer, factor, after_step=lambda _: self.tick())

    def accuracy(self, model: nn.Module) -> float:
        """The accuracy on the test images."""
        return accuracy(model, self.data.x_test, self.data.y_test, self.settings.device)

    def roughly(self, model: nn.Module) -> float:
        """The accuracy on the first test images."""
        images, labels = self.data.x_test[:FEW], self.data.y_test[:FEW]
        return accuracy(model, images, labels, self.settings.device)

    def trace(self, model: nn.Module) -> ramify.ChannelGraph:
        """The channel groups of a copy."""
        return ramify.trace(model, self.data.x_train[:1].to(self.settings.device))


def total_steps(settings: Settings, methods: Sequence[str]) -> int:
    """Steps of one seed, for a progress bar."""
    whole = -(-settings.samples // settings.batch)
    half = -(-(settings.samples // 2) // settings.batch)
    tunings = sum(len(settings.tunings(method)) for method in methods)
    searches = {m.removesuffix(RELATIVE) for m in methods} - {*SCORED, CUT}
    plain = settings.search if {*SCORED, CUT}.intersection(methods) else 0
    kept = settings.pretrain + settings.search + settings.tune + plain
    return (kept + tunings * settings.tune) * whole + len(searches) * settings.search * half


def _factor(training: Training, before: int, total: int, step: int) -> float:
    return training.factor(before + step, total)
