"""Channel groups: named dimensions that change together, with the reason if they cannot."""

from __future__ import annotations

import difflib
import fnmatch
import functools
import html
import operator
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ramify.arguments import arguments_checked
from ramify.errors import RamifyError
from ramify.tracing.attention.factors import scalable_products
from ramify.tracing.blocks import Block, find_blocks
from ramify.tracing.dims import Atom, Term, freeze
from ramify.tracing.flow import DimFlow
from ramify.tracing.indexing import Index, Indexing, Slot, positions
from ramify.tracing.recorder import Tape, call, record
from ramify.tracing.roles import indexing_of, roles_of, slots_of
from ramify.tracing.text_table import html_table, text_table
from ramify.tracing.verify.trial_results import TrialResults

Renew = Callable[[Any], Any]
"""Maps inputs of a model to other inputs."""


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """One channel axis: the dimensions of parameters and buffers that change together.

    Attributes:
        name: the first module that produces the channels; with `:k` if it produces several groups.
        width: the number of channels.
        producers: parameters that produce the channels (weights and their biases).
        carriers: parameters and buffers that hold one entry per channel, such as those of a norm.
        consumers: parameters whose columns read the channels.
        can_prune: whether channels can be removed.
        can_split: whether a channel can be copied without changing the output.
        prune_exact: whether removing a channel is possible and equals zeroing it where it is read.
        reason: one sentence that says why one of these is False; empty if all are True.
        slots: every dimension that holds the channels, with its role.
        atom: the axis itself.
        least: how many channels must stay: for experts, as many as each token is routed to.

    Example:
        >>> import ramify, torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> group = ramify.trace(net, torch.randn(3, 4))["0"]
        >>> group.width, group.producers, group.consumers
        (8, ('0.weight', '0.bias'), ('2.weight',))
        >>> group.can_prune, group.can_split, group.reason
        (True, True, '')
    """

    name: str
    width: int
    producers: tuple[str, ...]
    carriers: tuple[str, ...]
    consumers: tuple[str, ...]
    can_prune: bool
    can_split: bool
    prune_exact: bool
    reason: str
    slots: tuple[Slot, ...]
    atom: Atom
    least: int = 1

    @property
    def narrowest(self) -> int:
        """The smallest width that the group can have: its own if it cannot be pruned."""
        return self.least if self.can_prune else self.width

    @property
    def why(self) -> str:
        """The older name of `reason`."""
        return self.reason

    def __repr__(self) -> str:
        """The group in one line."""
        able = [word for word, yes in (("prune", self.can_prune), ("split", self.can_split)) if yes]
        return f"ChannelGroup({self.name!r}, width={self.width}, can={'+'.join(able) or 'nothing'})"


