"""A cut for a while: what is written to is a copy, and nothing is copied twice."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ramify
from ramify.refit.outcome import cut_for_now
from ramify.tracing.recorder import tensors_of
from ramify.tracing.writes import storage_of
from tests.checks import snapshot


def prepared():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1)
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 5)).eval()
    return net, ramify.trace(net, torch.randn(1, 3, 6, 6))


@pytest.mark.parametrize("edits", [[], [ramify.Prune("0", 2)], [ramify.Prune("3", 1)]])
def test_every_tensor_is_another_for_a_while(edits):
    net, graph = prepared()
    before = snapshot(net)
    own = {name: storage_of(tensor) for name, tensor in tensors_of(net).items()}
    with cut_for_now(graph, edits) as reference:
        for name, tensor in tensors_of(net).items():
            assert storage_of(tensor) not in own.values()
            if isinstance(tensor, nn.Parameter):  # the network as it was takes no memory
                assert storage_of(reference.values[name]) == own[name]
            else:
                assert storage_of(reference.values[name]) not in own.values()
            with torch.no_grad():
                tensor.fill_(7)
    assert snapshot(net) == before
    assert {name: storage_of(tensor) for name, tensor in tensors_of(net).items()} == own


def test_an_error_gives_everything_back():
    net, graph = prepared()
    before = snapshot(net)

    def interrupted():
        with cut_for_now(graph, [ramify.Prune("0", 2)]):
            nn.init.zeros_(net[5].weight)
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert snapshot(net) == before
