"""Random networks: the available steps, and how a program is drawn from them."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.fuzz_edits import blocks, sequences, steps
from benchmarks.fuzz_edits.program import (
    LENGTH,
    LINE,
    MAP,
    SEQUENCE,
    VECTOR,
    VOLUME,
    Net,
    Program,
    Unfit,
)

Draw = Callable[[Program, int], None]

OF_IMAGES: tuple[tuple[Draw, int], ...] = (
    (steps.convolution, 6),
    (steps.norm, 2),
    (steps.affine, 1),
    (steps.activation, 1),
    (steps.joined, 3),
    (steps.merged, 2),
    (steps.parts, 2),
    (steps.gated, 1),
    (steps.squeeze_excite, 1),
    (steps.over_channels, 1),
    (steps.moved, 2),
    (steps.grouped, 2),
    (steps.spatial, 2),
    (steps.to_vector, 2),
    (steps.to_sequence, 1),
    (blocks.convnext, 1),
    (blocks.computed, 1),
    (blocks.cut, 1),
    (blocks.gram, 1),
    (steps.film, 1),
    (steps.maxout, 1),
    (steps.experts, 1),
    (steps.trunk, 1),
    (steps.twice, 1),
    (sequences.residual_function, 1),
    (sequences.stack, 1),
)
OF_SEQUENCES: tuple[tuple[Draw, int], ...] = (
    (sequences.product, 3),
    (sequences.last_norm, 1),
    (sequences.mlp, 2),
    (sequences.attend, 3),
    (sequences.attend_fused, 1),
    (sequences.attend_torch, 1),
    (sequences.recurrent, 2),
    (blocks.rotary, 1),
    (sequences.attend_self_sized, 1),
    (sequences.attend_cross, 1),
    (steps.experts, 1),
    (blocks.encoder, 1),
    (blocks.learned, 1),
    (blocks.last_state, 1),
    (steps.joined, 1),
    (steps.merged, 1),
    (steps.parts, 1),
    (steps.gated, 1),
    (steps.twice, 1),
    (sequences.over_positions, 2),
    (sequences.residual_function, 1),
    (sequences.stack, 1),
)
OF_VECTORS: tuple[tuple[Draw, int], ...] = (
    (sequences.product, 4),
    (sequences.last_norm, 1),
    (steps.activation, 1),
    (steps.joined, 1),
    (steps.merged, 2),
    (steps.parts, 1),
    (steps.gated, 1),
    (steps.twice, 1),
    (steps.over_channels, 1),
    (steps.grouped, 1),
    (sequences.outer, 1),
    (sequences.product_of_groups, 2),
    (steps.maxout, 1),
    (steps.experts, 1),
    (sequences.residual_function, 1),
    (sequences.stack, 1),
)
STEPS = {
    MAP: (*OF_IMAGES, (blocks.merging, 1)),
    LINE: OF_IMAGES,
    VOLUME: OF_IMAGES,
    SEQUENCE: OF_SEQUENCES,
    VECTOR: OF_VECTORS,
}
TRIES, MOST = 60, 3


def drawn(seed: int) -> Program:
    """Draw a network.

    Args:
        seed: of everything.

    Returns:
        Its program.
    """
    torch.manual_seed(seed)
    draw = random.Random(seed)
    p = Program(draw)
    for _ in range(2 if p.chance(0.15) else 1):
        _add_input(p)
    for v in range(len(p.values)):
        if p.values[v].kind == "tokens":
            sequences.embedded(p, v)
        elif p.chance(0.8):  # network inputs cannot be edited
            first = (
                sequences.product if p.values[v].kind in (SEQUENCE, VECTOR) else steps.convolution
            )
            _tried(first, p, v)
    wanted = len(p.steps) + draw.randint(1, MOST)
    for _ in range(TRIES):
        if len(p.steps) >= wanted:
            break
        there = [n for n, value in enumerate(p.values) if value.kind in STEPS]
        v = there[-1] if p.chance(0.7) else draw.choice(there)
        choices = STEPS[p.values[v].kind]
        [(step, _)] = draw.choices(choices, [weight for _, weight in choices])
        _tried(step, p, v)
    left = [n for n in p.unread if p.values[n].kind in STEPS]
    ends = {len(p.values) - 1, *(n for n in left if p.chance(0.8))}
    p.outputs = [sequences.head(p, n) for n in sorted(ends)]
    p.named = p.chance(0.1)
    return p


def _tried(step: Draw, p: Program, v: int) -> None:
    with contextlib.suppress(Unfit):
        step(p, v)


def scattered(net: Net) -> Net:
    """A network whose norms and biases are changed from their initial values."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
        for module in net.modules():
            if (
                isinstance(module, nn.modules.batchnorm._BatchNorm)
                and module.running_var is not None
            ):
                assert module.running_mean is not None
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 1.5)
    return net


def _add_input(p: Program) -> None:
    draw = p.draw
    kind = draw.choice((MAP, MAP, MAP, LINE, VOLUME, SEQUENCE, SEQUENCE, VECTOR, "tokens"))
    if kind == "tokens":
        p.input("tokens", 0, (LENGTH,))
    elif kind == MAP:
        p.input(MAP, draw.choice((2, 3)), (draw.randint(4, 7), draw.randint(4, 7)))
    elif kind == VOLUME:
        p.input(VOLUME, 2, (3, draw.randint(3, 4), 3))
    elif kind == LINE:
        p.input(LINE, draw.choice((2, 3)), (draw.randint(5, 9),))
    elif kind == SEQUENCE:
        p.input(SEQUENCE, draw.choice((2, 3, 5)), (draw.randint(3, 5),))
    else:
        p.input(VECTOR, draw.choice((3, 4, 6)), ())
