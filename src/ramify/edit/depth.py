"""Drops and inserts carried out: lists in another order, proven by a run, and all that follows.

A dropped block is first handed its own stream back while it still stands: what the model computes
so is what it must compute without it. If a shorter list does not do that (its members are read by
number elsewhere, or it goes along another list), a module that hands on its stream takes the
block's place, and is put to the same proof.

Legend: `C` channels of a stream.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ramify.edit.block_edits import BlockEdit, ListPlan, plan_blocks
from ramify.edit.bypass import bypassed
from ramify.edit.carry import Follower, named_alike
from ramify.edit.configs import Reordered, configured, facts_of, follow
from ramify.edit.depth_state import Copied, follow_dictionary, follow_optimizer
from ramify.edit.lists import Copies, Steps, make_identity, reorder_members
from ramify.edit.optimizers import check_holds
from ramify.edit.skip import put_skip
from ramify.errors import RamifyError
from ramify.tracing import ChannelGraph
from ramify.tracing.blocks import Block
from ramify.tracing.groups import run_of
from ramify.tracing.recorder import Tape, tensors_of
from ramify.tracing.verify.comparison import near

Statistics = Mapping[Block, tuple[Tensor, Tensor]]
"""The mean and variance (C,) of each channel of the stream behind a block."""


def carry_out_blocks(
    steps: Steps,
    graph: ChannelGraph,
    plans: Sequence[ListPlan],
    optimizers: Sequence[Optimizer],
    followers: Sequence[Follower],
) -> dict[str, str]:
    """Drop and insert blocks in the model, its optimizers and its followers.

    Args:
        steps: what takes it back, also where it ends in an error.
        graph: the traced model.
        plans: from `plan_blocks`.
        optimizers: whose groups and states follow.
        followers: what else has the names of the model.

    Returns:
        For each parameter and buffer that the model now has, the name that it had, or that of what
        it is a copy of.

    Raises:
        RamifyError: the model would not compute what it should.
    """
    model = graph.model
    before = {id(tensor): (name, tensor) for name, tensor in tensors_of(model).items()}
    old_names = {name: id(tensor) for name, tensor in _every_name(model)}
    copied: list[Copied] = []
    changes = [_carry_out_list(graph, plan, steps, copied) for plan in plans]
    left = {id(tensor): name for name, tensor in tensors_of(model).items()}
    gone = before.keys() - left.keys()
    for optimizer in optimizers:
        check_holds(model, optimizer)
        follow_optimizer(steps, optimizer, gone, copied, left)
    new_names = dict(_every_name(model))
    for follower in followers:
        if isinstance(follower, nn.Module):
            inner = named_alike([name for name, _ in before.values()], follower)
            for change in changes:
                _change_list(steps, inner, change)
        else:
            follow_dictionary(steps, follower, old_names, new_names, copied)
    source = {id(new): id(old) for copies in copied for old, new in copies}
    known = {name: before.get(source.get(key, key)) for key, name in left.items()}
    return {name: found[0] for name, found in known.items() if found is not None}


@contextlib.contextmanager
def blocks_edited(graph: ChannelGraph, edits: Iterable[BlockEdit]) -> Iterator[None]:
    """The model with blocks dropped and inserted, for the time of the block.

    Args:
        graph: the traced model.
        edits: what to suppose done.

    Yields:
        Nothing; the model is as it was afterwards.

    Raises:
        RamifyError: an edit is not possible, or the model would not compute what it should.
    """
    steps = Steps()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            carry_out_blocks(steps, graph, plan_blocks(graph, edits), [], [])
        yield
    finally:
        steps.back()


@dataclass(frozen=True)
class _Change:
    """How one list is changed.

    Attributes:
        plan: what is asked for.
        shorter: whether the list gets a new order, and not some of its members another module.
        keys: the names of its members before.
        source: for each new member, which old one it is or copies.
        statistics: what the norms of copies are given.
    """

    plan: ListPlan
    shorter: bool
    keys: tuple[str, ...]
    source: tuple[int, ...]
    statistics: Statistics


def _every_name(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All names of all parameters and buffers."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _carry_out_list(
    graph: ChannelGraph, plan: ListPlan, steps: Steps, copied: list[Copied]
) -> _Change:
    """Change one list, and prove by a run that the model computes what it should.

    Returns:
        How it was changed.

    Raises:
        RamifyError: the model computes something else.
    """
    model = graph.model
    with bypassed(model, plan.drops), _watched(model, plan.inserts) as statistics:
        expected = run_of(graph)
    ways = [True] if plan.container is not None else []
    ways += [False] if not plan.inserts else []
    facts = [(module, facts_of(module)) for module in configured(model)]
    keys, source = _order(model, plan)
    start, failed = len(steps), ""
    for shorter in ways:
        made: list[Copied] = []
        change = _Change(plan, shorter, keys, source, statistics)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            lists = _change_list(steps, model, change, made)
            failed = _failure(graph, expected, made)
            for module, known in facts:
                runs = partial(_computes, graph, expected, made)
                steps.made(follow(module, known, runs, lists))
            failed = failed and _failure(graph, expected, made)
        if not failed:
            for each in said:
                warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
            copied += made
            return change
        steps.back_to(start)
    names = ", ".join(f"'{block.name}'" for block in (*plan.drops, *plan.inserts))
    raise RamifyError(
        f"the edit of {names} was taken back, as {failed}: the forward uses the place or "
        "number of its blocks in a way that no edit can follow"
    )


def _computes(graph: ChannelGraph, expected: Tape, made: Sequence[Copied]) -> bool:
    """Whether a model computes what it should."""
    return not _failure(graph, expected, made)


def _failure(graph: ChannelGraph, expected: Tape, made: Sequence[Copied]) -> str:
    """In which way a model does not compute what it should; empty where it does."""
    try:
        found = run_of(graph)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        return f"the edited model does not run ({type(error).__name__}: {said})"
    # Caches and lists of hidden states have an entry more or less for each block.
    short, long = sorted((found.results, expected.results), key=len)
    rest = iter(long)
    slack = expected.rounding**0.5
    same = not short or near(expected.results[0], found.results[0], slack)
    if not same or not all(any(near(a, b, slack) for b in rest) for a in short):
        return "the edited model computes something else"
    reached = {found.names.get(ref.index) for op in found.ops for ref in op.inputs()}
    names = {id(tensor): name for name, tensor in tensors_of(graph.model).items()}
    if not all(any(names[id(new)] in reached for _, new in copies) for copies in made):
        return "the copy does not run"
    return ""


def _change_list(
    steps: Steps, model: nn.Module, change: _Change, made: list[Copied] | None = None
) -> list[Reordered]:
    """Reorder a list of a model, or of one that follows it, or replace members of it.

    Returns:
        Its old length and the new order, where it was reordered.

    Raises:
        RamifyError: a copy cannot compute the identity, or the module is not there.
    """
    plan = change.plan
    if plan.container is None or not change.shorter:
        for block in plan.drops:
            for name in block.members:
                _module(model, name)
                put_skip(steps, model, name, block.outputs, block.bare, block.sole and block.bare)
        return []
    if tuple(_module(model, plan.container)._modules) != change.keys:
        raise RamifyError(
            f"a follower has the names of the model, and '{plan.container}' of this "
            f"{type(model).__name__} has other members"
        )
    by_first = {id(_module(model, block.members[0])): block for block in plan.inserts}
    tensors = tensors_of(model)

    def finish(first: nn.Module, copies: Copies) -> None:
        _neutralise(by_first[id(first)], copies, tensors, change.statistics)
        if made is not None:
            made.append(copies.tensors)

    reorder_members(steps, model, plan.container, change.source, finish)
    return [Reordered(len(change.keys), change.source)]


def _order(model: nn.Module, plan: ListPlan) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The names of the members of a list, and their new order; nothing for an attribute."""
    if plan.container is None:
        return (), ()
    keys = tuple(model.get_submodule(plan.container)._modules)
    return keys, tuple(plan.source(keys))


