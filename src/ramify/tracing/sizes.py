"""Follows sizes that a forward takes from attributes and shapes to the dimensions they become.

During one run, the integers in modules (`num_heads`, `head_dim`, `split_size`) and in the shapes of
tensors (`x.shape`) are numbers that remember their origin, also through products, sums and
quotients. If one of them is passed to a function, the dimension of the result has the size of that
attribute (`holders`) or of that dimension (`size_relations`).
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import multi_head_attention_forward
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils._pytree import tree_leaves

from ramify.tracing.dims import Fixed, Prod, Sum, Term, concat, product, resolve
from ramify.tracing.kept_state import giving_back
from ramify.tracing.recorder import Recorder, Ref, Tape
from ramify.tracing.walk import modules_of


class Size(int):
    """A number and its origin.

    ("of", (module, attribute), index in a tuple), ("dim", (tape, tensor), dimension), or
    (operation, one, other). The tape is a weak reference, so that a number keeps no run alive.
    """

    made: tuple[Any, ...]

    def __new__(cls, value: int, *made: Any) -> Size:
        """The number `value`."""
        size = super().__new__(cls, value)
        size.made = made
        return size

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        """A copy is a plain number."""
        return int, (int(self),)

    def __mul__(self, other: Any) -> Any:
        """The product."""
        return _joined("mul", self, other, int(self).__mul__(other))

    def __rmul__(self, other: Any) -> Any:
        """The product."""
        return _joined("mul", other, self, int(self).__rmul__(other))

    def __add__(self, other: Any) -> Any:
        """The sum."""
        return _joined("add", self, other, int(self).__add__(other))

    def __radd__(self, other: Any) -> Any:
        """The sum."""
        return _joined("add", other, self, int(self).__radd__(other))

    def __floordiv__(self, other: Any) -> Any:
        """The quotient."""
        return _joined("div", self, other, int(self).__floordiv__(other))


def _joined(how: str, one: Any, other: Any, value: Any) -> Any:
    if type(one) in (int, Size) and type(other) in (int, Size) and isinstance(value, int):
        return Size(value, how, one, other)
    return value


@dataclass(frozen=True)
class Use:
    """A size that became a dimension of a tensor."""

    size: Size
    ref: Ref
    dim: int


@contextlib.contextmanager
def tagged(model: nn.Module) -> Iterator[None]:
    """Make every integer attribute above 1 remember its origin inside the `with` block."""
    changed: list[tuple[dict[str, Any], str, Any, Any]] = []
    for path, module in modules_of(model).items():
        own = vars(module)
        for name, value in own.items():
            if type(value) not in _MARKED or name.startswith("_"):
                continue
            marked = _marked(path, name, value)
            if marked is not None:
                changed.append((own, name, value, marked))

    def give_back(own: dict[str, Any], name: str, value: Any, marked: Any) -> None:
        if own.get(name) is marked:
            own[name] = value

    steps = [("a size", partial(give_back, *each)) for each in changed]
    with giving_back(lambda: steps):
        for own, name, _, marked in changed:
            own[name] = marked
        yield


_MARKED = frozenset({int, tuple, list})


def _marked(path: str, name: str, value: Any) -> Any:
    """The same integer or integers, with their origin; None for anything else."""
    if type(value) is int and value > 1:
        return Size(value, "of", (path, name), None)
    several = type(value) in (tuple, list) and value and all(type(n) is int for n in value)
    if several and max(value) > 1:
        return type(value)(Size(n, "of", (path, name), at) for at, n in enumerate(value))
    return None


class SizedRun:
    """Records every use of a size while a recorder records a run.

    Args:
        model: the model.
        run: the function that calls it.
        keep: tells for which operations the recorder keeps the calls, with their values.
    """

    def __init__(
        self,
        model: nn.Module,
        run: Callable[[], Any],
        keep: Callable[[Any], bool] | None = None,
    ) -> None:
        self.uses: list[Use] = []
        self._model, self._run, self._keep = model, run, keep

    def __call__(self) -> Any:
        """Run under a recorder."""
        recorder = _get_current_dispatch_mode()
        assert isinstance(recorder, Recorder)
        recorder.keeps = self._keep
        with tagged(self._model), _nothing_kept(), _Watch(recorder, self.uses):
            return self._run()


@contextlib.contextmanager
def _nothing_kept() -> Iterator[None]:
    """Disable the cache of `einops`, which reuses values computed from an equal shape."""
    module: Any = sys.modules.get("einops.einops")
    kept = getattr(module, "_reconstruct_from_shape", None)
    plain = getattr(module, "_reconstruct_from_shape_uncached", None)
    if kept is None or plain is None:
        yield
        return
    module._reconstruct_from_shape = plain
    try:
        yield
    finally:
        module._reconstruct_from_shape = kept


class _Watch(TorchFunctionMode):
    """Records every size that is passed to a function, and the dimension that it becomes."""

    def __init__(self, recorder: Recorder, found: list[Use]) -> None:
        super().__init__()
        self._found = found
        self._recorder = recorder
        self._give_out = getattr(recorder.writes.execute, "give_out", None)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the function and record its sizes."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _GIVES_OUT and self._give_out is not None:
            self._give_out(args[0])
        result = func(*args, **kwargs)
        if func is multi_head_attention_forward:
            self._found.extend(self._asserted(args, kwargs))
        if func == _SHAPE or name in ("size", "numel"):
            return self._measured(args[0], result, args[1:], kwargs)
        if name in _SHAPED or name in _CUTTING:
            results = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
            for number, dim, size in _sizes(name, args, kwargs, results):
                if type(size) is not Size:
                    continue
                ref = self._recorder.find(results[number])
                if ref is not None and results[number].shape[dim] == size:
                    self._found.append(Use(size, ref, dim))
        return result

    def _asserted(self, args: Any, kwargs: Any) -> Iterator[Use]:
        """The sizes that torch's attention function asserts of its arguments."""
        given = inspect.signature(multi_head_attention_forward).bind(*args, **kwargs).arguments
        query = self._recorder.find(given["query"])
        if query is None:
            return
        width, last = given["query"].shape[-1], given["query"].dim() - 1
        stream = Size(width, "dim", (weakref.ref(self._recorder.tape), query), last)
        if type(given["embed_dim_to_check"]) is Size:
            yield Use(given["embed_dim_to_check"], query, last)
        separate = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
        for name in separate if given.get("use_separate_proj_weight") else ("in_proj_weight",):
            weight = self._recorder.find(given[name])
            size = stream if name in separate else Size(3 * width, "mul", 3, stream)
            if weight is not None:
                yield Use(size, weight, 0)
        out = self._recorder.find(given["out_proj_weight"])
        if out is not None:
            yield Use(stream, out, 1)

    def _measured(self, tensor: Any, sizes: Any, place: Any, named: dict[str, Any]) -> Any:
        """The sizes of a tensor that a function returned, each with its dimension as origin."""
        ref = self._recorder.find(tensor) if isinstance(tensor, Tensor) else None
        if ref is None:
            return sizes
        where = weakref.ref(self._recorder.tape), ref
        if isinstance(sizes, torch.Size):
            return torch.Size(_of_dimension(size, where, dim) for dim, size in enumerate(sizes))
        dim = place[0] if place else named.get("dim", 0)  # the length of a vector
        if type(sizes) is int and type(dim) is int and (place or named or tensor.dim() == 1):
            return _of_dimension(sizes, where, dim % max(tensor.dim(), 1))
        return sizes


