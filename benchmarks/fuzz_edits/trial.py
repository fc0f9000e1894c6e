"""One trial: a random network is traced, trained, edited and compared with the expectation."""

from __future__ import annotations

import copy
import random
import warnings
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

import ramify
from benchmarks.faults.state import Snapshot, differences
from benchmarks.fuzz_edits.axes import follow
from benchmarks.fuzz_edits.check import Check, Wrong
from benchmarks.fuzz_edits.draws import drawn_edits
from benchmarks.fuzz_edits.networks import drawn, scattered
from benchmarks.fuzz_edits.optimizers import drawn_optimizers
from benchmarks.fuzz_edits.work import Work, step

SAVED, FOLLOWED, SINGLE, HURT = 0.08, 0.3, 0.25, 0.1
LAST, HELD, TRAINED, AGAIN = 0.2, 0.05, 0.4, 0.3
IMAGES = 4  # dimensions of kernels that may lie channels last
RIGHT, REFUSED, UNTRACED, NONE, WRONG, RAW = (
    "right",
    "refused",
    "not traced",
    "nothing offered",
    "wrong",
    "raw",
)


@dataclass
class Trial:
    """The result for one network.

    Attributes:
        seed: seed of all random choices.
        outcome: `right`, `refused`, `not traced`, `nothing offered`, `wrong` or `raw`.
        said: the message of the refusal, or what is wrong.
        steps: its modules.
        optimizer: the optimizer that trained it.
        groups: the number of its groups.
        offered: how many of these can be pruned or split.
        params: the number of its parameters.
        offered_params: how many are in tensors of a group that can be pruned or split.
        edits: the number of requested edits of each kind.
        oracles: the comparisons that were made.
        asked_for: whether the refusal was expected.
    """

    seed: int
    outcome: str = RIGHT
    said: str = ""
    steps: list[str] = field(default_factory=list)
    optimizer: str = ""
    groups: int = 0
    offered: int = 0
    params: int = 0
    offered_params: int = 0
    edits: dict[str, int] = field(default_factory=dict)
    oracles: list[str] = field(default_factory=list)
    asked_for: bool = False

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def run(seed: int) -> Trial:
    """Run one trial.

    Args:
        seed: seed of all random choices.

    Returns:
        The result.
    """
    trial = Trial(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _run(trial)
        except Wrong as error:
            trial.outcome, trial.said = WRONG, str(error)[:500]
        except Exception as error:
            trial.outcome, trial.said = RAW, f"{type(error).__name__}: {error}"[:500]
    return trial


def _run(trial: Trial) -> None:
    draw = random.Random(f"edits {trial.seed}")
    work = prepared(trial.seed, draw)
    trial.steps = [step.name for step in work.program.steps]
    trial.optimizer = _optimizer_name(work)
    before = work.state()
    try:
        graph = ramify.trace(work.net, work.inputs)
    except ramify.RamifyError as error:
        trial.outcome, trial.said = UNTRACED, str(error)
        _check_untouched(before, work)
        return
    _check_untouched(before, work)
    _note_offered(trial, graph)
    more = _edited(trial, work, graph, draw)
    while more is not None and draw.random() < AGAIN:
        more = _edited(trial, work, more, draw)


def _edited(
    trial: Trial, work: Work, graph: ramify.ChannelGraph, draw: random.Random
) -> ramify.ChannelGraph | None:
    """Apply one call of edits; returns the graph for another call if the generator can follow."""
    asked = drawn_edits(draw, graph, work.program.dims(), work.dtype, HURT)
    if not asked.edits:
        trial.outcome = trial.outcome if trial.oracles else NONE
        return None
    old, before = work.kept(), work.state()
    followers = [work.follower] if draw.random() < FOLLOWED or trial.oracles else []
    try:
        edited = ramify.apply(graph, asked.edits, optimizer=work.optimizers, followers=followers)
    except ramify.RamifyError as error:
        trial.asked_for = bool(asked.hurt)
        trial.outcome, trial.said = REFUSED, str(error)
        _check_untouched(before, work)
        return None
    if asked.hurt:
        raise Wrong(f"it took an edit that cannot be done: {asked.hurt}")
    for edit in asked.edits:
        name = type(edit).__name__
        trial.edits[name] = trial.edits.get(name, 0) + 1
    check = Check(work, old, graph, asked)
    trial.oracles += check.all(bool(followers), draw.random() < SAVED)
    narrow = any(len(members) == 1 for members in check.edits.members().values())
    if asked.blocks or not followers or narrow:  # one channel is added to any number of others
        return None
    follow(check.edits)
    return edited


def prepared(seed: int, draw: random.Random) -> Work:
    """A network trained for some steps, with an average of its weights."""
    program = drawn(seed)
    dtype = torch.float32 if draw.random() < SINGLE else torch.float64
    net = scattered(program.build({})).to(dtype)
    if draw.random() < LAST:
        for parameter in net.parameters():
            if parameter.dim() == IMAGES:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    for parameter in net.parameters():
        parameter.requires_grad_(draw.random() > HELD)
    next(net.parameters()).requires_grad_(True)
    _, optimizers = drawn_optimizers(draw, net)
    work = Work(program, net, optimizers, copy.deepcopy(net), dtype, (), copy.deepcopy(net))
    work.inputs = work.sample(draw.choice((2, 3)))
    net.train()
    for _ in range(draw.randint(1, 3)):
        step(net, optimizers, work.inputs)
    with torch.no_grad():
        for own, other in zip(work.follower.parameters(), net.parameters(), strict=True):
            own.lerp_(other, 0.1)
    net.train(draw.random() < TRAINED)
    work.follower.eval()
    return work


def _optimizer_name(work: Work) -> str:
    return " and ".join(type(optimizer).__name__ for optimizer in work.optimizers)


def _check_untouched(before: Snapshot, work: Work) -> None:
    if changed := differences(before, work.state()):
        raise Wrong(f"what was to stay has changed: {', '.join(changed[:4])}")


def _note_offered(trial: Trial, graph: ramify.ChannelGraph) -> None:
    sizes = {name: p.numel() for name, p in graph.model.named_parameters()}
    able = [group for group in graph.groups if group.can_prune or group.can_split]
    reached = {
        name for g in able for name in (*g.producers, *g.carriers, *g.consumers) if name in sizes
    }
    trial.groups, trial.offered = len(graph.groups), len(able)
    trial.params = sum(sizes.values())
    trial.offered_params = sum(sizes[name] for name in reached)
