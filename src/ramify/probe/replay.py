"""The replay: run a tape again with autograd, and optionally replace any read."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import avg_pool1d, avg_pool2d, avg_pool3d
from torch.utils._pytree import tree_leaves, tree_map

from ramify.probe.curvature import kinks_of, smoothed, softened
from ramify.tracing.modes import recurrent_layers_written_out
from ramify.tracing.recorder import Op, Ref, Tape

ReadAt = Callable[[int, Tensor], Tensor]
Before = Callable[[int, Any], None]


def replay(
    tape: Tape,
    tensors: Mapping[str, Tensor],
    reads: Mapping[int, Ref],
    at_read: ReadAt,
    *,
    beta: float | None = None,
    slopes: bool = False,
    until: int | None = None,
    before: Before | None = None,
) -> dict[int, Tensor]:
    """Run a tape again with autograd.

    Args:
        tape: the tape to run.
        tensors: parameters and buffers by name.
        reads: operation -> the tensor whose read there is replaced by the result of `at_read`; if
            the operation outputs that tensor, for all its readers.
        at_read: (operation, tensor) -> the tensor that is read instead.
        beta: softplus sharpness for the curvature of piecewise-linear activations; None: none.
        slopes: whether to use the softplus' slope as well, and to spread that of a max pool evenly
            over its window: for channels of zeros, which are on every kink.
        until: stop after this operation.
        before: called with the number and the arguments of each operation before it runs.

    Returns:
        The values by tensor number.
    """
    env: dict[int, Tensor] = dict(tape.constants)
    env.update({index: tensors[name] for index, name in tape.names.items()})
    if any(_written(op) is not None for op in tape.ops):  # perhaps through a view: all are copied
        env = {index: tensor.clone() for index, tensor in env.items()}
    for position, op in enumerate(tape.ops):
        if until is not None and position > until:
            break
        target = _written(op)
        read = reads.get(position)
        makes_it = read is not None and read not in op.inputs()
        swapped = None if read is None or makes_it else at_read(position, env[read.index])

        def value(leaf: Any, read: Ref | None = read, swapped: Tensor | None = swapped) -> Any:
            if not isinstance(leaf, Ref):
                return leaf
            return swapped if leaf == read else env[leaf.index]

        args, kwargs = tree_map(value, op.args), tree_map(value, op.kwargs)
        if before is not None:
            before(position, args)
        if position in tape.drawn:
            result = _redraw(args, tape.drawn[position], in_place=target is not None)
        else:
            result = _execute(op, args, kwargs, beta, slopes, in_place=target is not None)
        for ref, tensor in zip(op.results(), _tensors(result), strict=False):
            env[ref.index] = tensor
        if read is not None and makes_it:
            env[read.index] = at_read(position, env[read.index])
    return env


def _redraw(args: Any, drawn: list[Tensor], *, in_place: bool) -> list[Tensor]:
    """The output of a random operation when the tape was made."""
    return [args[0].copy_(drawn[0])] if in_place else drawn


def _attention(given: dict[str, Any]) -> Any:
    """Fused attention as matrix products: torch differentiates the fused form only once."""
    mask = given.get("attn_mask", given.get("attn_bias"))
    out = torch.ops.aten._scaled_dot_product_attention_math(
        given["query"],
        given["key"],
        given["value"],
        mask,
        0.0,
        given.get("is_causal", False),
        scale=given.get("scale"),
    )[0]
    strides = given["query"].stride()  # the output strides of the fused forms: it may be viewed
    order = sorted(range(out.dim()), key=lambda dim: -strides[dim])
    return out.permute(order).contiguous().permute([order.index(dim) for dim in range(out.dim())])


def _weight_norm(given: dict[str, Any]) -> Any:
    """G · v / ‖v‖ decomposed: torch's own second derivative of the fused form is wrong."""
    v, g = given["v"], given["g"]
    others = [dim for dim in range(v.dim()) if dim != given.get("dim", 0)]
    norm = torch.linalg.vector_norm(v, dim=others, keepdim=True)
    return v * (g / norm), norm


