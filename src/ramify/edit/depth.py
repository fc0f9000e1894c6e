"""Drops and inserts blocks: reorders module lists, checks the result by a run, updates the rest.

A run that bypasses a block, while it is still in place, gives the outputs that the model must have
without it. If a shorter list does not give these outputs (its members are indexed by number
elsewhere, or it is iterated together with another list), a module that passes its stream through
replaces the block, and the same check is made.

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
from ramify.errors import RamifyError, in_one_line
from ramify.tracing import ChannelGraph
from ramify.tracing.blocks import Block
from ramify.tracing.groups import run_of
from ramify.tracing.recorder import Tape, tensors_of
from ramify.tracing.verify.comparison import near

Statistics = Mapping[Block, tuple[Tensor, Tensor]]
"""The mean and variance (C,) of each channel of the stream after a block."""


def carry_out_blocks(
    steps: Steps,
    graph: ChannelGraph,
    plans: Sequence[ListPlan],
    optimizers: Sequence[Optimizer],
    followers: Sequence[Follower],
) -> dict[str, str]:
    """Drop and insert blocks in the model, its optimizers and its followers.

    Args:
        steps: records the changes, so that the caller can undo them, also after an error.
        graph: the traced model.
        plans: from `plan_blocks`.
        optimizers: the optimizers whose parameter groups and states are updated too.
        followers: models or state dictionaries with the names of the model.

    Returns:
        For each parameter and buffer of the edited model, its old name, or the name of the tensor
        that it copies.

    Raises:
        RamifyError: the outputs of the edited model would be wrong.
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
    """Drop and insert blocks inside the `with` block only.

    Args:
        graph: the traced model.
        edits: the edits of blocks.

    Yields:
        Nothing; the model is restored afterwards.

    Raises:
        RamifyError: an edit is impossible, or the outputs of the edited model would be wrong.
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
    """The change of one list.

    Attributes:
        plan: the requested edits.
        shorter: whether the list is reordered; otherwise some members are replaced in place.
        keys: the names of its old members.
        source: for each new member, the old one that it is or copies.
        statistics: the stream statistics for the norms of copies.
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
    """Change one list, and check by a run that the outputs of the model are as expected.

    Returns:
        The change.

    Raises:
        RamifyError: the outputs are not as expected.
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
    """Whether the outputs of a model are as expected."""
    return not _failure(graph, expected, made)


def _failure(graph: ChannelGraph, expected: Tape, made: Sequence[Copied]) -> str:
    """How the outputs of a model differ from the expected ones; empty if they do not."""
    try:
        found = run_of(graph)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        return f"the edited model does not run ({in_one_line(error, 200)})"
    # Caches and lists of hidden states gain or lose one entry per block.
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
    """Reorder a list of a model or a follower, or replace members of it.

    Returns:
        Its old length and the new order, if it was reordered.

    Raises:
        RamifyError: a copy cannot compute the identity, or the module does not exist.
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
    """The names of the members of a list, and their new order; empty for an attribute."""
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
    """Make a copy of a block compute the identity."""
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
    """Collect the stream statistics after plain blocks, for the norms of their copies."""
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
