"""Every structure that a trace understands is cut and refitted without a wrong number."""

from __future__ import annotations

import copy

import pytest
import torch

import ramify
from ramify.refit import Reference, Takeover, refit_readers
from ramify.tracing.recorder import call
from tests.checks import outputs
from tests.structures import STRUCTURES


@pytest.mark.parametrize("name", STRUCTURES)
def test_refit_never_does_worse_than_cutting_alone(name):
    graph = STRUCTURES[name].graph()
    model, inputs = graph.model, graph.inputs
    groups = [group for group in graph.groups if group.can_prune]
    if not groups:
        pytest.skip("nothing can be pruned")
    full = outputs(model, inputs)
    edits = [ramify.Prune(group.name, group.width - 1) for group in groups]
    reference = Reference(graph)
    reference.follow(graph, edits)
    ramify.apply(graph, edits)
    if all(
        torch.equal(a, b)
        for a, b in zip(outputs(model, inputs), outputs(model, inputs), strict=True)
    ):
        with reference.restored():
            for own, known in zip(outputs(model, inputs), full, strict=True):
                assert torch.equal(own, known)
    plain = outputs(model, inputs)
    found = refit_readers(model, reference, [inputs], call, strengths=(1e-3,))
    assert all(entry.after <= entry.before for entry in found)
    if any(a.shape != b.shape for a, b in zip(plain, full, strict=True)):
        return
    before, after = (
        sum(float((a - b).square().sum()) for a, b in zip(now, full, strict=True))
        for now in (plain, outputs(model, inputs))
    )
    assert after <= before * 3 + 1e-12


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_structure_can_be_scored(name):
    graph = STRUCTURES[name].graph()
    model, inputs = graph.model, graph.inputs

    def loss(model, batch):
        total = sum(out.double().square().mean() for out in _floats(call(model, batch)))
        return total.reshape(1)

    state = copy.deepcopy(model.state_dict())
    if not any(group.can_prune or group.can_split for group in graph.groups):
        with pytest.raises(ramify.RamifyError, match="can be edited"):
            Takeover().propose(graph, loss, [inputs])
        return
    found = Takeover().propose(graph, loss, [inputs])
    assert all(torch.isfinite(torch.tensor(p.gain)) and p.gain <= 0 for p in found)
    if name != "HiddenCount":  # whose branch is multiplied by zero
        worth = {p.edit.group: p.gain for p in found if p.gain < 0}
        assert worth.keys() == {p.edit.group for p in found}
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[key]), key


def _floats(result):
    leaves = torch.utils._pytree.tree_leaves(result)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]