def _fixed_norm(given: dict[str, Any]) -> Any:
    """Batch norm with running statistics as scale and shift, for cheaper derivatives."""
    if given["training"]:  # with the batch's own statistics it is not linear
        return None
    x, mean, variance = given["input"], given["running_mean"], given["running_var"]
    scale = torch.rsqrt(variance + given.get("eps", given.get("epsilon")))
    scale = scale if given["weight"] is None else scale * given["weight"]
    shift = -mean * scale if given["bias"] is None else given["bias"] - mean * scale
    shape = (-1, *[1] * (x.dim() - 2))
    return [(x * scale.view(shape) + shift.view(shape)).to(x.dtype)]  # autocast keeps these wide


_DECOMPOSITIONS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "aten::native_batch_norm": _fixed_norm,
    "aten::cudnn_batch_norm": _fixed_norm,
    "aten::miopen_batch_norm": _fixed_norm,
    "aten::_scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten::_scaled_dot_product_flash_attention": _attention,
    "aten::_scaled_dot_product_efficient_attention": _attention,
    "aten::_scaled_dot_product_cudnn_attention": _attention,
    "aten::_scaled_dot_product_fused_attention_overrideable": _attention,
    "aten::_weight_norm_interface": _weight_norm,
}


_SYMMETRIC = ("aten::maximum", "aten::minimum")
"""Operations with a kink whose arguments may be exchanged."""
_MAX_POOLS: dict[str, Callable[..., Tensor]] = {
    f"aten::max_pool{n}d_with_indices": pool
    for n, pool in ((1, avg_pool1d), (2, avg_pool2d), (3, avg_pool3d))
}


def _spread_pool(op: Op, args: Any, kwargs: Any) -> Any:
    """A max pool with the gradient of the mean over its window."""
    given = op.named() | dict(zip((a.name for a in op.func._schema.arguments), args, strict=False))
    result = op.func(*args, **kwargs)
    if any(step != 1 for step in given.get("dilation", [1])):
        return result
    mean = _MAX_POOLS[op.name](
        args[0],
        given["kernel_size"],
        given.get("stride") or None,
        given.get("padding", 0),
        ceil_mode=given.get("ceil_mode", False),
        count_include_pad=False,
    )
    return result[0].detach() + mean - mean.detach(), *result[1:]


def _execute(
    op: Op, args: Any, kwargs: Any, beta: float | None, slopes: bool, *, in_place: bool
) -> Any:
    plain = _DECOMPOSITIONS.get(op.name)
    if plain is not None:
        names = [argument.name for argument in op.func._schema.arguments]
        result = plain(dict(zip(names, args, strict=False)) | kwargs)
        if result is not None:
            return result
    if slopes and op.name in _MAX_POOLS:
        return _spread_pool(op, args, kwargs)
    with_slope = softened if slopes else smoothed
    if op.name in _SYMMETRIC and not args[0].requires_grad:
        args = [args[1], args[0]]
    kinks = kinks_of(op.name, args, kwargs) if beta is not None else None
    if kinks is None or beta is None or not args[0].requires_grad:
        return op.func(*args, **kwargs)
    if not in_place:
        return with_slope(op.func(*args, **kwargs), args[0], kinks, beta)
    x = args[0].clone()
    with torch.no_grad():
        value = op.func(x.clone(), *args[1:], **kwargs)
    return args[0].copy_(with_slope(value, x, kinks, beta))


def _written(op: Op) -> Ref | None:
    """The tensor that an operation modifies in place."""
    for argument, declared in zip(op.args, op.func._schema.arguments, strict=False):
        if declared.alias_info is not None and declared.alias_info.is_write:
            return argument if isinstance(argument, Ref) else None
    return None


def _tensors(result: Any) -> list[Tensor]:
    return [t for t in tree_leaves(result) if isinstance(t, Tensor)]


@contextlib.contextmanager
def decomposed(model: nn.Module) -> Iterator[None]:
    """Run fused attention and recurrent layers as plain operations inside the block.

    Plain operations have second derivatives, and the product of queries and keys is then a separate
    tensor, which can be read.
    """
    with sdpa_kernel(SDPBackend.MATH), recurrent_layers_written_out(model):
        yield