@dataclass(eq=False)
class ChannelGraph:
    """The channel groups of one model, as `ramify.trace` found them.

    `graph[name]` takes a group's name, or the name of a module, parameter or buffer.

    Attributes:
        model: the traced model.
        inputs: the inputs it was traced with.
        groups: the channel groups, in forward order.
        origin: after `ramify.apply`, for each group the old channel that each channel came from.
        came_from: after an edit of blocks, the old name of each group, parameter and buffer, or the
            name of the original if it is a copy.
        unreached: parameters that no run reached.
        indexing: the positions of the channels in every tensor.
        flow: the dimensions of every tensor of the runs.
        tapes: the runs: in eval mode, on `also`, and in train mode if that differs.
        trial_results: the results of the trial growth of every group.
        superseded: whether an edit has replaced this graph by a new one.

    Example:
        >>> import ramify, torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> graph = ramify.trace(net, torch.randn(3, 4))
        >>> [group.name for group in graph.groups], graph["2"].reason
        (['0', '2'], 'it is an output of the model')
    """

    model: nn.Module
    inputs: Any
    groups: list[ChannelGroup]
    origin: dict[str, list[int]]
    unreached: tuple[str, ...]
    indexing: Indexing
    flow: DimFlow
    tapes: Sequence[Tape]
    trial_results: TrialResults
    _trace_again: Callable[[TrialResults | None, Renew | None], ChannelGraph]
    superseded: bool = False
    came_from: dict[str, str] = field(default_factory=dict)

    def retrace(
        self, known: TrialResults | None = None, renew: Renew | None = None
    ) -> ChannelGraph:
        """Trace the same model again, on the same inputs and with the same settings.

        Args:
            known: results of an earlier trial growth, which is then not repeated.
            renew: maps the inputs of the trace and of `also` to the inputs to use.

        Returns:
            The graph of the current model.
        """
        return self._trace_again(known, renew)

    @property
    def again(self) -> Callable[[TrialResults | None], ChannelGraph]:
        """The older name of `retrace`."""
        return self.retrace

    @functools.cached_property
    def blocks(self) -> list[Block]:
        """The blocks of the model, which `ramify.Drop` removes, in forward order."""
        return find_blocks(self.model, self.tapes[0])

    @property
    def dims(self) -> Mapping[str, tuple[Term, ...]]:
        """The dimensions of each parameter and buffer, by name."""
        return self.indexing.dims

    def __getitem__(self, name: str) -> ChannelGroup:
        """The group of this name, or the group of this module's or parameter's channels."""
        if not isinstance(name, str):
            raise RamifyError(
                f"a group goes by its name, or that of a module or parameter, and not by {name!r}: "
                "graph.groups lists them in order"
            )
        if name in self._by_name:
            return self._by_name[name]
        for role in ("producer", "carrier", "consumer"):
            owned = ((g, s) for g in self.groups for s in g.slots if self._owns(name, s, role))
            found = max(owned, key=lambda pair: self._fitness(name, *pair), default=None)
            if found is not None:
                return found[0]
        raise RamifyError(self._unknown(name))

    @arguments_checked
    def matching(self, pattern: str) -> list[ChannelGroup]:
        """The groups whose names match a pattern, in forward order.

        A group that several modules produce is named after the first of them. So that repeated
        blocks match alike, it can also be matched by the name of any other module that produces
        several axes, with the number of the axis there. For example, the heads of every layer match
        `"*.q_proj:0"`, and the head dimensions, which rotary positions tie across layers, match
        `"*.layers.1.*.q_proj:1"`.

        Args:
            pattern: an `fnmatch` pattern, such as `"*.mlp.*"`.

        Returns:
            The groups; an empty list if none matches.
        """
        meant = {self._by_name[name].name for name in fnmatch.filter(self._by_name, pattern)}
        return [group for group in self.groups if group.name in meant]

    @functools.cached_property
    def _by_name(self) -> dict[str, ChannelGroup]:
        """Each group by its name, and by `module:number` if a module produces several axes."""
        made: dict[str, list[tuple[str, int, int, ChannelGroup]]] = {}
        for group in self.groups:
            seen = set[str]()
            for slot in group.slots:
                module = owner_of(slot.name)
                if slot.role == "producer" and module not in seen:
                    seen.add(module)
                    place = (slot.name, slot.dim, -self._step(group, slot))
                    made.setdefault(module, []).append((*place, group))
        numbered: dict[str, ChannelGroup] = {}
        for module, axes in made.items():
            axes.sort(key=operator.itemgetter(0, 1, 2))  # within a dimension the outermost first
            for number, (*_, group) in enumerate(axes if len(axes) > 1 else []):
                numbered[f"{module}:{number}"] = group
        return numbered | {group.name: group for group in self.groups}

    def _fitness(self, name: str, group: ChannelGroup, slot: Slot) -> tuple[bool, bool, int]:
        """The sort key of the groups for a name: can change, is the module's own, closest axis."""
        own = group.name.rpartition(":")[0] == name
        return group.can_prune or group.can_split, own, -self._step(group, slot)

    def _step(self, group: ChannelGroup, slot: Slot) -> int:
        """The number of positions from one channel to the next along a slot."""
        where = self.positions(group, slot)
        return int(where[-1, 0]) // max(group.width - 1, 1) if len(where) else 0

    def positions(self, group: ChannelGroup, slot: Slot) -> Index:
        """The positions of each channel along one slot: (width, positions of one channel)."""
        return positions(self.dims[slot.name][slot.dim], group.atom)

    def _owns(self, name: str, slot: Slot, role: str) -> bool:
        canonical = self.flow.aliases.get(name)
        if slot.role != role:
            return False
        if canonical is not None:
            return slot.name == canonical
        return any(
            alias.rpartition(".")[0] == name or module_of(alias) == name
            for alias, first in self.flow.aliases.items()
            if first == slot.name
        )

    def _unknown(self, name: str) -> str:
        known = [group.name for group in self.groups]
        if name in dict(self.model.named_modules()) or name in self.flow.aliases:
            return f"'{name}' makes no channels that an edit could reach: print(graph) lists those"
        near = difflib.get_close_matches(name, known, n=3) or known[:3]
        hint = ", ".join(f"'{other}'" for other in near)
        return f"the model has no group, module or parameter '{name}': the nearest are {hint}"

    def __repr__(self) -> str:
        """The graph in one line; `print(graph)` shows the groups."""
        able = (sum(g.can_prune for g in self.groups), sum(g.can_split for g in self.groups))
        return (
            f"<ChannelGraph of {type(self.model).__name__}: {len(self.groups)} groups, "
            f"{able[0]} can be pruned, {able[1]} can be split>"
        )

    def __str__(self) -> str:
        """A table of the groups, with the reason if a group is frozen."""
        first, *others = self._remarks()
        table = text_table(_HEADINGS, self._rows(), _WIDEST) if self.groups else []
        return "\n".join([first, *table, *others])

    def _repr_html_(self) -> str:
        """The same table for notebooks."""
        first, *others = map(html.escape, self._remarks())
        table = html_table(_HEADINGS, self._rows()) if self.groups else ""
        return f"<p>{first}</p>{table}" + "".join(f"<p>{remark}</p>" for remark in others)

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                group.name,
                str(group.width),
                ("yes" if group.prune_exact else "inexact") if group.can_prune else "no",
                "yes" if group.can_split else "no",
                _short(group.producers),
                _short(group.carriers),
                _short(group.consumers),
                group.reason,
            )
            for group in self.groups
        ]

    def _remarks(self) -> list[str]:
        """The lines above and below the table."""
        lines = [f"{type(self.model).__name__}: {len(self.groups)} channel groups"]
        lines += [] if self.groups else [self._why_empty()]
        if self.unreached:
            lines.append(f"not reached by these inputs: {_short(self.unreached, 12)}")
        return lines

    def _why_empty(self) -> str:
        if not self.flow.param_dims:
            return (
                "the model has no parameters and no buffers: modules in a plain list or dict "
                "belong into nn.ModuleList or nn.ModuleDict, and quantised or frozen layers keep "
                "their weights where no edit reaches them"
            )
        if not self.flow.reached:
            return "no operation of the run used a parameter of the model"
        used = [f"'{name}' ({where})" for name, where in self.flow.reached.items()]
        more = f" and {len(used) - 3} more" if len(used) > 3 else ""
        return f"no weight of the run makes channels: it used {', '.join(used[:3])}{more}"


