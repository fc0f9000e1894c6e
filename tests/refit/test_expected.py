"""The expected rise of a cut, against copies really cut and refitted on half the sample."""

from __future__ import annotations

import copy
import math

import pytest
import torch

import ramify
from ramify.refit import Reference, refit_readers
from ramify.refit.expected import expected_rise
from ramify.refit.outcome import outcome_of
from tests.checks import snapshot
from tests.nets import per_sample
from tests.refit.networks import Residual


def prepared(batches=3):
    torch.manual_seed(0)
    net = Residual().double()
    data = [(torch.randn(8 + n, 3, 8, 8).double(), torch.randint(0, 4, (8 + n,))) for n in range(4)]
    for x, _ in data:
        net(x)
    graph = ramify.trace(net.eval(), data[0][0][:1])
    edits = [ramify.Prune("stem", 0), ramify.Prune("stem", 5), ramify.Prune("blocks.0.0", 2)]
    return graph, edits, data[:batches]


def summed(net, data):
    with torch.no_grad():
        return sum(float(per_sample(net, batch).sum()) for batch in data)


@pytest.mark.parametrize("refit", [True, False])
def test_no_sample_is_measured_where_it_was_refitted(refit):
    graph, edits, data = prepared()
    outcome = outcome_of(graph, edits, per_sample, data, data, refit=refit)
    before = snapshot(graph.model)
    found = expected_rise(graph, outcome, per_sample, data)
    assert snapshot(graph.model) == before
    strengths = {one.name: [one.strength] for one in outcome.refitted if one.strength > 0}
    across = 0.0
    for seen, unseen in (([data[0], data[2]], [data[1]]), ([data[1]], [data[0], data[2]])):
        other = copy.deepcopy(graph.model)
        its_graph = ramify.trace(other, data[0][0][:1])
        reference = Reference(its_graph)
        reference.follow(its_graph, edits)
        ramify.apply(its_graph, edits)
        if refit:
            refit_readers(other, reference, seen, per_sample, strengths=strengths)
        across += summed(other, unseen) - summed(graph.model, unseen)
    count = sum(len(y) for _, y in data)
    inside = outcome.loss - summed(graph.model, data) / count
    assert found == pytest.approx(inside / 3 + 2 / 3 * across / count, abs=1e-9)


def test_a_loss_that_is_not_finite_on_a_half_is_expected_to_rise_without_bound():
    graph, edits, data = prepared()
    outcome = outcome_of(graph, edits, per_sample, data, data)
    before = snapshot(graph.model)
    infinite = lambda model, batch: per_sample(model, batch) / 0  # noqa: E731
    assert expected_rise(graph, outcome, infinite, data) == math.inf
    assert snapshot(graph.model) == before


def test_one_batch_has_no_halves():
    graph, edits, data = prepared(1)
    outcome = outcome_of(graph, edits, per_sample, data, data)
    assert math.isnan(expected_rise(graph, outcome, per_sample, data))
