"""What is left where something raises once a cut has been chosen."""

import warnings

import pytest
import torch
from torch import nn

import ramify
from ramify.refit import cut, outcome
from tests.nets import per_sample


def trained():
    """A network that has made a step, its data and its optimizer."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 5))
    x = torch.randn(64, 16)
    data = x, net(x).argmax(1)
    optimizer = torch.optim.Adam(net.parameters())
    per_sample(net, data).mean().backward()
    optimizer.step()
    return net, data, optimizer


@pytest.mark.parametrize("where", ["warning", "log"])
def test_after_a_warning_or_a_log_that_raises_model_and_optimizer_still_fit(where):
    net, data, optimizer = trained()

    def log(report):
        raise RuntimeError("the disk is full")

    graph, budget = ramify.trace(net, data[0][:2]), {"params": 140}
    with warnings.catch_warnings():
        warnings.simplefilter("error" if where == "warning" else "ignore")
        report = log if where == "log" else None
        with pytest.raises((UserWarning, RuntimeError)):
            cut(graph, per_sample, [data], budget=budget, keep=4, optimizer=optimizer, log=report)
    assert (net[0].out_features < 64) == (where == "log")
    for parameter in net.parameters():
        assert optimizer.state[parameter]["exp_avg"].shape == parameter.shape
    optimizer.step()


def test_an_error_while_weights_are_put_leaves_all_as_it_was(monkeypatch):
    """The edit is made by then, and optimizer, average and graph have followed it."""
    net, data, optimizer = trained()
    average = torch.optim.swa_utils.AveragedModel(net)
    graph = ramify.trace(net, data[0][:2])

    def values():
        state = [optimizer.state[parameter] for parameter in net.parameters()]
        moments = [table[name] for table in state for name in ("step", "exp_avg", "exp_avg_sq")]
        return [t.clone() for t in (*net.parameters(), *average.parameters(), *moments)]

    def fail(outcome, model):
        assert model[0].out_features < 64
        raise MemoryError

    before = values()
    monkeypatch.setattr(outcome.Outcome, "put", fail)
    with pytest.raises(MemoryError):
        cut(
            graph,
            per_sample,
            [data],
            budget={"params": 140},
            keep=4,
            optimizer=optimizer,
            followers=[average],
        )
    assert all(map(torch.equal, values(), before))
    optimizer.step()
