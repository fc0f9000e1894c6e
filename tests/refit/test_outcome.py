"""A cut for a while: what is written to is a copy, and nothing is copied twice."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ramify
from ramify.refit.outcome import cut_for_now, outcome_of
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


def test_the_error_of_the_rise_is_that_of_a_mean():
    net, graph = prepared()
    batches = [(x, net(x).argmax(1)) for x in torch.randn(2, 20, 3, 6, 6)]
    loss = lambda model, batch: F.cross_entropy(model(batch[0]), batch[1], reduction="none")  # noqa: E731
    outcome = outcome_of(graph, [ramify.Prune("0", 2)], loss, batches, batches)
    x, y = (torch.cat(part) for part in zip(*batches, strict=True))
    before = loss(net, (x, y)).detach()
    graph = ramify.apply(graph, outcome.edits)
    outcome.put(net)
    rises = loss(net, (x, y)).detach() - before
    assert outcome.start == pytest.approx(float(before.mean()), rel=1e-5)
    assert outcome.sample_loss - outcome.start == pytest.approx(float(rises.mean()), rel=1e-3)
    expected = float(rises.std(correction=0)) / math.sqrt(40)
    assert outcome.error == pytest.approx(expected, rel=1e-3)
    assert expected > 1e-3


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
