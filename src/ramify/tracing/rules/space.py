"""Pooling, padding, resizing, and other operations on space."""

from __future__ import annotations

import re

from ramify.tracing.dims import (
    Fixed,
    Term,
    concat,
    factor,
    freeze,
    product,
    resolve,
)
from ramify.tracing.propagate import Labels, rule
from ramify.tracing.recorder import Op


def _window(name: str) -> int:
    """How many trailing dimensions an operation slides over, from its name."""
    digits = re.search(r"([123])d", name)
    return int(digits.group(1)) if digits else 2


@rule(
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
def spatial(labels: Labels, op: Op) -> None:
    """The last one, two or three dimensions change, each channel on its own."""
    terms = labels.of(op.args[0])
    kind = "1d" if op.name.endswith("linear1d") else op.name
    kept = terms[: len(terms) - _window(kind)]
    for term in terms[len(kept) :]:
        freeze(term, labels.why(op, "resizes space"))
    out = []
    for ref in op.results():
        out.append(kept + [labels.fixed(op, n) for n in labels.shape(ref)[len(kept) :]])
    labels.give(op, *out)


@rule("grid_sampler_2d", "grid_sampler_3d", "grid_sampler")
def sample(labels: Labels, op: Op) -> None:
    """Each channel is sampled at the same places."""
    x, grid = op.args[:2]
    for term in [*labels.of(x)[2:], *labels.of(grid)]:
        freeze(term, labels.why(op, "samples space"))
    shape = labels.shape(op.results()[0])
    labels.give(op, [*labels.of(x)[:2], *(labels.fixed(op, n) for n in shape[2:])])


@rule("constant_pad_nd", "pad")
def pad(labels: Labels, op: Op) -> None:
    """Constant entries before and after: fixed pieces beside the channels."""
    terms, amounts = list(labels.of(op.args[0])), list(op.args[1])
    for pair in range(len(amounts) // 2):
        before, after = amounts[2 * pair], amounts[2 * pair + 1]
        dim = len(terms) - 1 - pair
        old = resolve(terms[dim])
        if before == after == 0:
            continue
        if isinstance(old, Fixed) or before < 0 or after < 0:
            freeze(old, labels.why(op, "cuts them"))
            terms[dim] = labels.fixed(op, old.size + before + after)
            continue
        around = [labels.fixed(op, n) for n in (before, after)]
        parts: list[Term] = [around[0], old, around[1]]
        terms[dim] = concat([part for part in parts if part.size])
    labels.give(op, terms)


@rule("pixel_shuffle", "pixel_unshuffle")
def pixel_shuffle(labels: Labels, op: Op) -> None:
    """Blocks of r·r channels become space, and back."""
    terms, r = labels.of(op.args[0]), int(op.args[1])
    lead, channels = terms[:-3], terms[-3]
    space = [labels.fixed(op, n) for n in labels.shape(op.results()[0])[-2:]]
    out: Term
    if op.name == "aten::pixel_unshuffle":
        out = product([resolve(channels), labels.fixed(op, r * r)])
    else:
        pair = factor(channels, channels.size // (r * r), r * r)
        if pair is None:
            freeze(channels, labels.why(op, "cuts a block of channels"))
            pair = labels.fixed(op, channels.size // (r * r)), channels
        freeze(pair[1], labels.why(op, f"turns blocks of {r * r} channels into space"))
        out = pair[0]
    labels.give(op, [*lead, out, *space])


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(labels: Labels, op: Op) -> None:
    """`(groups, n)` channels become `(n, groups)`."""
    terms, groups = list(labels.of(op.args[0])), int(op.args[1])
    pair = factor(terms[1], groups, terms[1].size // groups)
    if pair is None:
        freeze(terms[1], labels.why(op, "cuts a block of channels"))
    else:
        freeze(pair[0], labels.why(op, f"deals them to {groups} groups"))
        terms[1] = product([resolve(pair[1]), resolve(pair[0])])
    labels.give(op, terms)


@rule("im2col", "col2im")
def unfold(labels: Labels, op: Op) -> None:
    """Patches become channels (channel outside, kernel inside), and back."""
    terms = labels.of(op.args[0])
    shape = labels.shape(op.results()[0])
    kernel = op.args[1] if op.name == "aten::im2col" else op.args[2]
    cells = int(kernel[0]) * int(kernel[1])
    if op.name == "aten::im2col":
        lead, channels = terms[:-3], terms[-3]
        out = product([resolve(channels), labels.fixed(op, cells)])
    else:
        lead, channels = terms[:-2], terms[-2]
        pair = factor(channels, channels.size // cells, cells)
        if pair is None:
            freeze(channels, labels.why(op, "cuts a block of channels"))
            out = labels.fixed(op, channels.size // cells)
        else:
            freeze(pair[1], labels.why(op, "sums the cells of a patch"))
            out = pair[0]
    rest = shape[len(lead) + 1 :]
    labels.give(op, [*lead, out, *(labels.fixed(op, n) for n in rest)])
