"""`ramify.apply`: applies edits as one re-indexing, completely or not at all.

New channel j copies old channel `source[j]`. Its incoming weights are displaced by an offset, and
its outgoing weights are multiplied by a scale. Pruning drops indices; splitting repeats them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from ramify.edit.block_edits import BlockEdit, Drop, Insert, plan_blocks
from ramify.edit.cached_weights import renew_cached
from ramify.edit.carry import Follower, Swap, stage_follower, stage_model
from ramify.edit.configs import configured, facts_of, follow, warn_of_cache
from ramify.edit.depth import carry_out_blocks
from ramify.edit.lists import Steps
from ramify.edit.optimizers import once, several, stage_optimizer
from ramify.edit.plan import Edit, Plan, Split, check_current, plan_edits
from ramify.errors import RamifyError, in_one_line
from ramify.tracing import ChannelGraph
from ramify.tracing.dims import Atom, leaves
from ramify.tracing.groups import run_of
from ramify.tracing.indexing import Change, Changes, Index, new_size
from ramify.tracing.inputs import OF_INPUTS
from ramify.tracing.recorder import Tape
from ramify.tracing.resizing import resized
from ramify.tracing.unharmed import unharmed
from ramify.tracing.untouched import alone
from ramify.tracing.verify.comparison import near_equal
from ramify.tracing.verify.removal import removal_is_zeroing
from ramify.tracing.verify.trial_results import TrialResults


class Proposed(Protocol):
    """An object that holds an edit: a `Proposal` of a method, or a row of a report on blocks."""

    @property
    def edit(self) -> Edit | BlockEdit:
        """The edit."""


def apply(
    graph: ChannelGraph,
    edits: Iterable[Edit | BlockEdit | Proposed],
    *,
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    followers: Follower | Iterable[Follower] = (),
) -> ChannelGraph:
    r"""Apply edits to the model, its optimizer and its followers, all or nothing.

    Channel indices refer to `graph`. Several edits compose, even within one group or across
    neighbouring layers. A split with zero offsets leaves the outputs unchanged, which is checked on
    the inputs of the trace. Parameter objects stay the same; gradients and optimizer state follow
    the edit.

    After an edit, the next optimizer step changes the network as it would have changed the old one;
    each copy takes its share. An edit multiplies values by :math:`f` (outgoing weights of copy i by
    `weights[i]`) and gradients by :math:`g` (incoming ones, as ∂L/∂θ_i = w_i ∂L/∂θ), so

    .. math:: m \to g\,m, \qquad v \to (g / f)^2\,v, \qquad
        m / \sqrt v \to \operatorname{sign}(g)\,|f|\; m / \sqrt v

    for first and second moments m and v. Later gradients then take over at the optimizer's own
    rate. |f| below 0.1 counts as 0.1; f = 0 (a copy that nothing reads yet), and g = 0 in v, count
    as 1. Copies of negative share also descend, so shares of both signs give :math:`\sum_i |w_i|`
    times the step. An optimizer whose step is its gradient (SGD) has only m, which becomes that of
    a copy that had always existed.

    Args:
        graph: the graph of the model, from `ramify.trace`.
        edits: `Prune` and `Split`, at most one per channel; `Drop` and `Insert` of blocks; or
            proposals, whose edits are applied. Channels are edited before blocks, and all names
            are those of `graph`.
        optimizer: the optimizer (or several) whose state is updated too.
        followers: one or several models or state dictionaries with the same names and shapes, such
            as weight averages or teachers; they are edited too.

    Returns:
        The graph of the edited model; its `origin` maps each channel to the old channel.

    Raises:
        RamifyError: an edit is impossible; the message gives the reason, and nothing has changed.

    Example:
        >>> import ramify, torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> graph = ramify.trace(net, torch.randn(3, 4))
        >>> graph = ramify.apply(graph, [ramify.Split("0", 2), ramify.Prune("0", 5)])
        >>> graph["0"].width, graph.origin["0"]
        (8, [0, 1, 2, 3, 4, 6, 7, 2])

    Source: the split is S2D (Liu et al., 2019), Theorem 2.3 and Algorithm 1, step 4.
    """
    with alone():
        check_current(graph)
        if torch._C._current_graph_task_id() != -1:  # a backward pass is running
            raise RamifyError(
                "an edit was requested during a backward pass, such as from a gradient hook, "
                "and the rest of the pass would meet weights of other shapes: edit after the pass"
            )
        optimizers, following = several(optimizer), several_followers(followers)
        with unharmed(graph.model, *optimizers, *following):
            return _apply(graph, _list_of_edits(edits), optimizers, following)


def _apply(
    graph: ChannelGraph,
    edits: Sequence[Edit | BlockEdit],
    optimizers: Sequence[Optimizer],
    followers: Sequence[Follower],
) -> ChannelGraph:
    """Edit channels first, by their names in the graph, then whole blocks."""
    of_blocks = [edit for edit in edits if isinstance(edit, (Drop, Insert))]
    of_channels = [edit for edit in edits if not isinstance(edit, (Drop, Insert))]
    if not of_blocks:
        return _apply_channels(graph, of_channels, optimizers, followers, Swap())
    plan_blocks(graph, of_blocks)
    swap, edited = Swap(), graph
    try:
        if of_channels:
            edited = _apply_channels(graph, of_channels, optimizers, followers, swap)
            _check_blocks_still(edited, of_blocks)
        origin = edited.origin if of_channels else {}
        return _apply_blocks(edited, of_blocks, optimizers, followers, origin)
    except BaseException:
        swap.undo()
        graph.superseded = False
        raise


def _check_blocks_still(edited: ChannelGraph, edits: Sequence[BlockEdit]) -> None:
    """Check that each block to edit is still a block after the edits of channels."""
    try:
        plan_blocks(edited, edits)
    except RamifyError as error:
        raise RamifyError(f"channels are edited first, and then {error}") from error


def _apply_blocks(
    graph: ChannelGraph,
    edits: Sequence[BlockEdit],
    optimizers: Sequence[Optimizer],
    followers: Sequence[Follower],
    origin: Mapping[str, list[int]],
) -> ChannelGraph:
    steps = Steps()
    try:
        plans = plan_blocks(graph, edits)
        came_from = carry_out_blocks(steps, graph, plans, optimizers, followers)
        renew_cached(graph.model, *followers)
        edited = _trace_again(graph, None, None)
        # Channels stay the same; the names of the blocks after a changed one differ.
        old_atom = _old_atoms(graph, edited, {}, strict=False, came_from=came_from)
        edited.came_from.update(came_from)
        names = {group.atom: group.name for group in graph.groups}
        for group in edited.groups:
            name = names.get(old_atom.get(group.atom, group.atom), group.name)
            edited.came_from[group.name] = name
            known, whole = origin.get(name), list(range(group.width))
            edited.origin[group.name] = known if known and len(known) == len(whole) else whole
        if configured(graph.model):
            warn_of_cache(graph.model, edited.inputs)
    except BaseException:
        steps.back()
        raise
    graph.superseded = True
    return edited


def _apply_channels(
    graph: ChannelGraph,
    edits: Sequence[Edit],
    optimizers: Sequence[Optimizer],
    followers: Sequence[Follower],
    swap: Swap,
) -> ChannelGraph:
    # Plan, and run the checks that do not change the model.
    plan = plan_edits(graph, edits)
    _warn_of_unseen(graph, plan)
    whole = all(isinstance(edit, Split) for edit in edits)
    before = _run_as_traced(graph) if whole else None
    if not whole:
        _try_splits_alone(graph, edits)
        _try_reordered_blocks(graph, plan)
        _warn_of_counted(graph, plan)

    def check(edited: ChannelGraph) -> None:
        if before is not None:
            _check_outputs(before, edited.tapes[0])

    return carry_out(graph, plan, optimizers, followers, check=check, swap=swap)


def carry_out(
    graph: ChannelGraph,
    plan: Plan,
    optimizers: Sequence[Optimizer],
    followers: Sequence[Follower],
    *,
    check: Callable[[ChannelGraph], None],
    swap: Swap | None = None,
    renew: Callable[[Any], Any] | None = None,
) -> ChannelGraph:
    """Apply a plan to the model, its optimizer and its followers, all or nothing.

    Args:
        graph: the traced model.
        plan: the change of each axis.
        optimizers: the optimizers whose state is updated too.
        followers: models or state dictionaries with the names and shapes of the model.
        check: called with the graph of the edited model; raises if the edited model is wrong.
        swap: further changes that are already staged.
        renew: maps the inputs of the trace to the inputs for the edited model.

    Returns:
        The graph of the edited model.

    Raises:
        RamifyError: the plan cannot be applied. Nothing has changed then.
    """
    described = [(module, facts_of(module)) for module in configured(graph.model)]
    # Stage everything, commit it, and check the edited model; any failure rolls everything back.
    swap = swap or Swap()
    try:
        stage_model(swap, graph, plan)
        for follower in followers:
            stage_follower(swap, graph, plan, follower)
        for each in optimizers:
            stage_optimizer(swap, graph, plan, each)
        swap.commit()
        renew_cached(graph.model, *followers)
        # Axes of one channel cannot be told apart: results stored by axis must be found again.
        narrow = any(len(change.source) == 1 for change in plan.changes.values())
        edited = _trace_again(graph, None if narrow else graph.trial_results, renew)
        _follow(graph, edited, plan, strict=not narrow)
        check(edited)
        for module, facts in described:
            swap.taken_back_by(follow(module, facts, lambda: _computes(edited)))
        swap.displace()
    except BaseException:
        swap.undo()
        raise
    graph.superseded = True
    if described:
        warn_of_cache(graph.model, edited.inputs)
    return edited


def _computes(graph: ChannelGraph) -> bool:
    """Whether a model still computes what it did when it was traced."""
    try:
        return near_equal(run_of(graph), graph.tapes[0], repeated=True)
    except Exception:
        return False


def _warn_of_unseen(graph: ChannelGraph, plan: Plan) -> None:
    """Warn of a parameter that no run reached and that has a dimension of an edited size."""
    sizes = {atom.size: atom for atom in plan.changes}
    names = {group.atom: group.name for group in graph.groups}
    for unseen in graph.unreached:
        for size in graph.flow.param_shapes[unseen]:
            if size in sizes:
                warnings.warn(
                    f"'{unseen}' was not reached when the model was traced, and has a dimension of "
                    f"{size} as '{names[sizes[size]]}' has, which does not follow this edit: if a "
                    "branch of the forward uses it with these channels, trace with `also`",
                    stacklevel=5,
                )
                return


def _warn_of_counted(graph: ChannelGraph, plan: Plan) -> None:
    """Warn if removing these channels together is not equal to zeroing them.

    The trace removed only one channel of each group. A forward that computes `width // 4`, say, may
    change only when several are removed.
    """
    exact = {group.atom: group.name for group in graph.groups if group.prune_exact}
    kept = {
        atom: np.unique(change.source)
        for atom, change in plan.changes.items()
        if atom in exact and not atom.no_split and change.table is None
    }
    kept = {atom: stay for atom, stay in kept.items() if 0 < len(stay) < atom.size}
    if kept and removal_is_zeroing(graph.model, graph.indexing, graph.inputs, kept) is False:
        names = ", ".join(f"'{exact[atom]}'" for atom in kept)
        warnings.warn(
            f"with fewer channels of {names} the model does not compute what it does where they "
            "are zeros: the forward depends on the number of channels in a way that the trace did "
            "not see (a number such as `width // 4`, or a branch on it)",
            stacklevel=5,
        )


def _trace_again(
    graph: ChannelGraph, known: TrialResults | None, renew: Callable[[Any], Any] | None
) -> ChannelGraph:
    try:
        return graph.retrace(known, renew)
    except RamifyError:
        raise
    except Exception as error:
        kept = _kept_tensors(graph.model)
        hint = "if the device or dtype of the model has changed since its trace, trace it again"
        if kept:
            hint = f"'{kept}' keeps tensors of earlier runs: empty it before an edit"
        raise RamifyError(
            f"the edited model does not run ({type(error).__name__}: {error}), and the edit was "
            f"taken back; {hint}"
        ) from error


def _kept_tensors(model: nn.Module) -> str:
    """The name of an attribute that caches tensors which are neither parameters nor buffers."""
    of_torch = vars(nn.Module()).keys()
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            held = [] if name in of_torch else tree_leaves(value)
            if any(isinstance(leaf, Tensor) for leaf in held):
                return f"{path}.{name}".lstrip(".")
    return ""


def several_followers(followers: Follower | Iterable[Follower]) -> list[Follower]:
    """Return one or several followers as a list.

    Args:
        followers: as in :func:`apply`.

    Returns:
        The list.

    Raises:
        RamifyError: one is neither a model nor a state dictionary.
    """
    if isinstance(followers, (nn.Module, MutableMapping)):
        return [followers]
    found = once(followers) if isinstance(followers, Iterable) else [followers]
    for each in found:
        if not isinstance(each, (nn.Module, MutableMapping)):
            raise RamifyError(
                "`followers` must be models or state dictionaries with the names of the model, one "
                f"or several in a list, but got a {type(each).__name__}"
            )
    return found


def _list_of_edits(edits: Any) -> list[Edit | BlockEdit]:
    """The edits as a list; accepts a single edit, and takes the edit out of each proposal."""
    every: Iterable[Any] = edits if isinstance(edits, Iterable) else [edits]
    return [getattr(edit, "edit", edit) for edit in every]


def _try_splits_alone(graph: ChannelGraph, edits: Sequence[Edit]) -> None:
    """Check that the splits of a call, without offsets and prunes, leave the outputs unchanged."""
    splits = [replace(edit, offsets={}) for edit in edits if isinstance(edit, Split)]
    if splits:
        _check_outputs(*_without_and_with(graph, plan_edits(graph, splits).changes))


def _try_reordered_blocks(graph: ChannelGraph, plan: Plan) -> None:
    """If each head loses different channels, check that the channel order in a head is arbitrary.

    Raises:
        RamifyError: putting the channels of each head in another order changes the outputs.
    """
    orders = {
        atom: Change(np.arange(atom.size), np.ones(atom.size), change.blocks, _order(change, atom))
        for atom, change in plan.changes.items()
        if change.table is not None
    }
    if orders and not near_equal(*_without_and_with(graph, orders)):
        raise RamifyError(
            "these channels cannot be pruned head by head: the heads share something that tells "
            "their channels apart; give one channel for all of them"
        )


def _order(change: Change, atom: Atom) -> Index:
    """For each head, the kept channels, then the removed ones."""
    assert change.table is not None
    rest = [np.setdiff1d(np.arange(atom.size), row) for row in change.table]
    return np.concatenate([change.table, np.array(rest)], axis=1)


def _without_and_with(graph: ChannelGraph, changes: Changes) -> tuple[Tape, Tape]:
    """A run of the model as it is, and a run with the changes applied."""
    before = _run_as_traced(graph)
    with resized(graph.model, graph.indexing, changes):
        return before, run_of(graph)


def _run_as_traced(graph: ChannelGraph) -> Tape:
    """Run the model, before it changes, on the inputs of its trace."""
    try:
        return run_of(graph)
    except (RamifyError, torch.OutOfMemoryError):
        raise
    except OF_INPUTS as error:
        raise RamifyError(
            "the model does not run any more on the inputs that it was traced with "
            f"({in_one_line(error)}): if its device, dtype or code has changed since, trace it "
            "again"
        ) from error


def _follow(graph: ChannelGraph, edited: ChannelGraph, plan: Plan, *, strict: bool) -> None:
    """Check that the edited model has the planned axes, and record where each channel came from."""
    old_atom = _old_atoms(graph, edited, plan.changes, strict=strict)
    for group in edited.groups:
        change = plan.changes.get(old_atom.get(group.atom, group.atom))
        source = change.source.tolist() if change is not None else list(range(group.width))
        edited.origin[group.name] = source


def _old_atoms(
    graph: ChannelGraph,
    edited: ChannelGraph,
    changes: Changes,
    *,
    strict: bool,
    came_from: Mapping[str, str] | None = None,
) -> dict[Atom, Atom]:
    """Map each axis of an edited model to its axis before the edit.

    Args:
        graph: the graph before the edit.
        edited: the graph after it.
        changes: the planned changes.
        strict: whether every axis must have the planned size.
        came_from: if blocks were edited, the old name of each tensor, or of the one it copies.

    Returns:
        New axis -> old axis.

    Raises:
        RamifyError: an axis does not have the planned size.
    """
    names = {group.atom: group.name for group in graph.groups}
    old_atom: dict[Atom, Atom] = {}
    # Old and new axes are in the same order in every dimension of every parameter.
    names_now = {name: name for name in graph.flow.param_dims} if came_from is None else came_from
    for now, name in names_now.items():
        dims = graph.flow.param_dims.get(name, ())
        found_dims = edited.flow.param_dims.get(now)
        for old, new in zip(dims, found_dims or dims, strict=True):
            planned, found = list(leaves(old)), list(leaves(new))
            if [new_size(a, changes) for a in planned] == [a.size for a in found]:
                old_atom.update(zip(found, planned, strict=True))
            elif strict and any(a in names for a in planned):  # else a forward recreated it
                lost = next((names[a] for a in planned if a in changes), name)
                raise RamifyError(
                    f"the edit of '{lost}' did not come out as planned, and was taken back: the "
                    "forward cuts its channels at sizes that do not follow"
                )
    return old_atom


def _check_outputs(before: Tape, after: Tape) -> None:
    if not near_equal(before, after):
        far = [
            float((old - new).abs().max())
            for old, new in zip(before.results, after.results, strict=True)
            if old.shape == new.shape and old.numel()
        ]
        raise RamifyError(
            f"the splits would have changed the model's output by {max(far, default=0):.3g}, and "
            "were taken back: the forward depends on the number of channels in a way that the "
            "trace did not see"
        )
