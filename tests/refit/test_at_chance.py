"""The loss at chance: closed forms, several outputs, and data that are sorted by class."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import nn

import ramify
from ramify.refit import cut
from ramify.refit.at_chance import FACTORS, MOST, constant_loss
from tests.refit.trained import batches, loss, task


class Heads(nn.Module):
    """Two heads: the second is the last reader, and its loss is small."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 16), nn.ReLU(inplace=True))
        self.classes, self.size = nn.Linear(16, 4), nn.Linear(16, 1)
        self.unused = nn.Linear(16, 3)

    def forward(self, x):
        made = self.trunk(x)
        size = self.size(made).relu_()
        return {"classes": self.classes(made), "size": size, "unused": self.unused(made)}


def test_a_model_that_ignores_its_input_gives_one_answer_at_each_head():
    torch.manual_seed(0)
    net = Heads()
    x = torch.randn(64, 6)
    made = net.trunk(x)
    means = [head(made).mean(0, keepdim=True) for head in (net.classes, net.size)]
    y = net.classes(made).argmax(1)

    def of(classes, size):
        lost = nn.functional.cross_entropy(classes.expand(64, -1), y, reduction="none")
        return lost + 0.1 * (size - 1.0).square().expand(64, 1).squeeze(1)

    def loss(model, batch):
        given = model(batch)
        return of(given["classes"], given["size"])

    expected = [float(of(k * means[0], (k * means[1]).relu()).mean()) for k in FACTORS]
    assert constant_loss(net, loss, [x]) == pytest.approx(min(expected), rel=1e-6)
    assert float(loss(net, x).mean()) < min(expected)


def knowing_frequencies(labels):
    """Inputs with a mean of 0, and a network whose mean answers are the labels' log-frequencies."""
    torch.manual_seed(0)
    frequencies = torch.bincount(labels).double() / len(labels)
    x = torch.randn(len(labels), 6, dtype=torch.float64)
    net = nn.Sequential(nn.Linear(6, 8), nn.Identity(), nn.Linear(8, len(frequencies))).double()
    with torch.no_grad():
        net[2].bias.copy_(frequencies.log() - net[2](net[0](x)).mean(0) + net[2].bias)
    return net, x, float(-(frequencies * frequencies.log()).sum())


@pytest.mark.parametrize("size", [500, 100, 70, 1])
def test_sorted_data_have_the_entropy_of_their_labels(size):
    """Up to sampling in batches of 70 samples, and of one, since 16 batches are measured."""
    labels = torch.arange(4).repeat_interleave(torch.tensor([40, 260, 400, 800]))
    net, x, entropy = knowing_frequencies(labels)
    mixed = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    in_order, shuffled = (
        constant_loss(net, loss, batches((x[order], labels[order]), size))
        for order in (torch.arange(len(labels)), mixed)
    )
    if len(labels) <= MOST * size:
        assert in_order == pytest.approx(shuffled, rel=1e-12)
        assert in_order == pytest.approx(entropy, rel=1e-12)
    assert in_order == pytest.approx(entropy, rel=0.05 if size > 1 else 0.15)


def test_a_sure_classifier_of_unequal_classes_has_nearly_the_entropy_of_its_labels():
    """Its mean logits are far larger than those of the frequencies, and 0 are equal frequencies."""
    torch.manual_seed(0)
    x = torch.randn(1024, 8)
    scores = (x @ torch.randn(8, 1))[:, 0]
    y = (scores > scores.quantile(0.95)).long()
    net = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 2))
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(200):
        optimizer.zero_grad()
        loss(net, (x, y)).mean().backward()
        optimizer.step()
    share = float(y.double().mean())
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    order = y.argsort()
    found = constant_loss(net, loss, batches((x[order], y[order])))
    assert entropy <= found < 1.12 * entropy < 0.4 * math.log(2)


def test_the_loss_of_a_regression_at_chance_is_the_variance_of_its_targets():
    torch.manual_seed(0)
    x = torch.randn(300, 5, dtype=torch.float64)
    y = (x @ torch.randn(5, 1, dtype=torch.float64) + 3.0).sort(0)
    x, y = x[y.indices[:, 0]], y.values
    net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    with torch.no_grad():
        net[2].bias.add_(y.mean() - net(x).mean())
    square = lambda model, batch: (model(batch[0]) - batch[1]).square().mean(1)  # noqa: E731
    found = constant_loss(net, square, batches((x, y), 64))
    assert found == pytest.approx(float(y.var(correction=0)), rel=1e-12)


def test_a_cut_on_sorted_data_is_that_on_shuffled_data():
    """The first batches have one class: of them alone, the network is as good as at chance."""
    net, data, _ = task()
    order = data[1].argsort()
    x, y = data[0][order], data[1][order]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cut(ramify.trace(net, x[:1]), loss, batches((x, y), 64), budget={"macs": "60%"})


def test_chance_is_unknown_of_three_samples_and_where_no_answer_has_a_finite_loss():
    net, data, _ = task()
    known = constant_loss(net, loss, batches([part[:4] for part in data], 1))
    assert 0 < known < math.inf
    assert constant_loss(net, loss, batches([part[:3] for part in data], 1)) == math.inf

    def varied(model, batch):
        made = model(batch[0])
        return loss(model, batch) / made.var(0).sum().sign()

    assert constant_loss(net, varied, batches(data)) == math.inf
    assert constant_loss(nn.ReLU(), lambda model, x: model(x).sum(1), [data[0]]) == math.inf
