"""The tape: one run of a model, recorded as the ATen operations that it executed.

A `TorchDispatchMode` sees every operation with the real tensors, whatever Python the forward
contains: data-dependent branches, in-place writes, bare parameters, tied weights. Tensors are
numbered by identity; parameters and buffers have names.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import sys
import types
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from ramify.tracing.attention.multihead import of_free_sizes
from ramify.tracing.kept_state import giving_back, held_by
from ramify.tracing.modes import enter_mode, recurrent_layers_written_out, set_attribute
from ramify.tracing.module_calls import ModuleCall, ModuleCalls
from ramify.tracing.random_factors import WRITTEN_OUT
from ramify.tracing.untouched import untouched
from ramify.tracing.walk import modules_of, walked_once
from ramify.tracing.walk import tensors_of as tensors_of
from ramify.tracing.writes import Execute, Writes

T = TypeVar("T")


@dataclass(frozen=True)
class Ref:
    """A tensor of the tape, by number."""

    index: int


@dataclass
class Op:
    """One executed operation; tensors in `args`, `kwargs` and `outputs` are `Ref`s."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: Any
    module: str

    @functools.cached_property
    def name(self) -> str:
        """The operation's name without its overload, such as `aten::add`."""
        return _name_of(self.func)

    @functools.cached_property
    def is_mutable(self) -> bool:
        """Whether the operation writes into one of its arguments."""
        return bool(self.func._schema.is_mutable)

    def inputs(self) -> list[Ref]:
        """The tensors the operation reads, in order of its arguments."""
        return self._inputs

    @functools.cached_property
    def _inputs(self) -> list[Ref]:
        return leaves_of_kind(self.kwargs, Ref, leaves_of_kind(self.args, Ref))

    def named(self) -> dict[str, Any]:
        """The arguments by name, without those left at their defaults."""
        names = (declared.name for declared in self.func._schema.arguments)
        return dict(zip(names, self.args, strict=False)) | self.kwargs

    def results(self) -> list[Ref]:
        """The tensors the operation returns, in order."""
        return self._results

    @functools.cached_property
    def _results(self) -> list[Ref]:
        return leaves_of_kind(self.outputs, Ref)


@functools.cache
def _name_of(func: Any) -> str:
    return str(func._schema.name)


@functools.cache
def _is_composite(func: Any) -> bool:
    """Whether an operation is composed of others."""
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key)


@functools.cache
def _moves_dimensions(func: Any) -> bool:
    """Whether an operation changes the dimensions of a tensor in place."""
    return torch.Tag.inplace_view in func.tags


@functools.cache
def _may_draw(func: Any) -> bool:
    """Whether an operation may draw random numbers."""
    return torch.Tag.nondeterministic_seeded in func.tags


def _is_random(op: Op) -> bool:
    """Whether an operation draws random numbers; fused attention does only with dropout."""
    if not _may_draw(op.func):
        return False
    drops = any(declared.name == "dropout_p" for declared in op.func._schema.arguments)
    return not drops or float(op.named().get("dropout_p", 0.0)) > 0


_PLAIN = {torch.ops.aten._efficientzerotensor.default: torch.ops.aten.zeros.default}
"""Zeros without memory, used in forward-mode derivatives; some operations crash on them."""
_LEAVES = frozenset({Tensor, nn.Parameter, Ref, int, float, bool, type(None)})
"""Types that are leaves without a further check."""


def mapped(tree: Any, leaf: Callable[[Any], Any]) -> Any:
    """Map the leaves of an operation's arguments or results, faster than torch's general walk."""
    if isinstance(tree, dict):
        return {key: mapped(item, leaf) for key, item in tree.items()}
    if type(tree) not in (tuple, list):
        return leaf(tree)
    items = [leaf(item) if type(item) in _LEAVES else mapped(item, leaf) for item in tree]
    return tuple(items) if type(tree) is tuple else items


