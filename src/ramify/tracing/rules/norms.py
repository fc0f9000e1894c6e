"""Normalisation layers."""

from __future__ import annotations

from collections.abc import Sequence

from ramify.tracing.dims import (
    Fixed,
    Prod,
    Term,
    factor,
    forbid_split,
    freeze,
    mark_inexact,
    product,
    resolve,
    unify,
)
from ramify.tracing.propagate import Labels, rule
from ramify.tracing.recorder import Op, Ref
from ramify.tracing.rules.moves import argument


def _per_channel(labels: Labels, op: Op, term: Term, refs: Sequence[Ref | None]) -> None:
    for ref in refs:
        if ref is not None and labels.shape(ref) and labels.shape(ref) != (0,):
            unify(term, labels.of(ref)[0], labels.why(op, "normalises each channel"))


@rule(
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
def batch_norm(labels: Labels, op: Op) -> None:
    """Each channel on its own: weight, bias and running statistics are carried."""
    tensors = [arg for arg in op.args if isinstance(arg, Ref)]
    terms = labels.of(tensors[0])
    channels = terms[1]
    _per_channel(labels, op, channels, tensors[1:])
    if labels.is_weight(tensors[0]):  # a kernel standardised over all that it reads
        why = labels.why(op, "normalises the weight over them")
        for term in terms[2:]:
            forbid_split(term, why)
            mark_inexact(term, why)
    whole = resolve(channels)
    if isinstance(whole, Prod) and isinstance(whole.parts[0], Fixed):  # instance norm: samples
        channels_of_one: Term = product(whole.parts[1:])
        labels.attributes.append((op.module, "num_features", (channels_of_one,)))
    labels.attributes.append((op.module, "num_features", (channels,)))
    others = op.results()[1:]
    labels.give(op, terms, *(_statistics(labels, op, channels, ref) for ref in others))


def _statistics(labels: Labels, op: Op, channels: Term, ref: Ref) -> list[Term]:
    shape = labels.shape(ref)
    return [channels] if shape == (channels.size,) else [labels.fixed(op, n) for n in shape]


@rule("native_layer_norm", "_fused_rms_norm", "layer_norm", "rms_norm")
def layer_norm(labels: Labels, op: Op) -> None:
    """The last dimensions are normalised together: they may go, but not be copied exactly."""
    x, normalized = op.args[0], op.args[1]
    terms = labels.of(x)
    last = terms[len(terms) - len(normalized) :]
    why = labels.why(op, "normalises over the channels")
    for term in last:
        forbid_split(term, why)
        mark_inexact(term, why)
    for ref in [arg for arg in op.args[2:] if isinstance(arg, Ref)]:
        for term, own in zip(last, labels.of(ref), strict=True):
            unify(term, own, why)
    labels.attributes.append((op.module, "normalized_shape", tuple(last)))
    results = op.results()
    kept = terms[: len(terms) - len(normalized)]
    labels.give(
        op,
        terms,
        *(kept + [labels.fixed(op, 1)] * (len(labels.shape(r)) - len(kept)) for r in results[1:]),
    )


@rule("native_group_norm", "group_norm")
def group_norm(labels: Labels, op: Op) -> None:
    """Channels of one group are normalised together; whole groups stay independent."""
    x = op.args[0]
    weight, bias = argument(op, 1, "weight", None), argument(op, 2, "bias", None)
    groups = int(op.args[6])
    terms = labels.of(x)
    channels = terms[1]
    why = labels.why(op, f"normalises over the channels of each of {groups} groups")
    pair = factor(channels, groups, channels.size // groups)
    if pair is None:
        freeze(channels, why)
    else:
        forbid_split(pair[1], why)
        mark_inexact(pair[1], why)
        if groups > 1:
            labels.attributes.append((op.module, "num_groups", (pair[0],)))
        labels.attributes.append((op.module, "num_channels", (channels,)))
    _per_channel(labels, op, channels, [weight, bias])
    spread = [terms[0], pair[0] if pair else Fixed(groups, why)]
    labels.give(op, terms, *([spread] * len(op.results()[1:])))
