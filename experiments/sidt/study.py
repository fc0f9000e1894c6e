"""Train a network with a Swin, search, cut, fine-tune: Figure 4.1 of the thesis, for any task.

Stages that several arms share are saved in the results folder, so that a stopped command can
resume from them.

Shapes: W dimensions of a group.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler
from transformers import SwinConfig

import ramify
from experiments.sidt.swin import dimensions, weight_norms, widths
from experiments.sidt.ways import FULL, SEARCHED, Way, as_row
from ramify import relax
from ramify.cost import CostModel, graph_cost
from ramify.store.files import read_tensors, write_tensors
from ramify.train.epoch import Training, make_optimizer, train_epoch

MOMENTS = ("before", "searched", "cut", "tuned")
AT: Mapping[str, Literal["consumers", "producers"]] = {"after": "consumers", "before": "producers"}
CALIBRATION = 512  # training samples by which `ramify.cut` chooses and refits
SPLITS = ("test", "val")
Passes = Callable[[int], Iterator[Any]]  # number of the pass -> its batches
Scores = Mapping[str, Tensor]  # group -> (W,)


@dataclass(frozen=True)
class Settings:
    """The settings of a command; every stage has a cosine schedule that falls to 0.

    Attributes:
        model: "small", or "swin-t" for the sizes of the thesis.
        split: the evaluation images: "test", or "val" for choosing settings.
        epochs: of the full network.
        search: epochs of the search, each over half of the training images.
        tune: epochs of fine-tuning after the cut.
        batch: images per step; the search uses two such batches per step.
        rate: learning rate of weights.
        decay: weight decay.
        alpha: learning rate of the scores, by Adam.
        gamma: weight of their L1 norm.
        lam: λ of RARTS.
        beta: β of RARTS.

    Raises:
        RamifyError: if the split is neither of these.
    """

    model: str = "small"
    split: str = "test"
    epochs: int = 20
    search: int = 8
    tune: int = 4
    batch: int = 64
    rate: float = 1e-3
    decay: float = 0.05
    alpha: float = 0.01
    gamma: float = 1e-4
    lam: float = 1.0
    beta: float = 0.1

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ramify.RamifyError(f"unknown split {self.split!r}: give test or val.")


class Task(ABC):
    """A network, its data and its measure.

    Attributes:
        count: number of training samples.
        example: an input to trace with, on the device.
        device: the device of all computations.
        settings: what to do.
    """

    count: int
    example: Tensor
    device: torch.device
    settings: Settings

    @abstractmethod
    def model(self) -> nn.Module:
        """A network with newly initialized weights."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """One loss per sample, (S,)."""

    @abstractmethod
    def passes(self, rows: Tensor, size: int, seed: int) -> Passes:
        """Batches of `size` of these training samples on the device, for any pass over them."""

    @abstractmethod
    def judge(self, model: nn.Module) -> dict[str, float]:
        """The evaluation of a network, in evaluation mode."""


class Stage(NamedTuple):
    """A network after a stage, its scores if it was searched, and its evaluation."""

    model: nn.Module
    scores: Scores
    judged: dict[str, float]


def swin_config(shapes: Mapping[str, Mapping[str, Any]], model: str, **more: Any) -> Any:
    """The configuration of a Swin.

    Args:
        shapes: the settings of each model that differ from Swin-T.
        model: one of them.
        **more: settings of all models.

    Returns:
        A `transformers.SwinConfig`.

    Raises:
        RamifyError: if there is no such model.
    """
    if model not in shapes:
        raise ramify.RamifyError(f"unknown model {model!r}: give one of {', '.join(shapes)}.")
    return SwinConfig(**shapes[model], **more)


def run(task: Task, seed: int, way: Way, keep: Path) -> dict[str, Any]:
    """One network, cut and fine-tuned.

    Args:
        task: the learning task.
        seed: of the initial weights, the order of the samples, their halves and random scores.
        way: how to cut it.
        keep: folder for the stages that ways share, all of one task with the same settings.

    Returns:
        Its evaluation before the search, after it, after the cut and after fine-tuning; parameters,
        MACs of one sample, and for each layer the number of remaining and of all dimensions.
    """
    started = time.monotonic()
    before, searched = stages(task, seed, way, keep)
    model = searched.model
    graph = ramify.trace(model, task.example)
    full = widths(model)
    if way.ratio:
        graph = cut_down(task, graph, way, searched.scores, seed)
    cost, cut = graph_cost(graph), task.judge(model)
    train(task, model, task.settings.tune, seed + 2, task.settings.batch)
    return {
        "seed": seed,
        **as_row(way),
        "before": before,
        "searched": searched.judged,
        "cut": cut,
        "tuned": task.judge(model),
        "params": cost.params,
        "macs": cost.macs,
        "left": {name: [kept, full[name]] for name, kept in widths(model).items()},
        "seconds": time.monotonic() - started,
        "settings": asdict(task.settings),
    }


def cut_down(
    task: Task, graph: ramify.ChannelGraph, way: Way, learned: Scores, seed: int
) -> ramify.ChannelGraph:
    """Cut a network in the given way; each layer keeps at least one dimension.

    Args:
        task: the learning task.
        graph: of the network.
        way: how to cut it.
        learned: the result of the search, if there was one.
        seed: of random scores, and of the samples that `ramify.cut` uses.

    Returns:
        The graph of the remaining network.
    """
    params = round((1 - way.ratio) * graph_cost(graph).params)
    if way.arm == "cut":
        size = task.settings.batch
        batches = task.passes(torch.arange(task.count), size, seed + 2)(0)
        held: dict[str, Any] = {"rule": ramify.TopFraction(way.ratio)}
        if way.of == "parameters":
            held = {"budget": {"params": params}}
        return ramify.cut(
            graph,
            task.loss,
            list(itertools.islice(batches, math.ceil(CALIBRATION / size))),
            groups=[group.name for group in dimensions(graph, way.gates)],
            keep=1,
            **held,
        )
    scores = ranked(graph, way, learned, seed)
    proposals = relax.GateScale(scores).propose(graph, task.loss, [])
    if way.of == "parameters":
        every = ramify.TopFraction(1.0).select(proposals)
        chosen = ramify.fit(every, graph, {"params": params})
    else:
        chosen = ramify.TopFraction(way.ratio).select(proposals)
    return ramify.apply(graph, [proposal.edit for proposal in chosen])


def most(task: Task, gates: str) -> float:
    """The largest share of all parameters that can be cut if each layer keeps one dimension.

    Args:
        task: the learning task.
        gates: the kind of dimensions, as in `Way`.

    Returns:
        The share.
    """
    graph = ramify.trace(task.model().to(task.device), task.example)
    edits = [
        ramify.Prune(group.name, channel)
        for group in dimensions(graph, gates)
        for channel in range(1, group.width)
    ]
    costs = CostModel(graph)
    return -costs.added(edits).params / costs.cost().params


def ranked(graph: ramify.ChannelGraph, way: Way, learned: Scores, seed: int) -> Scores:
    """The values by which an arm ranks the dimensions: learned scores, L1 norms, or random draws.

    Args:
        graph: of the network.
        way: of the arm.
        learned: the result of the search, if there was one.
        seed: of the random draws.

    Returns:
        Group -> (W,); the smallest absolute values are cut first.
    """
    if way.arm in SEARCHED:
        return learned
    groups = {group.name: group.width for group in dimensions(graph, way.gates)}
    if way.arm == "random":
        generator = torch.Generator().manual_seed(seed)
        return {name: torch.rand(width, generator=generator) for name, width in groups.items()}
    norms = weight_norms(graph)
    return {name: norms[name] for name in groups}


def stages(task: Task, seed: int, way: Way, keep: Path) -> tuple[dict[str, float], Stage]:
    """The network to be cut, loaded or trained now.

    Args:
        task: the learning task.
        seed: of the run.
        way: how to cut it.
        keep: folder of the stages.

    Returns:
        The evaluation of the full network before any search, and the network to be cut.
    """
    settings, kind = task.settings, way.stage

    def trained() -> tuple[nn.Module, Scores]:
        torch.manual_seed(seed)
        model = task.model().to(task.device)
        train(task, model, settings.epochs, seed, settings.batch)
        return model, {}

    before = _kept(keep / f"trained-{seed}.safetensors", task, trained)

    def more() -> tuple[nn.Module, Scores]:
        if kind != FULL:
            half_way = keep / f"searching-{kind}-{seed}.safetensors"
            return before.model, search(task, before.model, way, seed, half_way)
        # As many steps on as many samples as a search takes, without one.
        train(task, before.model, settings.search, seed + 1, 2 * settings.batch)
        return before.model, {}

    return before.judged, _kept(keep / f"{kind}-{seed}.safetensors", task, more)


def _kept(file: Path, task: Task, make: Callable[[], tuple[nn.Module, Scores]]) -> Stage:
    if file.exists():
        tensors, said = read_tensors(file, "delete it to begin this stage again.")
        model = task.model().to(task.device)
        model.load_state_dict(_part(tensors, "model/"))
        return Stage(model, _part(tensors, "scores/"), json.loads(said["judged"]))
    model, scores = make()
    stage = Stage(model, scores, task.judge(model))
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"scores/{name}": tensor for name, tensor in scores.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(file, tensors, {"judged": json.dumps(stage.judged)})
    return stage


def _part(tensors: Scores, start: str) -> dict[str, Tensor]:
    return {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}


def train(task: Task, model: nn.Module, epochs: int, seed: int, batch: int) -> None:
    """Train on all samples with AdamW and a learning rate that falls to 0."""
    if not epochs:
        return
    plan = Training(epochs, "adamw", task.settings.rate, weight_decay=task.settings.decay)
    optimizer = make_optimizer(model, plan)
    passes = task.passes(torch.arange(task.count), batch, seed)
    begun, total = 0, epochs * math.ceil(task.count / batch)
    for epoch in range(epochs):
        factor = partial(_factor, plan, begun, total)
        _, steps = train_epoch(model, task.loss, passes(epoch), optimizer, factor)
        begun += steps


def _factor(plan: Training, begun: int, total: int, step: int) -> float:
    return plan.factor(begun + step, total)


def search(task: Task, model: nn.Module, way: Way, seed: int, checkpoint: Path) -> Scores:
    """Learn scores of the dimensions together with the weights, then fold them in.

    Args:
        task: the learning task.
        model: a trained network, which is trained further.
        way: whose arm is one of `SEARCHED`.
        seed: of the halves and the order of their samples.
        checkpoint: a file to resume from; it is deleted at the end.

    Returns:
        Group -> scores (W,).
    """
    settings = task.settings
    graph = ramify.trace(model, task.example)
    names = [group.name for group in dimensions(graph, way.gates)]
    gates = ramify.gate(graph, names, at=AT[way.place])
    halves = relax.halves(task.count, seed)
    pairs = relax.Pairs(*(task.passes(half, settings.batch, seed + 1) for half in halves))
    total = settings.search * len(pairs)
    cosine: Callable[[Optimizer], LRScheduler] = partial(CosineAnnealingLR, T_max=total)
    held: dict[str, Any] = {
        "arch": gates,
        "loss": task.loss,
        "weight_optimizer": partial(AdamW, lr=settings.rate, weight_decay=settings.decay),
        "arch_optimizer": partial(Adam, lr=settings.alpha),
        "penalty": relax.L1(),
        "gamma": settings.gamma,
        "schedules": {"weights": cosine},
    }
    kinds: dict[str, Callable[..., relax.Searcher]] = {
        "rarts": partial(relax.RARTS, lam=settings.lam, beta=settings.beta),
        "joint": relax.Joint,
    }
    searcher = kinds[way.arm](model, **held)
    ramify.search(searcher, pairs, epochs=settings.search, checkpoint=checkpoint)
    checkpoint.unlink(missing_ok=True)
    return ramify.fold(gates)