Where = tuple[weakref.ref[Tape], Ref]
"""The tape of a tensor, and its reference."""


def _of_dimension(size: int, where: Where, dim: int) -> int:
    return Size(size, "dim", where, dim) if size > 1 else size


_GIVES_OUT = frozenset({"tolist", "numpy", "__array__", "__dlpack__"})
"""Methods that return values to Python without an operation."""

_SHAPE: Any = Tensor.shape.__get__  # type: ignore[attr-defined]
"""The function that `tensor.shape` calls."""

_SHAPED = frozenset(
    "view reshape expand broadcast_to new_zeros new_ones new_empty new_full zeros ones empty full "
    "rand randn resize_".split()
)
"""Functions that take the whole shape of their result."""

_CUTTING = {
    "split": ("sizes", "dim"),
    "split_with_sizes": ("sizes", "dim"),
    "narrow": ("dim", "start", "sizes"),
    "unflatten": ("dim", "sizes"),
    "__getitem__": ("index",),
    "one_hot": ("num_classes",),
    "histc": ("bins",),
    "bincount": ("weights", "minlength"),
}
"""Functions that take some sizes of their results, and the names of their arguments."""

_PIECES = ("sizes", "split_size_or_sections", "split_size", "split_sizes", "length")
"""The argument names for the sizes of pieces in torch's splitting functions."""


