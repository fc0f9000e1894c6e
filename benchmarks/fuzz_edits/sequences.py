"""The steps on sequences and vectors, and residual stacks of any kind."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.fuzz_edits import attention, layers
from benchmarks.fuzz_edits.axes import Axis, Beside, Dim, Each, Fixed, Sizes, axes_of, size
from benchmarks.fuzz_edits.program import (
    LENGTH,
    MAP,
    SEQUENCE,
    TOKENS,
    VECTOR,
    WIDEST,
    Program,
    Unfit,
    both_ways,
    mixes,
)
from benchmarks.fuzz_edits.steps import (
    BATCH_NORMS,
    SPATIAL,
    Named,
    linear,
    pointwise_layer,
    prefixed,
)


def product(p: Program, v: int) -> None:
    """A product with a weight, as a layer or written out."""
    value = p.values[v]
    out, into = p.axis(), value.term
    both_ways(out, into)
    how = p.draw.choice(("layer", "layer", "linear", "matmul", "mm", "einsum"))
    if how == "layer":
        bias = p.chance(0.7)
        dims = linear(out, into, bias)
        p.add(lambda n: nn.Linear(n(into), n(out), bias=bias), [v], [(out, value.kind)], dims)
        return
    weight = linear(out, into)["weight"]
    dims = {"weight": weight if how == "linear" else weight[::-1]}
    p.add(lambda n: layers.Weights(n(into), n(out), how), [v], [(out, value.kind)], dims)


def last_norm(p: Program, v: int) -> None:
    """A norm over the last dimension, or over the batch."""
    value, term = p.values[v], p.values[v].term
    if size(term, {}) == 1:
        raise Unfit
    both: Named = {"weight": (Dim(term),), "bias": (Dim(term),)}
    if value.kind == VECTOR and p.chance(0.5):
        named = both | {name: (Dim(term),) for name in ("running_mean", "running_var")}
        p.add(lambda n: nn.BatchNorm1d(n(term)), [v], [(term, VECTOR)], named)
        return
    mixes(term)
    if p.chance(0.5):
        p.add(lambda n: nn.LayerNorm(n(term)), [v], [(term, value.kind)], both)
    else:
        p.add(lambda n: nn.RMSNorm(n(term)), [v], [(term, value.kind)], {"weight": both["weight"]})


def mlp(p: Program, v: int) -> None:
    """A pre-norm residual MLP."""
    value, term, hidden = p.values[v], p.values[v].term, p.axis()
    if isinstance(term, Fixed):
        raise Unfit
    is_gated, norm = p.chance(0.4), p.draw.choice(("rms", "layer"))
    mixes(term)
    dims: Named = {"norm.weight": (Dim(term),)}
    dims |= {"norm.bias": (Dim(term),)} if norm == "layer" else {}
    dims |= prefixed("up", linear(hidden, term)) | prefixed("down", linear(term, hidden))
    dims |= prefixed("gate", linear(hidden, term, bias=False)) if is_gated else {}
    p.add(
        lambda n: layers.TransformerMlp(n(term), n(hidden), is_gated, norm),
        [v],
        [(term, value.kind)],
        dims,
    )


def attend(p: Program, v: int) -> None:
    """Attention written out, perhaps with fewer heads of keys."""
    draw, term = p.draw, p.values[v].term
    if isinstance(term, Fixed):
        raise Unfit
    width, deep, times = Axis(draw.choice((3, 5))), Axis(draw.choice((4, 6))), Axis(2)
    key_heads = Axis(draw.choice((1, 2, 2)))
    heads = Each((key_heads, times)) if p.chance(0.3) else key_heads
    normed = p.chance(0.2)
    scale = "fixed" if normed else draw.choice(("default", "fixed", "root", "attribute", "none"))
    cut = draw.choice(("sizes", "computed", "free"))
    width.mixed, width.paired = normed, True
    width.scaled = scale in ("default", "root")
    factor = width.width**-0.5 if scale == "attribute" else None
    queries, keys = Each((heads, width)), Each((key_heads, width))
    values, joined = Each((key_heads, deep)), Each((heads, deep))
    dims = prefixed("q", linear(queries, term)) | prefixed("k", linear(keys, term, bias=False))
    dims |= prefixed("v", linear(values, term)) | prefixed("out", linear(term, joined))
    if normed:
        dims |= {name: (Dim(width),) for name in ("q_norm.weight", "q_norm.bias", "k_norm.weight")}
    p.add(
        lambda n: attention.Attention(
            n(term), (n(heads), n(key_heads)), (n(width), n(deep)), scale, cut, factor, normed
        ),
        [v],
        [(term, SEQUENCE)],
        dims,
    )


def attend_fused(p: Program, v: int) -> None:
    """Attention with one fused layer for queries, keys and values."""
    term = p.values[v].term
    if isinstance(term, Fixed):
        raise Unfit
    heads, width = Axis(p.draw.choice((1, 2, 4))), Axis(p.draw.choice((3, 5)))
    width.paired = width.scaled = True
    own = Each((heads, width))
    dims = prefixed("qkv", linear(Beside((own, own, own)), term))
    dims |= prefixed("proj", linear(term, own))
    p.add(lambda n: attention.Fused(n(term), n(heads), n(width)), [v], [(term, SEQUENCE)], dims)


def attend_torch(p: Program, v: int) -> None:
    """`nn.MultiheadAttention`, on a stream of its width."""
    heads, wide = p.draw.choice(((1, 3), (2, 3), (2, 2), (3, 2)))
    into, stream = p.values[v].term, Axis(heads * wide)
    [v] = p.add(
        lambda n: nn.Linear(n(into), n(stream)), [v], [(stream, SEQUENCE)], linear(stream, into)
    )
    head, width, deep = Axis(heads), Axis(wide), Axis(wide)
    width.paired = True
    keys, values = Each((head, width)), Each((head, deep))
    rows = Beside((keys, keys, values))
    dims: Named = {
        "attention.in_proj_weight": (Dim(rows), Dim(stream, reads=True)),
        "attention.in_proj_bias": (Dim(rows),),
    } | prefixed("attention.out_proj", linear(stream, values))
    p.add(
        lambda n: attention.Torchs(n(stream), n(head), (n(width), n(deep)), wide),
        [v],
        [(stream, SEQUENCE)],
        dims,
    )


def recurrent(p: Program, v: int) -> None:
    """GRU, LSTM or RNN, with several layers or in both directions."""
    term, draw, hidden = p.values[v].term, p.draw, p.axis(2, 4)
    kind = draw.choice(("gru", "lstm", "rnn", "cells"))
    layer_count, both = (draw.choice((1, 1, 2)), p.chance(0.3))
    hidden.paired = True
    rows = Beside((hidden,) * {"gru": 3, "lstm": 4, "rnn": 1, "cells": 3}[kind])
    if kind == "cells":
        dims: Named = {
            "cell.weight_ih": (Dim(rows), Dim(term, reads=True)),
            "cell.weight_hh": (Dim(rows), Dim(hidden, reads=True)),
        } | {f"cell.bias_{name}": (Dim(rows),) for name in ("ih", "hh")}
        make = lambda n: layers.CellLoop(n(term), n(hidden))  # noqa: E731
        p.add(make, [v], [(hidden, SEQUENCE)], dims)
        return
    ways = ("", "_reverse") if both else ("",)
    out = Beside((hidden,) * len(ways))
    dims = {}
    for number in range(layer_count):
        for way in ways:
            into = out if number else term
            end = f"_l{number}{way}"
            dims |= {f"rnn.weight_ih{end}": (Dim(rows), Dim(into, reads=True))}
            dims |= {f"rnn.weight_hh{end}": (Dim(rows), Dim(hidden, reads=True))}
            dims |= {f"rnn.bias_{name}{end}": (Dim(rows),) for name in ("ih", "hh")}
    p.add(
        lambda n: layers.Recurrent(kind, n(term), n(hidden), layer_count, both),
        [v],
        [(out, SEQUENCE)],
        dims,
    )


def outer(p: Program, v: int) -> None:
    """Products of two vectors: all of them, or by a bilinear layer."""
    one, two = p.values[v].term, p.values[p.draw.choice(p.alike(v))].term
    other = next(n for n in p.alike(v) if p.values[n].term is two)
    if p.chance(0.5):
        if size(one, {}) * size(two, {}) > WIDEST // 2:
            raise Unfit
        p.add(lambda _: layers.Outer(), [v, other], [(Each((one, two)), VECTOR)])
        return
    out = p.axis()
    dims: Named = {
        "weight": (Dim(out), Dim(one, reads=True), Dim(two, reads=True)),
        "bias": (Dim(out),),
    }
    for axis in axes_of(two):
        axis.paired = True
    p.add(lambda n: nn.Bilinear(n(one), n(two), n(out)), [v, other], [(out, VECTOR)], dims)


def over_positions(p: Program, v: int) -> None:
    """A sequence as a vector, as an image of one column, or shifted by a position."""
    value = p.values[v]
    functions: tuple[tuple[Callable[..., torch.Tensor], str], ...] = (
        (lambda x: x.mean(1), VECTOR),
        (lambda x: x[:, 0], VECTOR),
        (lambda x: x.amax(1), VECTOR),
        (lambda x: torch.cat([x[:, 1:], x[:, :1]], 1), SEQUENCE),
        (lambda x: x.transpose(1, 2), "line"),
        (lambda x: x.transpose(1, 2).unflatten(2, (1, -1)), MAP),
    )
    function, kind = p.draw.choice(functions)
    p.add(lambda _: layers.Call(function), [v], [(value.term, kind)])


def stack(p: Program, v: int) -> None:
    """Residual blocks in a list, of which whole ones may be dropped."""
    value, draw, term = p.values[v], p.draw, p.values[v].term
    if isinstance(term, Fixed):
        raise Unfit
    count, plain = draw.choice((2, 3)), p.chance(0.5)
    hidden = [p.axis(1, 4) for _ in range(count)]
    made = [
        (pointwise_layer(value.kind, own, term), pointwise_layer(value.kind, term, own))
        for own in hidden
    ]
    d = SPATIAL.get(value.kind, 0)
    normed = d > 0 and p.chance(0.6)
    dims: Named = {}
    for number, ((_, one, _), (_, two, _)) in enumerate(made):
        prefix = f"{number}" if plain else f"blocks.{number}"
        dims |= prefixed(f"{prefix}.one", one) | prefixed(f"{prefix}.two", two)
        names = ("weight", "bias", "running_mean", "running_var") if normed else ()
        dims |= {f"{prefix}.norm.{name}": (Dim(term),) for name in names}

    def make(n: Sizes) -> nn.Module:
        blocks = [
            layers.Block(BATCH_NORMS[d](n(term)) if normed else nn.Identity(), one(n), two(n))
            for (one, _, _), (two, _, _) in made
        ]
        return nn.Sequential(*blocks) if plain else layers.Stack(blocks)

    p.add(make, [v], [(term, value.kind)], dims)


def embedded(p: Program, v: int) -> None:
    """Token embeddings, optionally with positions."""
    width, positions = p.axis(3, 6), p.draw.choice(("none", "table", "parameter"))
    if positions != "none":
        p.any_extent = False
    dims: Named = {"embed.weight": (TOKENS, Dim(width))}
    if positions == "table":
        dims["position.weight"] = (LENGTH, Dim(width))
    elif positions == "parameter":
        dims["place"] = (1, LENGTH, Dim(width))
    make = lambda n: layers.Tokens(n(width), TOKENS, LENGTH, positions)  # noqa: E731
    p.add(make, [v], [(width, SEQUENCE)], dims)


def head(p: Program, v: int) -> int:
    """Add a head that turns a value into scores, and return their number."""
    value = p.values[v]
    if value.kind in SPATIAL and p.chance(0.7):
        function: Callable[..., torch.Tensor] = lambda x: x.flatten(2).mean(2)  # noqa: E731
        [v] = p.add(lambda _: layers.Call(function), [v], [(value.term, VECTOR)])
        value = p.values[v]
    tables = [
        s
        for s in p.steps
        if "embed.weight" in s.dims and s.dims["embed.weight"][1].term is value.term
    ]
    if tables and value.kind == SEQUENCE:
        table = f"{tables[0].name}.embed.weight"
        [v] = p.add(
            lambda n: nn.Linear(n(value.term), TOKENS, bias=False),
            [v],
            [(Fixed(TOKENS), SEQUENCE)],
            tied=("weight", table),
        )
        for axis in axes_of(value.term):
            axis.paired = True
        return v
    out = Fixed(p.draw.randint(1, 4))
    make, dims, _ = pointwise_layer(value.kind, out, value.term)
    [v] = p.add(make, [v], [(out, value.kind)], dims)
    return v


def residual_function(p: Program, v: int) -> None:
    """Dropout or a scaled sum of a value with itself."""
    value = p.values[v]
    functions: tuple[Callable[..., nn.Module], ...] = (
        lambda _: nn.Dropout(0.2),
        lambda _: layers.Call(lambda x: x + 0.1 * F.silu(x)),
        lambda _: nn.Identity(),
    )
    p.add(p.draw.choice(functions), [v], [(value.term, value.kind)])


def attend_self_sized(p: Program, v: int) -> None:
    """Attention that derives the width of a head from its stream."""
    term = p.values[v].term
    heads, _ = p.in_groups(term)
    both_ways(term, term)
    dims = prefixed("qkv", linear(Beside((term, term, term)), term))
    dims |= prefixed("proj", linear(term, term))
    p.add(lambda n: attention.SelfSized(n(term), n(heads)), [v], [(term, SEQUENCE)], dims)


def attend_cross(p: Program, v: int) -> None:
    """Attention of one sequence to another, with fewer heads of keys."""
    sequences = [n for n, value in enumerate(p.values) if value.kind == SEQUENCE]
    other = p.draw.choice(sequences)
    term, second = p.values[v].term, p.values[other].term
    if isinstance(term, Fixed):
        raise Unfit
    key_heads, times, width = Axis(p.draw.choice((1, 2))), Axis(p.draw.choice((1, 2))), Axis(3)
    width.paired = True
    keys, queries = Each((key_heads, width)), Each((key_heads, times, width))
    dims = prefixed("q_proj", linear(queries, term)) | prefixed("o_proj", linear(term, queries))
    dims |= prefixed("k_proj", linear(keys, second)) | prefixed("v_proj", linear(keys, second))
    heads = Each((key_heads, times))
    p.add(
        lambda n: attention.Cross((n(term), n(second)), (n(heads), n(key_heads)), n(width)),
        [v, other],
        [(term, SEQUENCE)],
        dims,
    )


def product_of_groups(p: Program, v: int) -> None:
    """A matrix for each group of channels."""
    groups, inner = p.in_groups(p.values[v].term)
    own, how = p.axis(2, 3), p.draw.choice(("einsum", "baddbmm"))
    dims: Named = {
        "weight": (Dim(groups), Dim(inner, reads=True), Dim(own)),
        "bias": (Dim(groups), 1, Dim(own)),
    }
    p.add(
        lambda n: layers.GroupedLinear(n(groups), n(inner), n(own), how),
        [v],
        [(Each((groups, own)), VECTOR)],
        dims,
    )
