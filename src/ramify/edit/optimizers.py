"""Carries an edit to the optimizer state of each parameter, or refuses the edit.

The entries of torch's own optimizers are known by name, and those registered with
`ramify.state_rule` by their rule. Any other entry is identified from its values: a copy of the
weight, a mean of gradients, a mean of their squares, or a number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from ramify.edit.carry import Swap, displacements
from ramify.edit.plan import Plan
from ramify.edit.state_laws import NEVER_NEGATIVE, Law, known_law, law_of
from ramify.edit.state_trial import Found, chain_of, is_optimizer, try_states
from ramify.errors import RamifyError
from ramify.tracing import ChannelGraph
from ramify.tracing.indexing import Indexing, Scaling, reindex
from ramify.tracing.recorder import tensors_of

NEAR = 0.3  # an entry farther than this share of the weights' norm from them is no copy of them

T = TypeVar("T")

_FACTORS = ("row_var", "col_var")  # of Adafactor
_PLAIN = (int, float, complex, str, bytes, type(None), torch.dtype, torch.device)

# For entries that cannot be tried: the kind that a usual name implies, if the values agree.
_USUAL_NAMES = {
    "exp_avg": "gradients",
    "momentum_buffer": "gradients",
    "exp_avg_sq": "squares",
    "exp_avg_var": "squares",
    "hessian": "squares",
}


def stage_optimizer(swap: Swap, graph: ChannelGraph, plan: Plan, optimizer: Any) -> None:
    """Stage the optimizer state of each parameter, so that the next step is equivalent.

    An optimizer that divides gradients by their size makes steps whose length does not depend on
    the weights. Its denominators are scaled so that a step is multiplied by the same factor as its
    weight.

    Raises:
        RamifyError: a state entry has another shape than its parameter, or its kind is unknown.
    """
    check_holds(graph.model, optimizer)
    tensors = tensors_of(graph.model)
    states = States(optimizer)
    _check_elsewhere(states, tensors, graph, plan)
    for name in graph.indexing.touched(plan.changes):
        parameter = tensors[name]
        for number, one in enumerate(states.owners):
            state: dict[str, Any] = one.state.get(parameter, {})
            for key, value in state.items():
                if not has_entries(value, parameter):
                    continue
                _check_shape(type(one).__name__, key, value, name, parameter)
                pruned = not _is_scaled(graph, plan, name)
                rule = states.rule(number, parameter, key, name, by_entry_is_enough=pruned)
                scales = _scales(graph.indexing, name, law_of(rule))
                carried = reindex(value, graph.dims[name], plan.changes, scales)
                if rule in NEVER_NEGATIVE:
                    same = _scales(graph.indexing, name, law_of("constant"))
                    before = partial(reindex, value, graph.dims[name], plan.changes, same)
                    carried = _within_range(carried, before)
                swap.item(state, key, carried)
                if rule == "weights":
                    for dim, where, offset in displacements(plan, name, graph):
                        swap.offset(carried, dim, where, offset)


def _within_range(carried: Tensor, before: Callable[[], Tensor]) -> Tensor:
    """Clamp a denominator in half precision whose scaled values overflow or underflow.

    Infinity would stop all steps of a weight, and 0 would make them infinite.

    Args:
        carried: the scaled entry.
        before: returns the entry re-indexed but not scaled.

    Returns:
        The entry, with the largest or smallest number of its dtype in such places.
    """
    if carried.dtype.itemsize >= torch.float32.itemsize:
        return carried
    kind, old = torch.finfo(carried.dtype), before()
    inside = carried.clamp(kind.smallest_normal * kind.eps, kind.max)
    return torch.where(old.isfinite() & (old > 0), inside, carried)


def check_holds(model: nn.Module, optimizer: Any) -> None:
    """Check that an optimizer trains this model and is of a supported kind.

    Args:
        model: the model.
        optimizer: the object that was given as its optimizer.

    Raises:
        RamifyError: it is no optimizer, does not train the model, or is not supported.
    """
    if not is_optimizer(optimizer):
        raise RamifyError(
            f"`optimizer` is the optimizer that trains the model, or several in a list, and this "
            f"is a {type(optimizer).__name__}"
        )
    lbfgs = [one for one in chain_of(optimizer) if isinstance(one, torch.optim.LBFGS)]
    if any(one.state for one in lbfgs):
        raise RamifyError(
            "LBFGS keeps one history for all parameters together, which no edit can follow: use "
            "another optimizer, or make a new one after the edit"
        )
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not any(id(tensor) in held for tensor in tensors_of(model).values()):
        raise RamifyError(
            f"this {type(optimizer).__name__} holds no parameter of the model: give the optimizer "
            "that trains it"
        )


class States:
    """The states of an optimizer and of its inner optimizers, and the kind of each entry."""

    def __init__(self, optimizer: Any) -> None:
        self.chain = chain_of(optimizer)
        # A pure wrapper exposes the state of its inner optimizer, which owns the entries.
        inside_first = list(reversed(self.chain))
        seen: set[int] = set()
        self.owners: list[Any] = []
        for one in inside_first:
            if id(one.state) not in seen:
                seen.add(id(one.state))
                self.owners.append(one)
        self._optimizer = optimizer
        self._tried: Found | None = None
        self._equal: dict[tuple[int, str], bool] = {}

    def rule(
        self, number: int, parameter: Tensor, key: str, name: str, by_entry_is_enough: bool
    ) -> str | Law:
        """The kind of a state entry.

        Args:
            number: the index of the owner that keeps the entry.
            parameter: the parameter that it belongs to.
            key: the name of the entry.
            name: the parameter's name.
            by_entry_is_enough: whether the edit only removes elements and scales none, so that
                the entry only has to correspond to the parameter element by element.

        Returns:
            A word of `ramify.state_rule`, or the law itself.

        Raises:
            RamifyError: the kind is unknown.
        """
        one = self.owners[number]
        value: Tensor = one.state[parameter][key]
        for kind in [type(o) for o in self.chain if o.state is one.state]:
            known = known_law(kind, key)
            if known is not None:
                return known
        if value.dtype == torch.bool:
            return "constant"
        found, place_known = self._found(number, parameter, key)
        if found == "unknown" and by_entry_is_enough and (place_known or not _is_square(value)):
            found = "constant"
        plain = type(value) in (Tensor, torch.nn.Parameter) and value.is_floating_point()
        if not plain or found in ("unknown", "shape") or _contradicts(found, value):
            raise RamifyError(
                f"{type(one).__name__} keeps '{key}' for '{name}', and it cannot be told how that "
                "follows an edit: it is no copy of the weight, mean of gradients or of their "
                "squares. Say what it is like with ramify.state_rule("
                f"{type(one).__name__}, '{key}', like=...), or make a new optimizer after the edit"
            )
        return found

    def _found(self, number: int, parameter: Tensor, key: str) -> tuple[str, bool]:
        """Find the kind of an entry from its values, a trial of the optimizer, or its usual name.

        Returns:
            The word for the kind, and whether the trial found it.
        """
        one = self.owners[number]
        pairs = [(s[key], p) for p, s in one.state.items() if _is_beside(p, s, key)]
        if all(torch.equal(v.to(p.dtype), p) for v, p in pairs) and any(
            bool(p.any()) for _, p in pairs
        ):
            return "weights", False
        if not any(bool(v.any()) for v, _ in pairs):
            return "gradients", False  # zeros stay zeros under any law
        if self._tried is None:
            self._tried = try_states(self._optimizer)
        groups = enumerate(one.param_groups)
        group = next((n for n, g in groups if any(p is parameter for p in g["params"])), -1)
        place = next(n for n, other in enumerate(self.chain) if other is one)
        found = self._tried.get((place, group, parameter.dim(), key))
        if found is not None:
            return found, True
        apart = sum(float((v.double() - p.double()).square().sum()) for v, p in pairs)
        length = sum(float(p.double().square().sum()) for _, p in pairs)
        if apart <= NEAR**2 * length:
            return "weights", False
        return _USUAL_NAMES.get(key, "unknown"), False


def _is_square(value: Tensor) -> bool:
    """Whether a matrix that mixes the elements of a parameter could have this shape."""
    return len(set(value.shape)) < value.dim()


def _is_scaled(graph: ChannelGraph, plan: Plan, name: str) -> bool:
    """Whether an edit scales gradients or values of a tensor, and not only removes some."""
    indexing = graph.indexing
    return any(
        bool((scale(term, plan.changes) != 1.0).any())
        for scales in (indexing.gradient_scales(name), indexing.value_scales(name))
        for scale, term in zip(scales, graph.dims[name], strict=True)
    )


def _is_beside(parameter: Any, state: Any, key: str) -> bool:
    value = state.get(key) if isinstance(state, Mapping) else None
    return (
        isinstance(value, Tensor)
        and isinstance(parameter, Tensor)
        and (value.shape == parameter.shape)
    )


def _contradicts(found: str, value: Tensor) -> bool:
    return found in NEVER_NEGATIVE and bool((value < 0).any())


def has_entries(value: Any, parameter: Tensor) -> bool:
    """Whether a state entry is a tensor to edit, and not a number such as `step`."""
    leaves = [leaf for leaf in tree_leaves(value) if not isinstance(leaf, _PLAIN)]
    # A tensor of one element may be a number, or the entry of a parameter of one channel.
    return any(
        not isinstance(leaf, Tensor)
        or leaf.numel() != 1
        or (leaf.dim() > 0 and leaf.shape == parameter.shape)
        for leaf in leaves
    )


def _check_shape(kind: str, key: str, value: Any, name: str, parameter: Tensor) -> None:
    # Adafactor's rows and columns factor a matrix, even if they have its shape.
    if isinstance(value, Tensor) and value.shape == parameter.shape and key not in _FACTORS:
        return
    seen = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    raise RamifyError(
        f"{kind} keeps '{key}' of {'' if isinstance(value, Tensor) else 'type '}{seen} for "
        f"'{name}' of shape {tuple(parameter.shape)}, which no edit can follow: give "
        "the optimizer to every ramify.apply (was it left out of an earlier one?), or "
        "use one whose state has the parameter's shape"
    )


def _check_elsewhere(
    states: States, tensors: Mapping[str, Tensor], graph: ChannelGraph, plan: Plan
) -> None:
    """Check that no tensor of an edited parameter's shape is kept outside the state."""
    parameters = {id(tensor) for tensor in tensors.values()}
    touched = {tuple(tensors[name].shape) for name in graph.indexing.touched(plan.changes)}
    count = sum(tensor.numel() for tensor in tensors.values() if tensor.requires_grad)
    for one in states.chain:
        for where, value in _kept_elsewhere(one):
            for leaf in tree_leaves(value):
                if not isinstance(leaf, Tensor) or id(leaf) in parameters or leaf.numel() < 2:
                    continue
                if tuple(leaf.shape) in touched or leaf.numel() >= count:
                    raise RamifyError(
                        f"{type(one).__name__} keeps a tensor of shape {tuple(leaf.shape)} in "
                        f"{where}, beside the state of its parameters, where no edit can follow: "
                        "make a new optimizer after the edit"
                    )


