"""Distillation against the formula, a loop over samples and classes."""

import copy
import math
import threading
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ramify.errors import RamifyError
from ramify.relax import distilled
from ramify.relax.distillation import divergence, takes_softmax, teacher_of
from ramify.train.epoch import cross_entropy


def by_hand(student, teacher, temperature):
    def soft(row):
        powers = [math.exp(value / temperature) for value in row]
        return [power / sum(powers) for power in powers]

    pairs = zip(teacher.tolist(), student.tolist(), strict=True)
    return [
        sum(q * math.log(q / p) for q, p in zip(soft(t), soft(s), strict=True)) for t, s in pairs
    ]


def nets():
    teacher = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    teacher(torch.randn(20, 5))  # so that its running statistics are not those of the batch
    return nn.Linear(5, 3), teacher.train()


@pytest.mark.parametrize("temperature, weight", [(4.0, 1.0), (1.5, 0.3)])
def test_is_the_loss_plus_the_divergence(temperature, weight):
    (student, teacher), batch = nets(), (torch.randn(7, 5), torch.randint(3, (7,)))
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    losses = distilled(cross_entropy, teacher, temperature, weight)(student, batch)
    assert teacher.training
    assert teacher[2].training
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    target = teacher.eval()(batch[0])
    expected = torch.tensor(by_hand(student(batch[0]), target, temperature))
    torch.testing.assert_close(losses, cross_entropy(student, batch) + weight * expected)
    losses.sum().backward()
    assert student.weight.grad is not None
    assert teacher[0].weight.grad is None
    assert not student._forward_hooks


def test_outputs_that_hold_logits():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(5, 3)

        def forward(self, x):
            return SimpleNamespace(logits=self.head(x))

    def loss(model, batch):
        return nn.functional.cross_entropy(model(x=batch[0]).logits, batch[1], reduction="none")

    student, teacher = Wrapped(), Wrapped()
    batch = torch.randn(4, 5), torch.randint(3, (4,))
    expected = loss(student, batch) + torch.tensor(
        by_hand(student.head(batch[0]), teacher.head(batch[0]), 4.0)
    )
    torch.testing.assert_close(distilled(loss, teacher)(student, batch), expected)


def test_what_it_refuses():
    student, teacher = nets()
    batch = torch.randn(4, 5), torch.randint(3, (4,))
    with pytest.raises(RamifyError, match="temperature is 0"):
        distilled(cross_entropy, teacher, temperature=0)
    with pytest.raises(RamifyError, match="called its model 2 times"):
        distilled(lambda m, b: m(b[0]).sum(1) + m(b[0]).sum(1), teacher)(student, batch)
    with pytest.raises(RamifyError, match="teacher of the same classes"):
        distilled(cross_entropy, nn.Linear(5, 4))(student, batch)
    with pytest.raises(RamifyError, match="the model gives shape"):
        distilled(lambda m, b: m(b[0]), nn.Identity())(nn.Flatten(0), batch)
    assert not student._forward_hooks


def test_positions_of_a_sample_count_as_one():
    """Logits (samples, positions, classes): the mean over the positions of each sample."""
    student, teacher = torch.randn(4, 6, 3), torch.randn(4, 6, 3)
    expected = torch.stack(
        [divergence(student[:, place], teacher[:, place]) for place in range(6)]
    ).mean(0)
    torch.testing.assert_close(divergence(student, teacher), expected)


class Attends(nn.Module):
    """A softmax within, as wide as the output, and none behind it."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(x).softmax(-1) @ torch.eye(3)


def by_probabilities(model, batch):
    return -model(batch[0]).softmax(1)[range(4), batch[1]].log()


SOFTMAX = {
    "cross entropy": (nn.Linear(5, 3), cross_entropy, True),
    "softmax written out": (nn.Linear(5, 3), by_probabilities, True),
    "squares": (nn.Linear(5, 3), lambda m, b: m(b[0]).square().sum(1), False),
    "softmax within": (Attends(), lambda m, b: m(b[0]).square().sum(1), False),
    "of another width": (
        nn.Linear(5, 3),
        lambda m, b: m(b[0]).sum(1) + b[0].softmax(1).sum(1),
        False,
    ),
}


@pytest.mark.parametrize("name", SOFTMAX)
def test_whether_a_loss_takes_a_softmax(name):
    model, loss, expected = SOFTMAX[name]
    batch = torch.randn(4, 5), torch.randint(3, (4,))
    assert takes_softmax(model, loss, batch) is expected
    assert not model._forward_hooks


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_script_has_no_hooks_and_no_teacher():
    student, batch = torch.jit.script(nn.Linear(5, 3)), (torch.randn(7, 5), torch.randint(3, (7,)))
    assert not takes_softmax(student, cross_entropy, batch)
    with pytest.raises(RamifyError, match="train without a teacher"):
        distilled(cross_entropy, nn.Linear(5, 3))(student, batch)


class Remembering(nn.Module):
    """Keeps features of its last run, in an attribute and in a list, with their history."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 4), nn.Linear(4, 3)
        self.seen = [None]

    def forward(self, x):
        self.features = torch.relu(self.first(x))
        self.seen[0] = self.features
        return self.second(self.features)


def old_weight_norm():
    return nn.Sequential(nn.utils.weight_norm(nn.Linear(5, 4)), nn.ReLU(), nn.Linear(4, 3))


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("build", [Remembering, old_weight_norm])
def test_a_teacher_is_a_copy_of_any_trained_model(build):
    model, x = build(), torch.randn(6, 5)
    expected = model(x)
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(model)
    teacher = teacher_of(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(teacher(x), expected)
    if build is Remembering:
        assert teacher.features.shape == (6, 4)
        assert model.features.requires_grad


def test_a_model_that_cannot_be_copied_is_no_teacher():
    model = nn.Linear(5, 3)
    model.lock = threading.Lock()
    with pytest.raises(RamifyError, match="no copy of it can be made .*TypeError.*teacher=None"):
        teacher_of(model)