def leaves_of_kind(tree: Any, kind: type[T], found: list[T] | None = None) -> list[T]:
    """The leaves of one kind in an operation's arguments or results, appended to `found`."""
    found = [] if found is None else found
    if isinstance(tree, kind):
        found.append(tree)
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            if isinstance(item, kind):
                found.append(item)
            elif type(item) not in _LEAVES:
                leaves_of_kind(item, kind, found)
    elif isinstance(tree, dict):
        leaves_of_kind(list(tree.values()), kind, found)
    return found


class KeptCall(NamedTuple):
    """One call of an operation: copies of (arguments, named) before, and (results, ...) after."""

    given: Any
    after: Any


@dataclass
class Tape:
    """A recorded run: operations in order, and what each tensor is."""

    ops: list[Op] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    dtypes: list[torch.dtype] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    """Parameters and buffers: tensor number -> canonical name."""
    inputs: set[int] = field(default_factory=set)
    constants: dict[int, Tensor] = field(default_factory=dict)
    """Tensors from outside: inputs, and others that the forward used."""
    kept: dict[int, KeptCall] = field(default_factory=dict)
    """The calls of operations that the run kept on request, by operation."""
    calls: list[ModuleCall] = field(default_factory=list)
    """The calls of modules, in the order in which they ended."""
    drawn: dict[int, list[Tensor]] = field(default_factory=dict)
    """The results of random operations, by operation, if the run kept them on request."""
    outputs: list[Ref] = field(default_factory=list)
    results: list[Tensor] = field(default_factory=list)
    """The values of the run's outputs."""

    def shape(self, ref: Ref) -> tuple[int, ...]:
        """The shape of a tensor of the tape."""
        return self.shapes[ref.index]

    @functools.cached_property
    def rounding(self) -> float:
        """The relative rounding of the least precise dtype on the tape."""
        floats = [d for d in set(self.dtypes) if d.is_floating_point or d.is_complex]
        return max((torch.finfo(dtype).eps for dtype in floats), default=0.0)


def aliases_of(model: nn.Module) -> dict[str, str]:
    """Every name of every parameter and buffer -> the canonical (first) name."""
    first = {id(tensor): name for name, tensor in tensors_of(model).items()}
    every: list[tuple[str, Tensor]] = list(model.named_parameters(remove_duplicate=False))
    every += list(model.named_buffers(remove_duplicate=False))
    return {name: first[id(tensor)] for name, tensor in every}


Watch = Callable[[Op, Sequence[Tensor]], None]
"""Called after each operation, with its results."""
Before = Callable[[int, Sequence[Tensor]], None]
"""Called before each operation, with its number and the tensors that it will write to."""
Steer = Callable[[int, Any, tuple[Any, ...], Mapping[str, Any], Any], Any]
"""Called with (number, operation, args, kwargs, result); returns the result to use."""


