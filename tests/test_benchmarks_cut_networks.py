"""Training that goes on, and the comparison, on a task of a few hundred random samples."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from benchmarks.cut.tuning import Recipe
from benchmarks.cut_networks.comparison import Comparison, table
from benchmarks.cut_networks.networks import Network
from benchmarks.cut_networks.task import Task, accuracy_and_loss, loss
from benchmarks.cut_networks.training import Training, smaller, train
from ramify.data.batching import seeded


def network():
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 12, 3, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 4),
    )


def task():
    x = torch.randn(192, 3, 8, 8, generator=seeded(0, 0))
    y = torch.randint(4, (192,), generator=seeded(0, 1))
    x[torch.arange(192), y % 3] += (1 + y)[:, None, None]  # a task that can be learned

    def passed(seed, epoch):
        order = torch.randperm(128, generator=seeded(seed, epoch))
        return ((x[at], y[at]) for at in order.split(32))

    kept = [(x[:64], y[:64])]
    return Task(network, passed, passed, lambda seed: kept, kept, kept, [(x[128:], y[128:])])


TRAINING = Training(epochs=4, lr=0.2, decay=1e-4, small=(1,))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    file = tmp_path_factory.mktemp("trained") / "weights.safetensors"
    train(task(), TRAINING, file)
    return file


def test_training_learns_and_goes_on_where_it_was_stopped(weights, tmp_path):
    model = network()
    model.load_state_dict(load_file(weights))
    assert accuracy_and_loss(model, task().test)[0] > 60
    other = tmp_path / "weights.safetensors"

    class Stopped(Exception):
        pass

    def stopping(seed, epoch):
        if epoch == 2:
            raise Stopped
        return task().batches(seed, epoch)

    with pytest.raises(Stopped):
        train(replace(task(), batches=stopping), TRAINING, other)
    assert not other.exists()
    train(task(), TRAINING, other)
    first, second = load_file(weights), load_file(other)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_rows_are_kept_and_the_table_takes_the_rate_that_does_best_on_samples_to_choose_by(
    weights, tmp_path
):
    kind, out = Network(task, TRAINING), tmp_path / "rows.jsonl"
    recipes = [None, Recipe(lr=0.01, epochs=1), Recipe(lr=0.02, epochs=1)]
    comparison = Comparison(kind, weights, out)
    rows = list(comparison.run("cut", 0.5, 0, recipes))
    assert [row["recipe"] and row["recipe"]["lr"] for row in rows] == [None, 0.01, 0.02]
    assert all(row["macs"] <= 0.5 for row in rows)
    again = Comparison(kind, weights, out)
    assert again.rows == rows
    assert not list(again.run("cut", 0.5, 0, recipes))
    rows[1]["held"], rows[2]["held"] = 50.0, 60.0
    rows[2]["accuracy"] = 12.3
    assert "| 12.3 |" in table(rows)
    assert "| 0.02 |" in table(rows)


def test_a_peer_that_fails_is_a_row_with_its_reason(weights, tmp_path, monkeypatch):
    def broken(*args):
        raise ValueError("not enough values to unpack")

    monkeypatch.setattr("benchmarks.cut_networks.comparison.pruned", broken)
    comparison = Comparison(Network(task, TRAINING), weights, tmp_path / "rows.jsonl")
    [row] = comparison.run("TP L1 layer", 0.5, 0, [None])
    assert row["why"] == "ValueError: not enough values to unpack"
    assert "not enough values" in table(comparison.rows)
    with pytest.raises(ValueError, match="not enough values"):
        list(comparison.run("cut", 0.5, 0, [None]))


def test_losses_are_one_a_sample_and_smaller_images_keep_their_classes():
    logits = torch.randn(5, 7, 3)
    classes = torch.randint(3, (5, 7))
    expected = -logits.log_softmax(-1).gather(2, classes[..., None])[..., 0].mean(1)
    torch.testing.assert_close(loss(nn.Identity(), (logits, classes)), expected)
    right = (logits.argmax(2) == classes).double().mean()
    assert accuracy_and_loss(nn.Identity(), [(logits, classes)])[0] == pytest.approx(
        100 * float(right)
    )
    images, same = smaller((torch.randn(2, 3, 32, 32), classes[0]))
    assert images.shape == (2, 3, 24, 24)
    assert same is classes[0] or torch.equal(same, classes[0])