_HEADINGS = ("group", "width", "prune", "split", "makes", "carries", "reads", "why not")
_WIDEST = (None, None, None, None, 28, 28, 28, 48)  # None: never broken, to copy names


def module_of(name: str) -> str:
    """The module that a parameter belongs to, ignoring parametrizations."""
    return re.sub(r"\.?parametrizations\.[^.]+$", "", name.rpartition(".")[0])


def owner_of(name: str) -> str:
    """The name for a parameter's axes: its module, or its own name if the model holds it."""
    return module_of(name) or name


def _short(names: Sequence[str], most: int = 3) -> str:
    more = f" +{len(names) - most}" if len(names) > most else ""
    return " ".join(names[:most]) + more


def check_graph(graph: Any) -> None:
    """Check that an argument is a graph.

    Raises:
        RamifyError: it is something else.
    """
    if not isinstance(graph, ChannelGraph):
        raise RamifyError(
            "the first argument must be the graph that ramify.trace returns for a model, but got a "
            f"{type(graph).__name__}"
        )


def run_of(graph: ChannelGraph) -> Tape:
    """Run the current model once more on the inputs of the trace."""
    return record(graph.model, lambda: call(graph.model, graph.inputs), graph.inputs)


def build_groups(flow: DimFlow, shared: Mapping[str, str]) -> list[ChannelGroup]:
    """Every axis that some parameter produces, in forward order.

    Args:
        flow: the traced dimensions.
        shared: parameters that share memory with another parameter, which cannot be edited.

    Returns:
        The groups.
    """
    roles, read_in_products = roles_of(flow), scalable_products(flow)
    found: list[tuple[Atom, list[Slot]]] = []
    for atom, places in roles.items():
        slots = slots_of(places)
        for slot in slots:
            if slot.name in shared:
                freeze(atom, f"'{slot.name}' shares its memory with '{shared[slot.name]}'")
        if any(slot.role == "producer" for slot in slots):
            found.append((atom, slots))
            read = atom in read_in_products or any(slot.role == "consumer" for slot in slots)
            if not read and not atom.no_split:
                freeze(atom, "nothing that a trace can see reads its channels")
    bases = [_base(slots) for _, slots in found]
    many = {base for base, count in Counter(bases).items() if count > 1}
    seen: Counter[str] = Counter()
    groups = []
    for (atom, slots), base in zip(found, bases, strict=True):
        name = f"{base}:{seen[base]}" if base in many else base
        seen[base] += 1
        groups.append(_group(name, atom, slots))
    return groups