class Recorder(TorchDispatchMode):
    """Records the operations executed under it on a tape."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Avoid the import of torch's compiler, which takes seconds; `eager` disables it."""
        return False

    def __init__(
        self,
        model: nn.Module,
        inputs: Any = (),
        watch: Watch | None = None,
        *,
        draws: bool = False,
        before: Before | None = None,
        execute: Execute | None = None,
    ) -> None:
        super().__init__()
        self.tape = Tape()
        self.keeps: Callable[[Any], bool] | None = None
        """Tells for which operations to keep the calls, with their values."""
        self.steer: Steer | None = None
        """May replace the result that an operation computed."""
        self._draws = draws
        self._watch = watch
        self._before = before
        self._seen: dict[int, tuple[weakref.ref[Tensor], Ref]] = {}
        self._by_memory: dict[tuple[Any, ...], Ref] = {}
        self.modules = ModuleCalls(model, self.tape.ops)
        self.writes = Writes(execute)
        for name, tensor in tensors_of(model).items():
            ref = self._number(tensor)
            self.tape.names[ref.index] = name
            self._by_memory[_memory(tensor)] = ref
            if isinstance(tensor, nn.Parameter):
                self.writes.watch(tensor)
        for leaf in tree_leaves(arguments(inputs)):
            if isinstance(leaf, Tensor):
                self.tape.inputs.add(self._ref(leaf).index)

    def _number(self, tensor: Tensor) -> Ref:
        ref = Ref(len(self.tape.shapes))
        self.tape.shapes.append(tuple(tensor.shape))
        self.tape.dtypes.append(tensor.dtype)
        self._seen[id(tensor)] = (weakref.ref(tensor), ref)
        return ref

    def _ref(self, tensor: Tensor) -> Ref:
        known = self._seen.get(id(tensor))
        if known is not None and known[0]() is tensor:
            return known[1]
        # `parameter.data` creates a tensor without an operation; its memory tells whose it is.
        alias = self._by_memory.get(_memory(tensor)) if tensor.numel() else None
        if alias is not None:
            return alias
        ref = self._number(tensor)
        self.tape.constants[ref.index] = tensor
        self.writes.watch(tensor)
        return ref

    def find(self, tensor: Tensor) -> Ref | None:
        """The reference to a tensor that is on the tape."""
        known = self._seen.get(id(tensor))
        return known[1] if known is not None and known[0]() is tensor else None

    def shown(self, tree: Any) -> Any:
        """A module's arguments or results with a `Ref` for each tensor, None for the rest."""
        return mapped(tree, lambda leaf: self.find(leaf) if isinstance(leaf, Tensor) else None)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operation and record it."""
        kwargs = dict(kwargs or {})
        if func.namespace == "profiler":  # the marks of record_function compute nothing
            return func(*args, **kwargs)
        if _is_composite(func):  # in inference mode, torch does not decompose it before
            with self:
                return func.decompose(*args, **kwargs)
        if (written_out := WRITTEN_OUT.get(func)) is not None:
            with self:
                return written_out(*args, **kwargs)
        func = _PLAIN.get(func, func)
        as_ref = lambda leaf: self._ref(leaf) if isinstance(leaf, Tensor) else leaf  # noqa: E731
        op = Op(func, mapped(args, as_ref), mapped(kwargs, as_ref), None, self.modules.running)
        written = self.writes.before(func, args)
        if self._before is not None:
            self._before(len(self.tape.ops), written)
        given = copied((args, kwargs)) if self.keeps and self.keeps(func) else None
        result = self.writes.execute(func, args, kwargs)
        if self.steer is not None:
            result = self.steer(len(self.tape.ops), func, args, kwargs, result)
        if given is not None:
            after = copied((result, args, kwargs))
            self.tape.kept[len(self.tape.ops)] = KeptCall(given, after)
        moved = _moves_dimensions(func)

        def number(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            return (None if moved else self.find(leaf)) or self._number(leaf)

        op.outputs = mapped(result, number)
        if self._draws and _is_random(op):
            self.tape.drawn[len(self.tape.ops)] = [
                t.clone() for t in leaves_of_kind(result, Tensor)
            ]
        self.tape.ops.append(op)
        if self._watch is not None:
            self._watch(op, leaves_of_kind(result, Tensor))
        return result


def _memory(t: Tensor) -> tuple[Any, ...]:
    if t.layout is not torch.strided:
        return (id(t),)
    return (t.data_ptr(), tuple(t.shape), t.stride(), t.dtype, t.device)


def call(model: nn.Module, inputs: Any) -> Any:
    """`model(x)`, `model(*tuple)` or `model(**dict)`, as `ramify.trace` takes its inputs.

    The model gets copies, since a forward may write to its inputs.

    Args:
        model: the model to call.
        inputs: a tensor, tuple, list or mapping.

    Returns:
        The outputs of the model.
    """
    args, named = copied(arguments(inputs))
    return model(*args, **named)


def arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and named arguments, from inputs as `ramify.trace` takes them."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs), {}) if isinstance(inputs, (tuple, list)) else ((inputs,), {})


def copied(inputs: Any) -> Any:
    """Copies of inputs, to which a forward may write: tensors, and objects that hold tensors."""
    return tree_map(_copied, inputs)


def _copied(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.clone()
    if not callable(leaf) and held_by(leaf):  # such as a key-value cache
        with contextlib.suppress(Exception):  # `record` restores what cannot be copied
            return copy.deepcopy(leaf)
    return leaf


def record(  # noqa: PLR0913  (what may be asked of a run)
    model: nn.Module,
    run: Callable[[], Any],
    inputs: Any = (),
    *,
    training: bool = False,
    watch: Watch | None = None,
    draws: bool = False,
    before: Before | None = None,
    grad: bool = False,
    execute: Execute | None = None,
) -> Tape:
    """Run `run` once and return its tape; the model is left unchanged.

    Args:
        model: the model, whose parameters and buffers are named on the tape.
        run: the function to run, which calls the model.
        inputs: tensors that count as the run's inputs.
        training: whether to run the model in train mode.
        watch: called after each operation with its entry on the tape and its results.
        draws: whether to keep the results of random operations, so that a replay repeats them.
        before: called before each operation.
        grad: whether autograd records the run.
        execute: runs each operation; by default directly.

    Returns:
        The tape. Only the values of the outputs, and of random results on request, are kept.
    """
    with contextlib.ExitStack() as around:
        with walked_once(model):
            recorder = Recorder(model, inputs, watch, draws=draws, before=before, execute=execute)
            # They may hold weights that were cast earlier, have another shape or no gradient.
            torch.clear_autocast_cache()
            around.enter_context(untouched(model, inputs))
            around.enter_context(torch.set_grad_enabled(grad))
            around.enter_context(eager())
            around.enter_context(recurrent_layers_written_out(model))
            around.enter_context(of_free_sizes(model))
        around.enter_context(recorder.modules.watching(recorder.shown, recorder.tape.calls.append))
        try:
            with recorder.writes:  # a model may change its weights on a change of mode
                enter_mode(model, training)
            with recorder:
                result = run()
        finally:
            recorder.writes.take_back()
            torch.clear_autocast_cache()
        found = map(recorder.find, _tensors(result))
        recorder.tape.outputs = [ref for ref in found if ref is not None]
        recorder.tape.results = [leaf if grad else leaf.detach() for leaf in _tensors(result)]
    return recorder.tape


def eager() -> contextlib.AbstractContextManager[Any]:
    """Run compiled models without compilation; does nothing if none was compiled."""
    if "torch._dynamo" not in sys.modules:
        return contextlib.nullcontext()
    return torch.compiler.set_stance("force_eager")


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run the block in eval mode without gradients, then restore the mode of every module."""
    with modes_kept(model), torch.no_grad():
        enter_mode(model, False)
        yield


@contextlib.contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Restore the mode of every module, train or eval, after the block, even on an error."""
    # A frozen script has no mode.
    modes = [
        (each, each.training) for each in modules_of(model).values() if hasattr(each, "training")
    ]
    steps = [("a mode", partial(set_attribute, module, "training", on)) for module, on in modes]
    with giving_back(lambda: steps):
        yield


def _tensors(result: Any, within: tuple[Any, ...] = ()) -> list[Tensor]:
    """Every tensor of an output, even in dataclasses and objects that pytree does not support."""
    found: list[Tensor] = []
    for leaf in tree_leaves(result):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif any(leaf is outer for outer in within):
            continue
        elif dataclasses.is_dataclass(leaf) or isinstance(leaf, (Mapping, types.SimpleNamespace)):
            found += _tensors(held_by(leaf), (*within, leaf))
        else:
            found += [v for v in tree_leaves(held_by(leaf)) if isinstance(v, Tensor)]
    return found
