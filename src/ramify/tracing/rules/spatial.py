"""Pooling, padding, resizing and other spatial operations."""

from __future__ import annotations

import re

from ramify.tracing.dims import (
    Fixed,
    Term,
    concat,
    factor,
    product,
    resolve,
)
from ramify.tracing.rules.registry import aten_rule
from ramify.tracing.traced_op import TracedOp


def _window(name: str) -> int:
    """The number of trailing dimensions that an operation slides over, from its name."""
    digits = re.search(r"([123])d", name)
    return int(digits.group(1)) if digits else 2


@aten_rule(
    *(
        "max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices "
        "adaptive_avg_pool3d max_unpool2d max_unpool3d fractional_max_pool3d "
        "max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d "
        "_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool2d adaptive_max_pool2d "
        "adaptive_max_pool3d adaptive_max_pool1d fractional_max_pool2d mkldnn_max_pool2d "
        "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d "
        "upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d _upsample_bilinear2d_aa "
        "_upsample_bicubic2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d "
        "_upsample_nearest_exact3d reflection_pad1d reflection_pad2d reflection_pad3d "
        "replication_pad1d replication_pad2d replication_pad3d"
    ).split()
)
def spatial(op: TracedOp) -> None:
    """The last one, two or three dimensions change, independently for each channel."""
    terms = op.dims(op.args[0])
    kind = "1d" if op.name.endswith("linear1d") else op.name
    kept = terms[: len(terms) - _window(kind)]
    for term in terms[len(kept) :]:
        op.freeze(term, "resizes space")
    out = []
    for ref in op.results():
        out.append(kept + [op.fixed(n) for n in op.shape(ref)[len(kept) :]])
    op.give(*out)


@aten_rule("grid_sampler_2d", "grid_sampler_3d", "grid_sampler")
def sample(op: TracedOp) -> None:
    """Each channel is sampled at the same positions."""
    x, grid = op.args[:2]
    for term in [*op.dims(x)[2:], *op.dims(grid)]:
        op.freeze(term, "samples space")
    shape = op.shape(op.results()[0])
    op.give([*op.dims(x)[:2], *(op.fixed(n) for n in shape[2:])])


@aten_rule("constant_pad_nd", "pad")
def pad(op: TracedOp) -> None:
    """Constants before and after the channels, as fixed pieces."""
    terms, amounts = list(op.dims(op.args[0])), list(op.args[1])
    for pair in range(len(amounts) // 2):
        before, after = amounts[2 * pair], amounts[2 * pair + 1]
        dim = len(terms) - 1 - pair
        old = resolve(terms[dim])
        if before == after == 0:
            continue
        if isinstance(old, Fixed) or before < 0 or after < 0:
            op.freeze(old, "cuts them")
            terms[dim] = op.fixed(old.size + before + after)
            continue
        around = [op.fixed(n) for n in (before, after)]
        parts: list[Term] = [around[0], old, around[1]]
        terms[dim] = concat([part for part in parts if part.size])
    op.give(terms)


@aten_rule("pixel_shuffle", "pixel_unshuffle")
def pixel_shuffle(op: TracedOp) -> None:
    """Blocks of r·r channels become space, and back."""
    terms, r = op.dims(op.args[0]), int(op.args[1])
    lead, channels = terms[:-3], terms[-3]
    space = [op.fixed(n) for n in op.shape(op.results()[0])[-2:]]
    out: Term
    if op.name == "aten::pixel_unshuffle":
        out = product([resolve(channels), op.fixed(r * r)])
    else:
        pair = factor(channels, channels.size // (r * r), r * r)
        if pair is None:
            op.freeze(channels, "cuts a block of channels")
            pair = op.fixed(channels.size // (r * r)), channels
        op.freeze(pair[1], f"turns blocks of {r * r} channels into space")
        out = pair[0]
    op.give([*lead, out, *space])


@aten_rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(op: TracedOp) -> None:
    """`(groups, n)` channels become `(n, groups)`."""
    terms, groups = list(op.dims(op.args[0])), int(op.args[1])
    pair = factor(terms[1], groups, terms[1].size // groups)
    if pair is None:
        op.freeze(terms[1], "cuts a block of channels")
    else:
        op.freeze(pair[0], f"deals them to {groups} groups")
        terms[1] = product([resolve(pair[1]), resolve(pair[0])])
    op.give(terms)


@aten_rule("im2col", "col2im")
def unfold(op: TracedOp) -> None:
    """Patches become channels (channel outside, kernel inside), and back."""
    terms = op.dims(op.args[0])
    shape = op.shape(op.results()[0])
    kernel = op.args[1] if op.name == "aten::im2col" else op.args[2]
    cells = int(kernel[0]) * int(kernel[1])
    if op.name == "aten::im2col":
        lead, channels = terms[:-3], terms[-3]
        out = product([resolve(channels), op.fixed(cells)])
    else:
        lead, channels = terms[:-2], terms[-2]
        pair = factor(channels, channels.size // cells, cells)
        if pair is None:
            op.freeze(channels, "cuts a block of channels")
            out = op.fixed(channels.size // cells)
        else:
            op.freeze(pair[1], "sums the cells of a patch")
            out = pair[0]
    rest = shape[len(lead) + 1 :]
    op.give([*lead, out, *(op.fixed(n) for n in rest)])
