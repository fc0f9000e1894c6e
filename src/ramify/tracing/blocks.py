"""Blocks: modules that map a stream of activations to the same stream, found in a traced run.

The tape records the arguments, results and operations of every module call. A block is *residual*
if its input reaches its output through additions alone, optionally followed by a norm or an
activation. Any other module whose output has the shape of its input is *plain*. Candidates are the
modules that can be removed or inserted: members of `ModuleList` and `Sequential`, and attributes of
the same class.
"""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import nn

from ramify.errors import RamifyError
from ramify.tracing.branch_ends import ADDS, NORMS, RELUS, End, Ends, NoEnd
from ramify.tracing.contraction import MOVES
from ramify.tracing.module_calls import ModuleCall
from ramify.tracing.operation_cost import Cost, counted_macs
from ramify.tracing.recorder import Op, Ref, Tape, aliases_of, leaves_of_kind

_ACTIVATIONS = RELUS | {
    f"aten::{name}" for name in "gelu silu tanh leaky_relu elu hardtanh".split()
}
_KEEPS = MOVES | {"aten::dropout"}
_WORK = ("conv", "linear", "matmul", "attention")
_PLAIN = RELUS | NORMS.keys() | MOVES | {"aten::convolution", "aten::addmm", "aten::mm"}
"""The operations of a plain block of which a copy can become an identity."""

Place: TypeAlias = int | str | None
"""How a module was given a tensor: by position, by name, or not at all."""


@dataclass(frozen=True, eq=False)
class Block:
    """A module, or consecutive modules, that can be dropped or duplicated.

    Attributes:
        name: the name of its (first) module.
        kind: "residual" or "plain".
        cost: the parameters that only this block has, and the MACs of one forward on the traced
            inputs.
        can_drop: whether it can be dropped.
        can_insert: whether a copy that leaves the outputs unchanged can be inserted after it.
        why: one sentence that says why one of these is False; empty if both are True.
        members: its modules, in order.
        container: the `ModuleList` or `Sequential` that contains them; None for an attribute.
        stream: the argument by which its module gets the stream.
        outputs: for each output, the argument that it passes on; None if the block computes it.
        bare: whether it returns the stream directly, rather than a tuple that begins with it.
        sole: whether the stream is its only argument.
        ends: for a residual block, the parameters that make its branches zero.
        own: the parameters and buffers that only this block has.
        operations: the first of its operations on the first tape, and the first after them.

    Example:
        >>> import ramify, torch
        >>> class Residual(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.inner = nn.Linear(8, 8)
        ...     def forward(self, x):
        ...         return x + torch.relu(self.inner(x))
        >>> net = nn.Sequential(nn.Linear(4, 8), Residual(), Residual(), nn.Linear(8, 2))
        >>> graph = ramify.trace(net, torch.randn(3, 4))
        >>> [(block.name, block.kind) for block in graph.blocks if block.can_drop]
        [('1', 'residual'), ('2', 'residual')]
        >>> graph.blocks[1].cost.params
        72
    """

    name: str
    kind: str
    cost: Cost
    can_drop: bool
    can_insert: bool
    why: str
    members: tuple[str, ...]
    container: str | None
    stream: Place
    outputs: tuple[Place, ...]
    bare: bool
    sole: bool
    ends: tuple[End, ...]
    own: tuple[str, ...]
    operations: tuple[int, int]

    def __repr__(self) -> str:
        """The block in one line."""
        able = [word for word, yes in (("drop", self.can_drop), ("insert", self.can_insert)) if yes]
        return f"Block({self.name!r}, {self.kind}, can={'+'.join(able) or 'nothing'})"


def find_block(blocks: Sequence[Block], name: Any) -> Block:
    """Find a block by name.

    Args:
        blocks: the blocks of a graph.
        name: the name of a block or of one of its modules, or a block of the graph.

    Returns:
        The block.

    Raises:
        RamifyError: there is no such block.
    """
    if isinstance(name, Block):
        name = name.name
    if not isinstance(name, str):
        raise RamifyError(
            f"a block must be given by its name or be one of graph.blocks, but got a "
            f"{type(name).__name__}"
        )
    for block in blocks:
        if name in block.members:
            return block
    known = [block.name for block in blocks]
    if not known:
        raise RamifyError(
            f"the model has no block '{name}', nor any other: no repeated module gives a stream of "
            "the shape that it is given"
        )
    near = difflib.get_close_matches(name, known, n=3) or known[:3]
    hint = ", ".join(f"'{other}'" for other in near)
    raise RamifyError(f"the model has no block '{name}': did you mean {hint}?")


