"""The steps on images and signals: each draws a module and describes its weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.fuzz_edits import layers
from benchmarks.fuzz_edits.axes import Axis, Beside, Dim, Each, Fixed, Sizes, Term, size
from benchmarks.fuzz_edits.program import (
    LINE,
    MAP,
    SEQUENCE,
    VECTOR,
    VOLUME,
    WIDEST,
    Program,
    Unfit,
    both_ways,
    mixes,
)

SPATIAL = {MAP: 2, LINE: 1, VOLUME: 3}
CONVS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
BATCH_NORMS: dict[int, Any] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
INSTANCE_NORMS: dict[int, Any] = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
Made = Callable[[Sizes], Any]
Named = dict[str, tuple[Dim | int, ...]]


def prefixed(prefix: str, dims: Named) -> Named:
    """The same tensors under a module of this name."""
    return {f"{prefix}.{name}": found for name, found in dims.items()}


def linear(out: Term, into: Term, bias: bool = True) -> Named:
    """The tensors of a linear layer."""
    found: Named = {"weight": (Dim(out), Dim(into, reads=True))}
    return found | ({"bias": (Dim(out),)} if bias else {})


def kernel(out: Term, into: Term, spatial: int, k: int, bias: bool = True) -> Named:
    """The tensors of a convolution."""
    found = linear(out, into, bias)
    return found | {"weight": (*found["weight"], *(k,) * spatial)}


def pointwise_layer(kind: str, out: Term, into: Term) -> tuple[Made, Named, int]:
    """A pointwise layer over channels, for a value of any kind.

    Args:
        kind: the kind of the value.
        out: its output channels.
        into: its input channels.

    Returns:
        Its module, its tensors and the dimension of the channels.
    """
    if kind in SPATIAL:
        dims = kernel(out, into, SPATIAL[kind], 1)
        return lambda n: CONVS[SPATIAL[kind]](n(into), n(out), 1), dims, 1
    return (
        lambda n: nn.Linear(n(into), n(out)),
        linear(out, into),
        (-1 if kind == SEQUENCE else 1),
    )


def convolution(p: Program, v: int) -> None:
    """A convolution of any type, usually with a norm and an activation."""
    value, draw = p.values[v], p.draw
    d, into = SPATIAL[value.kind], value.term
    k, bias = draw.choice((1, 3)), p.chance(0.5)
    sort = draw.choice(("plain", "plain", "strided", "dilated", "grouped", "depthwise", "turned"))
    more: dict[str, Any] = {"padding": k // 2, "bias": bias}
    if sort == "strided":
        more["stride"] = 2
    elif sort == "dilated":
        more |= {"dilation": 2, "padding": k - 1}
    out: Term = p.axis()
    groups: Term | None = None
    if sort == "grouped":
        groups, inner = p.in_groups(into)
        own = p.axis(2, 3)
        out = Each((groups, own))
        dims = kernel(out, inner, d, k, bias)
    elif sort == "depthwise":
        groups = into
        out = into if p.chance(0.7) else Each((into, Axis(2)))
        dims = kernel(out, Fixed(1), d, k, bias)
    else:
        dims = kernel(out, into, d, k, bias)
    kinds = CONVS
    if sort == "turned":
        kinds, weight = TRANSPOSED, dims["weight"]
        more |= {"stride": 2, "padding": 0}
        dims["weight"] = (weight[1], weight[0], *weight[2:])
    if groups is None:
        both_ways(out, into)
    norm, of_norm = drawn_norm(p, out, d) if p.chance(0.5) else (None, Named())
    act = draw.choice([None, *layers.POINTWISE])

    def make(n: Sizes) -> nn.Module:
        into_groups = {} if groups is None else {"groups": n(groups)}
        conv = kinds[d](n(into), n(out), k, **more, **into_groups)
        return layers.Conv(
            conv,
            None if norm is None else norm(n),
            None if act is None else layers.POINTWISE[act](),
        )

    named = prefixed("conv", dims) | prefixed("norm", of_norm)
    if act == "one slope":
        named["act.weight"] = (1,)
    p.add(make, [v], [(out, value.kind)], named)


def drawn_norm(p: Program, term: Term, d: int) -> tuple[Made, Named]:
    """A norm of images or signals, and its tensors."""
    draw = p.draw
    sort = draw.choice(("batch", "batch", "batch", "group", "instance", "last", "rms"))
    affine = p.chance(0.7)
    both: Named = {"weight": (Dim(term),), "bias": (Dim(term),)} if affine else {}
    if sort == "group":
        try:
            groups, inner = p.in_groups(term)
        except Unfit:
            sort = "batch"
        else:
            mixes(inner)
            return lambda n: nn.GroupNorm(n(groups), n(term), affine=affine), both
    if sort == "instance":
        return lambda n: INSTANCE_NORMS[d](n(term), affine=affine), both
    if sort == "batch":
        tracked = p.chance(0.9)
        named = both | {name: (Dim(term),) for name in ("running_mean", "running_var") if tracked}
        return (
            lambda n: BATCH_NORMS[d](n(term), affine=affine, track_running_stats=tracked),
            named,
        )
    mixes(term)
    if sort == "last":
        named = prefixed("norm", {"weight": (Dim(term),), "bias": (Dim(term),)})
        return lambda n: layers.LastNorm(nn.LayerNorm(n(term))), named
    return lambda n: layers.LastNorm(nn.RMSNorm(n(term))), {"norm.weight": (Dim(term),)}


def norm(p: Program, v: int) -> None:
    """A single norm."""
    value = p.values[v]
    if size(value.term, {}) == 1 or isinstance(value.term, Fixed):
        raise Unfit
    make, dims = drawn_norm(p, value.term, SPATIAL[value.kind])
    p.add(make, [v], [(value.term, value.kind)], dims)


def affine(p: Program, v: int) -> None:
    """A norm over channels written out, or a scale and a shift."""
    value, normed = p.values[v], p.chance(0.5)
    d, term = SPATIAL[value.kind], value.term
    if normed:
        mixes(term)
    ones = (1,) * d
    dims: Named = {name: (Dim(term), *ones) for name in ("weight", "bias")}
    p.add(lambda n: layers.Affine(n(term), d, normed), [v], [(term, value.kind)], dims)


def activation(p: Program, v: int) -> None:
    """An elementwise function, or a slope for each channel."""
    value = p.values[v]
    term = value.term
    if p.chance(0.2) and value.kind != SEQUENCE:
        p.add(lambda n: nn.PReLU(n(term)), [v], [(term, value.kind)], {"weight": (Dim(term),)})
        return
    functions: tuple[Callable[..., torch.Tensor], ...] = (
        torch.tanh,
        F.gelu,
        lambda x: x.clamp(-1, 1) * 2 + 0.5,
        lambda x: torch.exp(-x.square()),
        lambda x: x * torch.sigmoid(x),
        lambda x: torch.where(x > 0, x, 0.1 * x),
        lambda x: (1 + x.square()).sqrt(),
    )
    function = p.draw.choice(functions)
    p.add(lambda _: layers.Call(function), [v], [(term, value.kind)])


def joined(p: Program, v: int) -> None:
    """A residual sum, a product or a gate with a layer of another value."""
    value, how = p.values[v], p.draw.choice(("sum", "sum", "in place", "scaled", "product", "gate"))
    other = p.draw.choice(p.alike(v))
    out, into = value.term, p.values[other].term
    make, dims, _ = pointwise_layer(value.kind, out, into)
    both_ways(out, into)
    named = prefixed("branch", dims)
    d = SPATIAL.get(value.kind, 0)
    if how == "scaled":
        named["gamma"] = (Dim(out), *(1,) * d)
    p.add(
        lambda n: layers.Joined(make(n), how, n(out), d),
        [v, other],
        [(out, value.kind)],
        named,
    )


def merged(p: Program, v: int) -> None:
    """A concatenation, or the sum, product or maximum of two values with the same channels."""
    value, draw = p.values[v], p.draw
    dim = -1 if value.kind == SEQUENCE else 1
    same = [n for n in p.alike(v, term=True) if n != v]
    if same and p.chance(0.6):
        functions = (torch.add, torch.mul, torch.maximum, lambda x, y: x - 0.5 * y)
        function = draw.choice(functions)
        p.add(lambda _: layers.Call(function), [v, draw.choice(same)], [(value.term, value.kind)])
        return
    others = [v, draw.choice(p.alike(v))]
    terms = tuple(p.values[n].term for n in others)
    if sum(size(term, {}) for term in terms) > WIDEST // 3:
        raise Unfit

    def cat(*found: torch.Tensor) -> torch.Tensor:
        return torch.cat(found, dim)

    p.add(lambda _: layers.Call(cat), others, [(Beside(terms), value.kind)])


def parts(p: Program, v: int) -> None:
    """A layer whose channels are divided into parts, evenly or not."""
    value, how = p.values[v], p.draw.choice(("split", "chunk", "slices", "indexed", "unbind"))
    one = p.axis()
    two = one if how in ("chunk", "unbind") else p.axis()
    make, dims, dim = pointwise_layer(value.kind, Beside((one, two)), value.term)
    p.add(
        lambda n: layers.Parts(make(n), [n(one), n(two)], how, dim),
        [v],
        [(one, value.kind), (two, value.kind)],
        prefixed("layer", dims),
    )


def gated(p: Program, v: int) -> None:
    """A layer of which one half gates the other."""
    value, how, one = p.values[v], p.draw.choice(("glu", "swiglu", "tanh")), p.axis()
    make, dims, dim = pointwise_layer(value.kind, Beside((one, one)), value.term)
    p.add(
        lambda n: layers.Gated(make(n), how, dim),
        [v],
        [(one, value.kind)],
        prefixed("layer", dims),
    )


def squeeze_excite(p: Program, v: int) -> None:
    """A gate from the means of channels."""
    value, hidden = p.values[v], p.axis(1, 4)
    d, term = SPATIAL[value.kind], value.term
    convs = d == 2 and p.chance(0.5)
    ones = (1, 1) if convs else ()
    dims: Named = {}
    for name, (out, into) in {"one": (hidden, term), "two": (term, hidden)}.items():
        found = linear(out, into)
        dims |= prefixed(name, found | {"weight": (*found["weight"], *ones)})
    p.add(
        lambda n: layers.SqueezeExcite(n(term), n(hidden), d, convs),
        [v],
        [(term, value.kind)],
        dims,
    )


def over_channels(p: Program, v: int) -> None:
    """Something that depends on all channels together."""
    value, dim = p.values[v], -1 if p.values[v].kind == SEQUENCE else 1
    mixes(value.term)
    functions: tuple[Callable[..., torch.Tensor], ...] = (
        lambda x: x.softmax(dim),
        lambda x: x - x.mean(dim, keepdim=True),
        lambda x: F.normalize(x, dim=dim),
        lambda x: x * x.amax(dim, keepdim=True).sigmoid(),
        lambda x: x / (1 + x.norm(dim=dim, keepdim=True)),
        lambda x: x.cumsum(dim),
        lambda x: x.sort(dim)[0],
        lambda x: x + x.flip(dim),
        lambda x: x.roll(1, dim),
    )
    function = p.draw.choice(functions)
    p.add(lambda _: layers.Call(function), [v], [(value.term, value.kind)])


def moved(p: Program, v: int) -> None:
    """Pixels that become channels, channels that become pixels, and copies of channels."""
    value, draw = p.values[v], p.draw
    term, d = value.term, SPATIAL[value.kind]
    wide = size(term, {})
    ways = ["repeat", "repeat_interleave", "pad", "stack"]
    ways += ["shuffle", "down"] if d == 2 else []
    how = draw.choice(ways)
    if how == "shuffle":
        own = p.axis(2, 4)
        out = Each((own, Fixed(4)))
        make, dims, _ = pointwise_layer(MAP, out, term)
        p.add(
            lambda n: layers.Conv(make(n), None, nn.PixelShuffle(2)),
            [v],
            [(own, MAP)],
            prefixed("conv", dims),
        )
        return
    if wide > WIDEST // 6 or (how == "down" and any(n % 2 for n in value.extent)):
        raise Unfit
    ones = (1,) * d
    functions: dict[str, tuple[Callable[..., torch.Tensor], Term]] = {
        "repeat": (lambda x: x.repeat(1, 2, *ones), Beside((term, term))),
        "repeat_interleave": (lambda x: x.repeat_interleave(2, dim=1), Each((term, Fixed(2)))),
        "pad": (lambda x: F.pad(x, (0, 0) * d + (0, 1)), Beside((term, Fixed(1)))),
        "stack": (lambda x: torch.stack([x, x.tanh()], 2).flatten(1, 2), Each((term, Fixed(2)))),
        "down": (lambda x: F.pixel_unshuffle(x, 2), Each((term, Fixed(4)))),
    }
    if how == "down":
        p.any_extent = False
    function, made = functions[how]
    p.add(lambda _: layers.Call(function), [v], [(made, value.kind)])


def grouped(p: Program, v: int) -> None:
    """Channels that are shuffled between groups, or reduced over groups."""
    value, draw = p.values[v], p.draw
    groups, inner = p.in_groups(value.term)
    if p.chance(0.5):
        how = draw.choice(("module", "sizes", "unflatten") if value.kind == MAP else ("sizes",))
        out = Each((inner, groups))
        p.add(lambda n: layers.Shuffle(n(groups), how), [v], [(out, value.kind)])
        return
    how = draw.choice(("sum", "mean", "amax"))
    mixes(groups)
    p.add(lambda n: layers.OverGroups(n(groups), how), [v], [(inner, value.kind)])


def spatial(p: Program, v: int) -> None:
    """Pooling, padding and resizing."""
    value = p.values[v]
    d = SPATIAL[value.kind]
    functions: list[Callable[..., torch.Tensor]] = [
        lambda x: F.interpolate(x, scale_factor=2.0),
        lambda x: F.pad(x, (1, 1) * d),
        lambda x: x.flip(-1),
        lambda x: x[..., 1:],
        lambda x: x - x.mean(-1, keepdim=True),
        lambda x: x.softmax(-1),
        lambda x: x.cumsum(-1) / x.size(-1),
    ]
    if d == 2:
        functions += [
            lambda x: F.max_pool2d(x, 2),
            lambda x: F.avg_pool2d(x, 3, stride=1, padding=1),
            lambda x: F.adaptive_avg_pool2d(x, (2, 3)),
            lambda x: x.transpose(2, 3).contiguous(),
            lambda x: F.interpolate(x, size=(4, 4), mode="bilinear"),
        ]
    elif d == 1:
        functions += [lambda x: F.max_pool1d(x, 2), lambda x: F.adaptive_max_pool1d(x, 3)]
    else:
        functions += [lambda x: F.max_pool3d(x, 2), lambda x: F.adaptive_avg_pool3d(x, 2)]
    if min(value.extent) < 3 or max(value.extent) > 9:
        raise Unfit
    function = p.draw.choice(functions)
    p.add(lambda _: layers.Call(function), [v], [(value.term, value.kind)])


def to_vector(p: Program, v: int) -> None:
    """An image or a signal as a vector: pooled, or flattened into a linear layer."""
    value, draw = p.values[v], p.draw
    pixels = 1
    for n in value.extent:
        pixels *= n
    if p.chance(0.5) and pixels * size(value.term, {}) <= 2 * WIDEST:
        out, term = p.axis(), Each((value.term, Fixed(pixels)))
        how = draw.choice(("flatten", "view", "count", "reshape"))
        p.any_extent = False
        p.add(
            lambda n: layers.Flat(n(term), n(out), how),
            [v],
            [(out, VECTOR)],
            prefixed("fc", linear(out, term)),
        )
        return
    functions: tuple[Callable[..., torch.Tensor], ...] = (
        lambda x: x.flatten(2).mean(-1),
        lambda x: x.flatten(2).amax(-1),
        lambda x: x.sum(tuple(range(2, x.dim()))),
    )
    function = draw.choice(functions)
    p.add(lambda _: layers.Call(function), [v], [(value.term, VECTOR)])


def to_sequence(p: Program, v: int) -> None:
    """The pixels of an image as a sequence."""
    value = p.values[v]
    functions: tuple[Callable[..., torch.Tensor], ...] = (
        lambda x: x.flatten(2).transpose(1, 2),
        lambda x: x.movedim(1, -1).reshape(x.shape[0], -1, x.shape[1]),
    )
    function = p.draw.choice(functions)
    p.add(lambda _: layers.Call(function), [v], [(value.term, SEQUENCE)])


def twice(p: Program, v: int) -> None:
    """A layer that runs twice, on its own output or on another value."""
    value = p.values[v]
    others = p.alike(v, term=True)
    if isinstance(value.term, Fixed):
        raise Unfit
    again = p.chance(0.5)
    out = value.term if again else p.axis()
    make, dims, _ = pointwise_layer(value.kind, out, value.term)
    both_ways(out, value.term)
    name = f"shared{len(p.steps)}"
    [first] = p.add(make, [v], [(out, value.kind)], dims, name=name)
    second = first if again else p.draw.choice(others)
    built = p.steps[-1].make
    p.add(built, [second], [(out, value.kind)], dims, name=name, again=True)


def film(p: Program, v: int) -> None:
    """A scale and a shift of each channel computed from means, or kernels computed from them."""
    value, term = p.values[v], p.values[v].term
    if isinstance(term, Fixed) or size(term, {}) > WIDEST // 4:
        raise Unfit
    if value.kind == LINE and p.chance(0.5):
        both_ways(term, term)  # a product of activations
        dims = prefixed("kernel", linear(Each((term, Fixed(3))), term))
        p.add(lambda n: layers.Dynamic(n(term)), [v], [(term, LINE)], dims)
        return
    both_ways(term, term)
    dims = prefixed("fc", linear(Beside((term, term)), term))
    p.add(lambda n: layers.Film(n(term)), [v], [(term, value.kind)], dims)


def maxout(p: Program, v: int) -> None:
    """The maximum of two layers, or a convolution of unfolded patches."""
    value, term, out = p.values[v], p.values[v].term, p.axis()
    if value.kind == MAP and p.chance(0.5):
        dims = prefixed("fc", linear(out, Each((term, Fixed(9)))))
        p.add(lambda n: layers.Unfolded(n(term), n(out)), [v], [(out, SEQUENCE)], dims)
        return
    make, dims, _ = pointwise_layer(value.kind, Each((out, Fixed(2))), term)
    p.add(lambda n: layers.Maxout(make(n)), [v], [(out, value.kind)], prefixed("layer", dims))


def experts(p: Program, v: int) -> None:
    """Experts that are weighted by a gate."""
    value, term, out = p.values[v], p.values[v].term, p.axis()
    count = Fixed(p.draw.choice((2, 3)))
    make, own, dim = pointwise_layer(value.kind, out, term)
    gate, of_gate, _ = pointwise_layer(value.kind, count, term)
    dims = prefixed("gate", of_gate)
    for number in range(count.width):
        dims |= prefixed(f"experts.{number}", own)
    p.add(
        lambda n: layers.Experts([make(n) for _ in range(count.width)], gate(n), dim),
        [v],
        [(out, value.kind)],
        dims,
    )


def trunk(p: Program, v: int) -> None:
    """Convolutions of one width, norms and activations in one flat list."""
    value, wide, count = p.values[v], p.draw.randint(3, 6), p.draw.choice((2, 3))
    d, into, normed = SPATIAL[value.kind], value.term, p.chance(0.7)
    widths = [Axis(wide) for _ in range(count)]
    whole: list[Term] = [into, *widths]
    dims: Named = {}
    for number, width in enumerate(widths):
        at = number * (3 if normed else 2)
        dims |= prefixed(str(at), kernel(width, whole[number], d, 3))
        names = ("weight", "bias", "running_mean", "running_var") if normed else ()
        dims |= {f"{at + 1}.{name}": (Dim(width),) for name in names}

    def make(n: Sizes) -> nn.Module:
        found: list[nn.Module] = []
        for before, width in itertools.pairwise(whole):
            found.append(CONVS[d](n(before), n(width), 3, padding=1))
            found += [BATCH_NORMS[d](n(width))] if normed else []
            found.append(nn.ReLU())
        return nn.Sequential(*found)

    p.add(make, [v], [(widths[-1], value.kind)], dims)
