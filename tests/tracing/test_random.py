"""Random networks under random edits: no group is wrong, and a trace never raises."""

from __future__ import annotations

import copy
import random

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import ramify
from ramify import Prune, Split
from tests.checks import call, distance, mask, of_copy, outputs
from tests.programs import SIDE, Network, Step, programs
from tests.structures.base import scatter

Program = tuple[int, list[Step], int]
WEIGHTS = [(0.5, 0.5), (1.3, -0.3), (0.2, 0.3, 0.5)]
drawn = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], print_blob=True)


def network(program: Program) -> tuple[Network, Tensor]:
    torch.manual_seed(0)
    model = Network(*program).double().eval()
    scatter(model)
    return model, torch.randn(2, 2, SIDE, SIDE, dtype=torch.float64)


@drawn
@given(programs, st.integers(0, 2**16))
def test_splits_of_many_channels_at_once_keep_the_outputs(program: Program, seed: int) -> None:
    model, x = network(program)
    before, values = outputs(model, x), {n: t.clone() for n, t in model.state_dict().items()}
    graph = ramify.trace(model, x)
    assert all(torch.equal(t, values[n]) for n, t in model.state_dict().items())
    assert not any("does not know" in group.reason for group in graph.groups)
    draw = random.Random(seed)
    edits = [
        Split(group.name, channel, draw.choice(WEIGHTS))
        for group in graph.groups
        if group.can_split
        for channel in draw.sample(range(group.width), draw.randint(0, min(2, group.width)))
    ]
    edited = ramify.apply(graph, edits)
    assert distance(before, outputs(model, x)) < 1e-10
    for group in graph.groups:
        assert edited[group.name].width == group.width + sum(
            len(edit.weights) - 1 for edit in edits if edit.group == group.name
        )


@drawn
@given(programs, st.integers(0, 2**16))
def test_a_prune_is_a_mask(program: Program, seed: int) -> None:
    model, x = network(program)
    graph = ramify.trace(model, x)
    able = [number for number, group in enumerate(graph.groups) if group.can_prune]
    if not able:
        return
    draw = random.Random(seed)
    number = draw.choice(able)
    group = graph.groups[number]
    channels = draw.sample(range(group.width), draw.randint(1, group.width - 1))
    masked = copy.deepcopy(model)
    mask(of_copy(graph, masked), group, channels)
    expected = outputs(masked, x)
    ramify.apply(graph, [Prune(group.name, channel) for channel in channels])
    if group.prune_exact:
        assert distance(expected, outputs(model, x)) < 1e-10
    model.train()
    call(model, x)[0].sum().backward()