def _kept_elsewhere(optimizer: Any) -> Iterator[tuple[str, Any]]:
    """The (location, value) pairs that an optimizer keeps outside the state of parameters."""
    for name, value in vars(optimizer).items():
        if name not in ("state", "param_groups", "defaults"):
            yield f"its attribute '{name}'", value
    for group in optimizer.param_groups:
        yield from ((f"'{k}' of a parameter group", v) for k, v in group.items() if k != "params")
    state = optimizer.state
    yield from ((f"'{k}' of its state", v) for k, v in state.items() if not isinstance(k, Tensor))


def _scales(indexing: Indexing, name: str, law: Law) -> list[Scaling]:
    """For each dimension of a tensor, the scaling of a state entry of its shape."""

    def rule(gradients: Scaling, values: Scaling) -> Scaling:
        return lambda term, changes: np.asarray(
            law(gradients(term, changes), values(term, changes))
        )

    both = zip(indexing.gradient_scales(name), indexing.value_scales(name), strict=True)
    return [rule(gradients, values) for gradients, values in both]


def several(optimizer: Any) -> list[Any]:
    """Return one or several optimizers as a list.

    Returns:
        The list.

    Raises:
        RamifyError: the argument is neither.
    """
    if optimizer is None:
        return []
    if isinstance(optimizer, Optimizer) or is_optimizer(optimizer):
        return [optimizer]
    if not isinstance(optimizer, (list, tuple)):
        raise RamifyError(
            f"`optimizer` is the optimizer that trains the model, or several in a list, and this "
            f"is a {type(optimizer).__name__}"
        )
    return once(optimizer)


def once(given: Iterable[T]) -> list[T]:
    """Remove repeated objects.

    Args:
        given: objects, of which some may be the same.

    Returns:
        Each object once, in the order of first occurrence.
    """
    return list({id(one): one for one in given}.values())
