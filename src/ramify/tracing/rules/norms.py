"""Normalisation layers."""

from __future__ import annotations

from collections.abc import Sequence

from ramify.tracing.dims import (
    Fixed,
    Prod,
    Term,
    factor,
    product,
    resolve,
)
from ramify.tracing.recorder import Ref
from ramify.tracing.rules.registry import aten_rule
from ramify.tracing.traced_op import TracedOp


def _per_channel(op: TracedOp, term: Term, refs: Sequence[Ref | None]) -> None:
    for ref in refs:
        if ref is not None and op.shape(ref) and op.shape(ref) != (0,):
            op.tie(term, op.dims(ref)[0], "normalises each channel")


BATCH_NORMS = (
    "native_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "_native_batch_norm_legit_functional",
    "_batch_norm_with_update",
    "_batch_norm_with_update_functional",
    "_batch_norm_no_update",
    "cudnn_batch_norm",
    "miopen_batch_norm",
    "batch_norm",
)


@aten_rule(*BATCH_NORMS)
def batch_norm(op: TracedOp) -> None:
    """Each channel is normalised alone; weight, bias and running statistics are carriers.

    The statistics are over all other dimensions, in train mode if not always. Channels that lie
    there (those of a linear layer in front of a norm over tokens, say) change them by their number.
    """
    tensors = [arg for arg in op.args if isinstance(arg, Ref)]
    terms = op.dims(tensors[0])
    channels = terms[1]
    _per_channel(op, channels, tensors[1:])
    is_weight = op.is_weight(tensors[0])  # a kernel standardised over its inputs
    what = "normalises the weight over them" if is_weight else "takes its statistics over them"
    op.forbid_split([terms[0], *terms[2:]], what)
    op.mark_inexact([terms[0], *terms[2:]], what)
    whole = resolve(channels)
    if isinstance(whole, Prod) and isinstance(whole.parts[0], Fixed):  # instance norm: samples
        channels_of_one: Term = product(whole.parts[1:])
        op.holds_size("num_features", channels_of_one)
    op.holds_size("num_features", channels)
    others = op.results()[1:]
    op.give(terms, *(_statistics(op, channels, ref) for ref in others))


def _statistics(op: TracedOp, channels: Term, ref: Ref) -> list[Term]:
    shape = op.shape(ref)
    return [channels] if shape == (channels.size,) else [op.fixed(n) for n in shape]


@aten_rule("native_layer_norm", "_fused_rms_norm", "layer_norm", "rms_norm")
def layer_norm(op: TracedOp) -> None:
    """The last dimensions are normalised together: channels may be pruned, but not copied."""
    x, normalized = op.args[0], op.args[1]
    terms = op.dims(x)
    last = terms[len(terms) - len(normalized) :]
    what = "normalises over the channels"
    op.forbid_split(last, what)
    op.mark_inexact(last, what)
    for ref in [arg for arg in op.args[2:] if isinstance(arg, Ref)]:
        for term, own in zip(last, op.dims(ref), strict=True):
            op.tie(term, own, what)
    op.holds_size("normalized_shape", *last)
    results = op.results()
    kept = terms[: len(terms) - len(normalized)]
    op.give(
        terms,
        *(kept + [op.fixed(1)] * (len(op.shape(r)) - len(kept)) for r in results[1:]),
    )


@aten_rule("native_group_norm", "group_norm")
def group_norm(op: TracedOp) -> None:
    """Channels of one group are normalised together; whole groups are independent."""
    x = op.args[0]
    weight, bias = op.argument(1, "weight", None), op.argument(2, "bias", None)
    groups = int(op.args[6])
    terms = op.dims(x)
    channels = terms[1]
    what = f"normalises over the channels of each of {groups} groups"
    pair = factor(channels, groups, channels.size // groups)
    if pair is None:
        op.freeze(channels, what)
    else:
        op.forbid_split(pair[1], what)
        op.mark_inexact(pair[1], what)
        if groups > 1:
            op.holds_size("num_groups", pair[0])
        op.holds_size("num_channels", channels)
    _per_channel(op, channels, [weight, bias])
    spread = [terms[0], pair[0] if pair else op.fixed(groups, what)]
    op.give(terms, *([spread] * len(op.results()[1:])))