def _base(slots: Sequence[Slot]) -> str:
    first = next(slot.name for slot in slots if slot.role == "producer")
    return owner_of(first)


def _group(name: str, atom: Atom, slots: Sequence[Slot]) -> ChannelGroup:
    def of(role: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(slot.name for slot in slots if slot.role == role))

    no_split = atom.frozen or atom.no_split
    enough = atom.size > atom.least
    left = "has one channel left" if atom.size == 1 else f"needs all of its {atom.size} channels"
    return ChannelGroup(
        name=name,
        width=atom.size,
        producers=of("producer"),
        carriers=of("carrier"),
        consumers=of("consumer"),
        can_prune=not atom.frozen and enough,
        can_split=not no_split,
        prune_exact=not (atom.frozen or atom.inexact) and enough,
        reason=no_split or ("" if enough else f"it {left}"),
        slots=tuple(slots),
        atom=atom,
        least=atom.least,
    )


def build_graph(
    model: nn.Module,
    inputs: Any,
    flow: DimFlow,
    tapes: Sequence[Tape],
    results: TrialResults,
    shared: Mapping[str, str],
    trace_again: Callable[[TrialResults | None, Renew | None], ChannelGraph],
) -> ChannelGraph:
    """The graph of a model after its trial growth."""
    groups = build_groups(flow, shared)
    parameters = {name for name, _ in model.named_parameters()}
    return ChannelGraph(
        model=model,
        inputs=inputs,
        groups=groups,
        origin={},
        unreached=tuple(n for n in flow.param_dims if n in parameters and n not in flow.reached),
        indexing=indexing_of(model, flow, roles_of(flow), results.powers_of(flow)),
        flow=flow,
        tapes=tapes,
        trial_results=results,
        _trace_again=trace_again,
    )