def _module(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        raise RamifyError(
            f"a follower has the names of the model, and this {type(model).__name__} has no module "
            f"'{name}'"
        ) from None


@torch.no_grad()
def _neutralise(
    block: Block, copies: Copies, tensors: Mapping[str, Tensor], statistics: Statistics
) -> None:
    """Make a copy of a block change nothing."""
    if not block.ends:
        why = make_identity(copies.modules, *statistics[block])
        if why:
            raise RamifyError(f"no copy of block '{block.name}' can be inserted: {why}")
        return
    for end in block.ends:
        own = copies.of(tensors[end.name])
        if own is None:
            raise RamifyError(
                f"no copy of block '{block.name}' can be inserted: '{end.name}', which ends its "
                "branch, is shared"
            )
        own.fill_(end.value)


@contextlib.contextmanager
def _watched(model: nn.Module, blocks: Iterable[Block]) -> Iterator[Statistics]:
    """The statistics of the stream behind plain blocks, which copies of their norms are given."""
    found: dict[Block, tuple[Tensor, Tensor]] = {}

    def note(block: Block) -> Any:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            channels = output.detach().movedim(1, 0) if output.dim() > 2 else output.detach().T
            each = channels.reshape(channels.shape[0], -1)
            found[block] = each.mean(1), each.var(1, correction=0)

        return hook

    with contextlib.ExitStack() as handles:
        for block in blocks:
            if not block.ends:
                last = model.get_submodule(block.members[-1])
                handles.enter_context(last.register_forward_hook(note(block)))
        yield found
