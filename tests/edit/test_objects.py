"""What graphs, edits and proposals look like, and that they are taken as they are."""

import copy

import pytest
import torch
from torch import nn

import ramify
from ramify.methods import Proposal


def traced():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    return net, ramify.trace(net, torch.randn(3, 4))


def loss(model, x):
    return model(x).square().mean(1)


def test_proposals_are_applied_as_their_edits_are():
    net, graph = traced()
    other = copy.deepcopy(net)
    proposals = ramify.SplittingDescent().propose(graph, loss, [graph.inputs])[:2]
    edits = [proposal.edit for proposal in proposals]
    ramify.apply(ramify.trace(other, graph.inputs), edits)
    graph = ramify.apply(graph, proposals)
    assert graph["0"].width == 8
    assert all(map(torch.equal, net.state_dict().values(), other.state_dict().values()))
    assert ramify.apply(graph, ramify.L1().propose(graph)[0])["0"].width == 7


@pytest.mark.parametrize("wrong", [3, ["0"], [None], "Prune"])
def test_what_is_no_edit_is_refused(wrong):
    _, graph = traced()
    with pytest.raises(ramify.RamifyError, match="an edit must be a Prune, Split, Drop or Insert"):
        ramify.apply(graph, wrong)
    assert graph["0"].width == 6


@pytest.mark.parametrize("method", [ramify.L1(), ramify.RandomSplit(), ramify.Net2Net()])
def test_methods_that_look_at_no_data_need_none(method):
    _, graph = traced()
    found = method.propose(graph)
    assert [p.edit.channel for p in found] == [
        p.edit.channel for p in method.propose(graph, loss, [graph.inputs])
    ]
    assert {proposal.edit.channel for proposal in found} == set(range(6))


def test_reprs_are_short():
    _, graph = traced()
    said = "<ChannelGraph of Sequential: 2 groups, 1 can be pruned, 1 can be split>"
    assert repr(graph) == said
    [first, *_] = ramify.SplittingDescent().propose(graph, loss, [graph.inputs])
    assert isinstance(first, Proposal)
    assert len(repr(first)) < 300
    assert "'0.weight': (2, 4)" in repr(first.edit)
    assert repr(ramify.Split("0", 2)) == "Split('0', 2, weights=(0.5, 0.5))"


def test_a_notebook_shows_the_table_with_names_escaped():
    _, graph = traced()
    shown = graph._repr_html_()
    assert shown.count("<tr>") == 1 + len(graph.groups)
    assert "it is an output of the model" in shown
    graph.groups[0] = ramify.ChannelGroup(**{**vars(graph.groups[0]), "name": "<script>"})
    assert "<script>" not in graph._repr_html_()