def _sizes(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], results: Sequence[Tensor]
) -> Iterator[tuple[int, int, Any]]:
    """(index of the result, dimension, size passed for it) for the functions in these tables."""
    given = dict(zip(_CUTTING.get(name, ()), args[1:], strict=False)) | kwargs
    if name in _SHAPED:
        start = 1 if args and isinstance(args[0], Tensor) else 0
        shape = next((v for v in (*args[start:], *kwargs.values()) if _is_list(v)), args[start:])
        if len(shape) == results[0].dim():
            yield from ((0, dim, size) for dim, size in enumerate(shape))
    elif name in ("split", "split_with_sizes", "narrow"):
        dim = given.get("dim", 0)
        pieces = next((given[name] for name in _PIECES if name in given), None)
        for number in range(len(results)):
            yield number, dim, pieces[number] if isinstance(pieces, (tuple, list)) else pieces
    elif name == "one_hot":
        yield 0, results[0].dim() - 1, given.get("num_classes")
    elif name in ("histc", "bincount"):
        yield 0, 0, given.get("bins" if name == "histc" else "minlength")
    elif name == "unflatten":
        at = given["dim"] % args[0].dim()
        yield from ((0, at + n, size) for n, size in enumerate(given["sizes"]))
    elif name == "__getitem__":
        yield from ((0, dim, size) for dim, size in _stops(args[1], results[0].dim()))


def _is_list(value: Any) -> bool:
    return isinstance(value, (tuple, list))


def _stops(index: Any, rank: int) -> Iterator[tuple[int, Any]]:
    """(dimension of the result, end of its slice from the front) for plain indexing."""
    entries = list(index) if isinstance(index, tuple) else [index]
    if not all(isinstance(entry, (slice, int, type(None), type(...))) for entry in entries):
        return
    kept = [entry for entry in entries if not isinstance(entry, int)]
    if ... in kept:
        at = kept.index(...)
        kept[at : at + 1] = [slice(None)] * (rank - len(kept) + 1)
    for dim, entry in enumerate(kept):
        if isinstance(entry, slice) and not entry.start:
            yield dim, entry.stop


Holder = tuple[tuple[str, str], int | None]
"""(module, attribute), and the index of the number if the attribute is a tuple."""


def holders(size: Size | int, term: Term) -> list[tuple[Holder, Term]]:
    """The attributes that a term's size was computed from, each with its part of the term.

    Args:
        size: the number that became the term's size.
        term: the dimension.

    Returns:
        (holder, term) for each attribute.
    """
    term = resolve(term)
    if type(size) is not Size or size != term.size:
        return []
    how, one, other = size.made
    if how == "of":
        return [((one, other), term)]
    if how == "dim":
        return []
    if how == "div":  # by a plain number; division by an attribute is left to that attribute
        return holders(one, product([Fixed(int(other)), term])) if type(other) is int else []
    if 1 in (one, other) and how == "mul":
        return holders(other if one == 1 else one, term)
    parts = term.parts if isinstance(term, Prod if how == "mul" else Sum) else (term,)
    join = product if how == "mul" else concat
    for left, right in ((one, other), (other, one)):
        for at in range(1, len(parts)):
            head, tail = join(parts[:at]), join(parts[at:])
            if (head.size, tail.size) == (int(left), int(right)):
                return [*holders(left, head), *holders(right, tail)]
    return []