def find_blocks(model: nn.Module, tape: Tape) -> list[Block]:
    """Every block of a traced model, in the order in which they run.

    Args:
        model: the traced model.
        tape: its run on the inputs of the trace.

    Returns:
        The blocks, and the modules in the same lists that change the shape of their stream.
    """
    finder = _Finder(model, tape)
    found = _only_blocks(finder.candidates())
    found.sort(key=lambda one: (one.start, -one.end))
    return [finder.block(one) for one in found]


@dataclass(eq=False)
class _Candidate:
    """A candidate for a block: its modules, and their first calls combined."""

    members: tuple[str, ...]
    container: str | None
    kind: type
    calls: int
    call: ModuleCall
    source: Ref | None
    target: Ref | None
    same: bool
    adds: list[tuple[Ref, int]]
    ends_in: str
    siblings: int
    works: bool

    @property
    def name(self) -> str:
        return self.members[0]

    @property
    def start(self) -> int:
        return self.call.start

    @property
    def end(self) -> int:
        return self.call.end

    def holds(self, other: _Candidate) -> bool:
        """Whether another candidate is inside this one."""
        return other is not self and any(
            other.name.startswith(f"{member}.") for member in self.members
        )


def _only_blocks(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """The candidates that are blocks, or that are in a list with blocks."""
    found = [one for one in candidates if one.works or one.adds]
    # A container of blocks is no block unless it is residual; a conv with its norm is one.
    inside = {one: [other for other in found if one.holds(other)] for one in found}
    found = [one for one in found if not _is_of_blocks(one, inside[one])]
    # A member that reads the same input as another of its list is a parallel branch.
    readers: dict[tuple[str | None, Ref | None], int] = defaultdict(int)
    for one in found:
        readers[one.container, one.source] += 1
    found = [one for one in found if one.adds or readers[one.container, one.source] == 1]
    found = _beside_blocks(found)
    found = [one for one in found if one.adds or not any(o.holds(one) for o in found)]
    return _beside_blocks(found)


def _is_of_blocks(one: _Candidate, inside: Sequence[_Candidate]) -> bool:
    """Whether a candidate is a sequence of blocks, or contains residual blocks but is not one."""
    is_list = issubclass(one.kind, (nn.Sequential, nn.ModuleList))
    if any(other.adds for other in inside):
        return is_list or not one.adds
    return is_list and len(inside) > 1


def _beside_blocks(found: Sequence[_Candidate]) -> list[_Candidate]:
    """Candidates that keep the shape of their stream, and those of the same class or list."""
    kept = [one for one in found if one.same]
    classes = {one.kind for one in kept if not one.kind.__module__.startswith("torch.")}
    lists = {one.container for one in kept} - {None}
    return [one for one in found if one.same or one.kind in classes or one.container in lists]


def _forward_of(op: Op) -> str:
    """The module whose forward runs an operation, in words."""
    return f"'{op.module}'" if op.module else "the model's own forward"


class _Finder:
    """Finds the blocks of one model on one tape."""

    def __init__(self, model: nn.Module, tape: Tape) -> None:
        self._model, self._tape = model, tape
        self._ends = Ends(tape)
        self._modules = dict(model.named_modules())
        self._calls: dict[str, list[ModuleCall]] = defaultdict(list)
        for call in tape.calls:
            self._calls[call.module].append(call)
        self._macs: list[tuple[str, int]] = [counted_macs(op, tape.shape) for op in tape.ops]
        self._read_at: dict[int, int] = {}
        for position, op in enumerate(tape.ops):
            self._read_at.update((ref.index, position) for ref in op.inputs())
        owners: dict[str, list[str]] = defaultdict(list)
        for name, first in aliases_of(model).items():
            owners[first].append(name)
        self._owners = owners

    def candidates(self) -> list[_Candidate]:
        """The members of lists, and attributes of one class, that ran."""
        found: list[_Candidate] = []
        for path, module in self._modules.items():
            inside = {key: each for key, each in module._modules.items() if each is not None}
            names = {key: f"{path}.{key}".lstrip(".") for key in inside}
            if isinstance(module, (nn.Sequential, nn.ModuleList)):
                spans = self._spans(module, names)
                for span in spans:
                    found += self._candidate([names[key] for key in span], path, len(spans))
                continue
            by_class: dict[type, list[str]] = defaultdict(list)
            for key, each in inside.items():
                if each._modules:
                    by_class[type(each)].append(names[key])
            for several in by_class.values():
                for name in several if len(several) > 1 else ():
                    found += self._candidate([name], None, len(several))
        return found

    def _spans(self, module: nn.Module, names: dict[str, str]) -> list[list[str]]:
        """The members of a list; in a Sequential, a layer with its norm and activation is one."""
        spans: list[list[str]] = []
        for key, each in module._modules.items():
            if each is None:
                continue
            alone = bool(each._modules) or not isinstance(module, nn.Sequential)
            follows = len(self._calls[names[key]]) == 1 and self._keeps(names[key])
            if not alone and spans and follows and not self._works(names[key]):
                last = module._modules[spans[-1][-1]]
                if last is not None and not last._modules:
                    spans[-1].append(key)
                    continue
            spans.append([key])
        return spans

    def _works(self, name: str) -> bool:
        """Whether the first call of a module multiplies by weights."""
        return any(
            kind in _WORK
            for call in self._calls[name][:1]
            for kind, _ in self._macs[call.start : call.end]
        )

    def _keeps(self, name: str) -> bool:
        """Whether the output of a module has the shape of its input."""
        for call in self._calls[name][:1]:
            given, made = leaves_of_kind(call.args, Ref), leaves_of_kind(call.output, Ref)
            return bool(given and made) and self._tape.shape(given[0]) == self._tape.shape(made[0])
        return False

    def _candidate(
        self, members: Sequence[str], container: str | None, siblings: int
    ) -> Iterator[_Candidate]:
        calls = [self._calls[name] for name in members]
        if not all(calls):  # it did not run, or has another name
            return
        first, last = calls[0][0], calls[-1][0]
        call = ModuleCall(first.module, first.start, last.end, first.args, first.named, last.output)
        made = leaves_of_kind(call.output, Ref)
        given = leaves_of_kind(call.named, Ref, leaves_of_kind(call.args, Ref))
        if not made or not given:
            return
        target, shape = made[0], self._tape.shape(made[0])
        alike = [ref for ref in dict.fromkeys(given) if self._tape.shape(ref) == shape]
        alike = [ref for ref in alike if self._place(call, ref) is not None]
        source, adds, ends_in = alike[0] if alike else given[0], list[tuple[Ref, int]](), ""
        for ref in alike:
            tried, how = self._residual(call, ref, target)
            if tried:
                source, adds, ends_in = ref, tried, how
                break
        yield _Candidate(
            members=tuple(members),
            container=container,
            kind=type(self._modules[members[0]]),
            calls=max(map(len, calls)),
            call=call,
            source=source,
            target=target,
            same=bool(alike),
            adds=adds,
            ends_in=ends_in,
            siblings=siblings,
            works=any(kind in _WORK for kind, _ in self._macs[call.start : call.end]),
        )

    def _residual(
        self, call: ModuleCall, source: Ref, target: Ref
    ) -> tuple[list[tuple[Ref, int]], str]:
        """The branches that a call adds to its stream, and the kind of operation after the sum.

        Returns:
            The branches, each with the operation that adds it; empty if the stream does not reach
            the output by additions. And "", "relu" or "norm".
        """
        carried: dict[int, str] = {source.index: ""}
        adds: list[tuple[Ref, int]] = []
        for position in range(call.start, call.end):
            op = self._tape.ops[position]
            on = [ref for ref in op.inputs() if ref.index in carried]
            if len(on) != 1:
                continue
            how = carried[on[0].index]
            others = [ref for ref in op.inputs() if ref.index not in carried]
            if op.name in ADDS:
                if len(others) != 1 or self._ends.is_weight(others[0]):
                    continue
                if self._tape.shape(op.results()[0]) != self._tape.shape(on[0]):
                    continue
                adds.append((others[0], position))
            elif op.name in NORMS or op.name in _ACTIVATIONS:
                if not adds or op.inputs()[0] != on[0]:
                    continue
                how = "relu" if op.name in RELUS and how != "norm" else "norm"
            elif op.name not in _KEEPS or others:
                continue
            carried.update((ref.index, how) for ref in op.results()[:1])
        return (adds, carried[target.index]) if target.index in carried else ([], "")

    def block(self, found: _Candidate) -> Block:
        """The block of a candidate."""
        why_kept = self._why_kept(found)
        ends, why_alone = self._why_alone(found)
        where = [self._place(found.call, ref) for ref in self._top(found.call.output)]
        bare, own = isinstance(found.call.output, Ref), self._own(found)
        stream = self._place(found.call, found.source) if found.source is not None else None
        reasons = dict.fromkeys(reason for reason in (why_kept, why_alone) if reason)
        return Block(
            name=found.name,
            kind="residual" if found.adds and found.same else "plain",
            cost=self._cost(found, own),
            can_drop=not why_kept,
            can_insert=not why_alone,
            why="; ".join(reasons),
            members=found.members,
            container=found.container,
            stream=stream,
            outputs=(stream, *where[1:]),
            bare=bare,
            sole=stream == 0 and len(found.call.args) == 1 and not found.call.named,
            ends=tuple(ends),
            own=own,
            operations=(found.start, found.end),
        )

    def _top(self, output: Any) -> list[Ref | None]:
        """The elements of the output of a module."""
        if isinstance(output, (tuple, list)):
            return [entry if isinstance(entry, Ref) else None for entry in output]
        return [output] if isinstance(output, Ref) else leaves_of_kind(output, Ref)

    def _place(self, call: ModuleCall, ref: Ref | None) -> Place:
        """The argument by which a module was given a tensor."""
        if ref is None:
            return None
        places: list[tuple[int | str, Any]] = [*enumerate(call.args), *call.named.items()]
        return next((place for place, given in places if given == ref), None)

    def _why_kept(self, found: _Candidate) -> str:
        """Why a candidate cannot be dropped; empty if it can."""
        shape = self._tape.shape
        if not found.same:
            assert found.source is not None
            assert found.target is not None
            old, new = shape(found.source), shape(found.target)
            return f"it changes the shape of its stream from {old} to {new}"
        if found.calls > 1:
            return f"it is shared, and runs {found.calls} times in one forward"
        if found.container is not None and found.siblings == 1:
            return f"it is the only block of '{found.container}'"
        reader = self._reader(found)
        if reader is not None:
            return f"besides its stream it makes what {_forward_of(reader)} reads"
        return ""

    def _reader(self, found: _Candidate) -> Op | None:
        """The last operation after a block that reads a tensor of it other than its stream."""
        made = {ref.index for op in self._tape.ops[found.start : found.end] for ref in op.results()}
        assert found.source is not None
        assert found.target is not None
        made -= {found.source.index, found.target.index}
        made -= {ref.index for ref in leaves_of_kind(found.call.args, Ref)}
        made -= {ref.index for ref in leaves_of_kind(found.call.named, Ref)}
        made = {index for index in made if not self._ends.is_weight(Ref(index))}
        late = [self._read_at[i] for i in made if self._read_at.get(i, -1) >= found.end]
        return self._tape.ops[min(late)] if late else None

    def _why_alone(self, found: _Candidate) -> tuple[list[End], str]:
        """The parameters that end the branches of a block, and why no copy can be inserted."""
        if not found.same or found.calls > 1:
            return [], self._why_kept(found)
        ends, why = self._ends_of(found) if found.adds else ([], self._why_no_identity(found))
        if found.container is None:
            why = "it is no member of a ModuleList or Sequential, where a copy could stand"
        elif not self._calls[found.container] and (reader := self._collector(found)) is not None:
            whose = _forward_of(reader)
            why = f"{whose} reads its output beside its input, and would read that of a copy too"
        return ends, why

    def _collector(self, found: _Candidate) -> Op | None:
        """A later operation that reads both input and output of a block, as it would of a copy."""
        ends = {found.source, found.target}
        late = self._tape.ops[found.end :]
        return next((op for op in late if ends <= set(op.inputs())), None)

    def _ends_of(self, found: _Candidate) -> tuple[list[End], str]:
        """The parameters that end the branches of a residual block, or why zeroing them fails."""
        if found.ends_in == "norm":
            return [], "a norm or an activation follows its sum, so that no copy leaves its input"
        ends: list[End] = []
        try:
            for branch, position in found.adds:
                ends += self._ends.of(branch, found.start, position)
        except NoEnd:
            return [], "no weight was found that makes its branch zero"
        ends = list(dict.fromkeys(ends))
        inside = tuple(f"{member}." for member in found.members)
        for end in ends:
            if not end.name.startswith(inside) or "parametrizations." in end.name:
                return [], f"'{end.name}', which ends its branch, is not its own weight"
        return ends, ""

    def _why_no_identity(self, found: _Candidate) -> str:
        """Why a copy of a plain block cannot become an identity; empty if it may."""
        ops = [op for op in self._tape.ops[found.start : found.end] if op.inputs()]
        last = [op for op in ops if op.name not in MOVES][-1:]
        if any(op.name not in _PLAIN for op in ops) or not last or last[0].name not in RELUS:
            return "it is neither residual nor a layer with ReLU, so that no copy leaves its input"
        return ""

    def _own(self, found: _Candidate) -> tuple[str, ...]:
        """The parameters and buffers that no module outside the block has."""
        inside = tuple(f"{member}." for member in found.members)
        return tuple(
            first
            for first, names in self._owners.items()
            if all(name.startswith(inside) for name in names)
        )

    def _cost(self, found: _Candidate, own: Sequence[str]) -> Cost:
        """The number of these parameters, and MACs by kind."""
        parameters = dict(self._model.named_parameters())
        params = sum(parameters[name].numel() for name in own if name in parameters)
        kinds: dict[str, int] = {}
        for kind, macs in self._macs[found.start : found.end]:
            if kind:
                kinds[kind] = kinds.get(kind, 0) + macs
        return Cost(params, sum(kinds.values()), kinds)
