"""A trained perceptron with more channels than it needs, its data, measures, and failures."""

import torch
import torch.nn.functional as F
from torch import nn


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def task(seed=0):
    """A trained perceptron with far more channels than it needs, and its data."""
    torch.manual_seed(seed)
    x = torch.randn(512, 8)
    y = (x @ torch.randn(8, 4)).argmax(1)
    net = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 4))
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(150):
        optimizer.zero_grad()
        loss(net, (x, y)).mean().backward()
        optimizer.step()
    return net, (x, y), optimizer


def batches(data, size=128):
    return list(zip(data[0].split(size), data[1].split(size), strict=True))


def mean(net, data):
    with torch.no_grad():
        return float(loss(net, data).mean())


def accuracy(net, data):
    return float((net(data[0]).argmax(1) == data[1]).float().mean())


def only_once(function, error):
    """The function, which raises an error from its second call on."""
    called = []

    def raising(*arguments, **named):
        if called:
            raise error
        called.append(True)
        return function(*arguments, **named)

    return raising
