"""Rows that the data choose: what reads them is not compared, and all else is refitted."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import ramify
from ramify.refit import Reference, Takeover, refit_readers
from ramify.refit.player import Player
from ramify.refit.readers import course_of
from ramify.refit.routing import rows_by_data
from ramify.tracing.recorder import call, record, tensors_of
from tests.structures.experts import ListedExperts


def model_and_batches():
    """Experts of which each batch is given others."""
    torch.manual_seed(3)
    model = ListedExperts().double().eval()
    with torch.no_grad():
        model.router.weight.mul_(4)
    batches = list(torch.randn(12, 6).double().split(2))
    hit = [{name for name in chosen(model, x) if name.startswith("experts")} for x in batches]
    assert len({frozenset(names) for names in hit}) > 1
    return model, batches


def chosen(model, x):
    """The readers of a run by name: those on rows that the data chose."""
    tape = record(model, lambda: call(model, x), x)
    found = rows_by_data(tape)
    return {reader.name for reader in course_of(tape).readers if reader.source in found}


def test_what_reads_the_rows_of_an_expert_is_found():
    model, batches = model_and_batches()
    for x in batches:
        names = chosen(model, x)
        assert names
        assert all(name.startswith("experts") for name in names)


def test_rows_that_are_looked_up_at_fixed_places_are_their_own():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x):
            x = self.a(x)
            return self.b(x[:, torch.arange(3, -1, -1)] + 0 * x)

    assert chosen(Fixed(), torch.randn(2, 4, 4)) == set()


def test_experts_stay_as_they_are_and_the_rest_takes_over():
    model, batches = model_and_batches()
    graph = ramify.trace(model, batches[0])
    full, reference = copy.deepcopy(model), Reference(graph)
    edits = [ramify.Prune("stem", c) for c in (1, 4)]
    reference.follow(graph, edits)
    ramify.apply(graph, edits)
    plain = copy.deepcopy(model)
    found = refit_readers(model, reference, batches)
    assert {one.name for one in found} == {"stem.weight", "router.weight", "head.weight"}
    for name, tensor in plain.named_parameters():
        if name.startswith("experts"):
            assert torch.equal(tensor, model.get_parameter(name))
    x = torch.cat(batches)
    before, after = ((net(x) - full(x)).square().mean() for net in (plain, model))
    assert after < before


def test_experts_that_a_batch_does_not_reach_are_scored_from_the_others():
    model, batches = model_and_batches()
    graph = ramify.trace(model, batches[0])
    loss = lambda m, x: m(x).square().sum(1)  # noqa: E731
    proposals = Takeover().propose(graph, loss, batches)
    assert {p.edit.group for p in proposals} >= {"stem"}
    ramify.cut(graph, loss, batches, budget={"params": 0.8 * params(model)})


class HitExperts(nn.Module):
    """A loop over the experts that were hit, as many as the data say."""

    def __init__(self):
        super().__init__()
        self.router = nn.Linear(4, 3, bias=False)
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x):
        chosen = self.router(x).argmax(1)
        out = torch.zeros_like(x)
        for number in torch.bincount(chosen, minlength=3).nonzero().flatten().unbind():
            rows = torch.where(chosen == number)[0]
            out = out.index_add(0, rows, self.experts[int(number)](x[rows]))
        return out


def test_a_run_that_chooses_otherwise_is_a_sentence():
    torch.manual_seed(0)
    model, x = HitExperts(), torch.eye(4)[:3]
    with torch.no_grad():
        model.router.weight.copy_(torch.eye(4)[:3])  # each row its own expert
    tape = record(model, lambda: call(model, x), x)
    tensors = {name: tensor.detach().clone() for name, tensor in tensors_of(model).items()}
    Player(tape, tensors).advance(len(tape.ops))
    tensors["router.weight"].zero_()  # all rows to the first
    with pytest.raises(ramify.RamifyError, match=r"chooses otherwise \(aten::"):
        Player(tape, tensors).advance(len(tape.ops))


def params(model):
    return sum(p.numel() for p in model.parameters())
