"""Tests the dimension rule of one operation in a small network around it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves, tree_map

from ramify.errors import RamifyError
from ramify.tracing.dims import leaves
from ramify.tracing.flow import DimFlow
from ramify.tracing.recorder import copied
from ramify.tracing.rules.registry import operation_name
from ramify.tracing.tracer import empty_flow, follow_run
from ramify.tracing.verify.rule_check import check_rules
from ramify.tracing.verify.trial_growth import TrialGrowth


def check_rule(op: Any, *inputs: Any, **settings: Any) -> dict[tuple[int, int], str]:
    """Check the dimension rule of an operation on these arguments.

    In the test network, weights produce every dimension of the arguments and read every dimension
    of the results. The rule must support the call, permuting channels of the arguments must permute
    those of the results, and the network must behave as predicted when every dimension grows.

    Args:
        op: the operation, or its name, as in `ramify.rule`.
        *inputs: arguments for the call; a `torch.nn.Parameter` counts as a weight, any other
            floating-point tensor as an activation.
        **settings: keyword arguments for the call.

    Returns:
        (index of a tensor argument, dimension) -> why it cannot change; empty if its channels can
        be copied and removed.

    Raises:
        RamifyError: the operation has no rule, or the rule is wrong; the message gives the first
            error.

    Example:
        >>> import torch
        >>> check_rule("aten::softmax", torch.randn(3, 4), 1)
        {(0, 0): '', (0, 1): "aten::_softmax in module 'op' mixes them"}
    """
    name = operation_name(op)
    call = getattr(getattr(torch.ops, name.partition("::")[0]), name.partition("::")[2])
    try:
        net = _Surrounded(call, inputs, settings)
    except (RuntimeError, TypeError, ValueError) as error:
        raise RamifyError(
            f"'{name}' does not run on these arguments ({str(error).splitlines()[0]}): give those "
            "that it takes."
        ) from error
    flow = empty_flow(net)
    reference = follow_run(net, flow, (net.given, False), False)
    # The rule supports this call.
    for reason in flow.unruled.values():
        raise RamifyError(f"the rule of '{name}' cannot be used: {reason}")
    # The restrictions of the rule itself are right; any that the checks below add are errors.
    said = net.against(flow)
    check_rules(reference)
    _compare(name, said, net.against(flow))
    TrialGrowth(net, flow, [(net.given, False)], [reference], False, {}).run()
    _compare(name, said, net.against(flow))
    return {place: reason for place, (reason, _) in said.items()}


def _compare(
    name: str, said: dict[tuple[int, int], tuple[str, str]], found: dict[tuple[int, int], Any]
) -> None:
    for place, (reason, inexact) in found.items():
        for before, after in zip(said[place], (reason, inexact), strict=True):
            if before != after:
                raise RamifyError(
                    f"the rule of '{name}' does not hold for dimension {place[1]} of tensor "
                    f"{place[0]} among the arguments: {after}"
                )


class _Call(nn.Module):
    """The module that runs the operation, so that reasons can name it."""

    def __init__(self, op: Any, settings: dict[str, Any]) -> None:
        super().__init__()
        self._op, self._settings = op, settings

    def forward(self, *inputs: Any) -> list[Tensor]:
        """Its floating-point results, and the arguments that it wrote to."""
        result = self._op(*inputs, **self._settings)
        found = tree_leaves((result, inputs) if result is None else result)
        return [leaf for leaf in found if _is_activation(leaf)]


class _Surrounded(nn.Module):
    """An operation whose arguments weights produce and whose results weights read."""

    def __init__(self, op: Any, inputs: tuple[Any, ...], settings: dict[str, Any]) -> None:
        super().__init__()
        self._inputs, self.op = inputs, _Call(op, settings)
        tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
        self.given = tuple(t.detach() for t in tensors if _is_activation(t))
        self.producers, self.readers, self.own = (nn.ParameterDict() for _ in range(3))
        for number, tensor in enumerate(tensors):
            if isinstance(tensor, nn.Parameter):
                self.own[str(number)] = tensor
        generator = torch.Generator().manual_seed(0)
        # Nearly the identity, and positive, so that the operation gets valid arguments.
        for key, size, like in _axes(self.given):
            noise = torch.rand(size, size, generator=generator) / (10 * size)
            self.producers[key] = nn.Parameter((torch.eye(size) + noise).to(like))
        with torch.no_grad():
            results = self.op(*copied(inputs))
        for key, size, like in _axes(results):
            self.readers[key] = nn.Parameter(torch.rand(2, size, generator=generator).to(like))

    def forward(self, *given: Tensor) -> list[Tensor]:
        """The operation on the produced arguments, read by weights."""
        made = iter([_mixed(tensor, n, self.producers) for n, tensor in enumerate(given)])
        taken = lambda leaf: next(made) if _is_activation(leaf) else leaf  # noqa: E731
        results = self.op(*tree_map(taken, self._inputs))
        return [_mixed(tensor, n, self.readers) for n, tensor in enumerate(results)]

    def against(self, flow: DimFlow) -> dict[tuple[int, int], tuple[str, str]]:
        """(tensor, dimension) -> (why it cannot be changed or copied, why a prune is inexact)."""
        found = {}
        for key in self.producers:
            number, dim = key.count("t") - 1, key.count("d") - 1
            atoms = list(leaves(flow.param_dims[f"producers.{key}"][0]))
            reason = next((a.frozen or a.no_split for a in atoms if a.frozen or a.no_split), "")
            inexact = next((a.inexact for a in atoms if a.inexact), "")
            found[number, dim] = reason, inexact
        return found


def _is_activation(leaf: Any) -> bool:
    return (
        isinstance(leaf, Tensor) and leaf.is_floating_point() and not isinstance(leaf, nn.Parameter)
    )


def _axes(tensors: Any) -> Iterator[tuple[str, int, Tensor]]:
    """(number of the tensor and dimension, size, tensor) of every dimension larger than 1."""
    for number, tensor in enumerate(tensors):
        for dim, size in enumerate(tensor.shape):
            if size > 1:
                yield _key(number, dim), size, tensor


def _key(number: int, dim: int) -> str:
    """A name without digits: a trial growth treats names that differ only in digits as one kind."""
    return "t" * (number + 1) + "d" * (dim + 1)


def _mixed(tensor: Tensor, number: int, weights: nn.ParameterDict) -> Tensor:
    """A tensor multiplied by a weight along every dimension that has one."""
    for dim in range(tensor.dim()):
        if _key(number, dim) in weights:
            weight = weights[_key(number, dim)]
            tensor = F.linear(tensor.movedim(dim, -1), weight).movedim(-1, dim)
    return tensor
