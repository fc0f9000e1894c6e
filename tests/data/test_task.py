"""Losses and metrics of the tasks, against sums that are written out here."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ramify.commands.settings import TASKS as NAMED
from ramify.data import Metric, as_dataset
from ramify.data.metric import ACCURACY
from ramify.data.task import TASKS, task_named
from ramify.errors import RamifyError
from ramify.train.epoch import evaluate


class Says(nn.Module):
    """A network whose outputs are looked up by its input, as a number of a sample."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, numbers: Tensor) -> Tensor:
        return self.outputs[numbers]


def measured(task: str, outputs: Tensor, labels: Tensor, size: int = 3) -> tuple[float, float]:
    numbers = torch.arange(len(labels))
    batches = list(zip(numbers.split(size), labels.split(size), strict=True))
    return evaluate(Says(outputs), batches, task_named(task))


def test_the_names_of_the_command_line_are_those_of_the_tasks() -> None:
    assert tuple(TASKS) == NAMED


@pytest.mark.parametrize("shape", [(7,), (7, 3)])
def test_regression(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    labels = 5 + torch.randn(shape)
    outputs = labels.reshape(7, -1) + 0.5 * torch.randn(7, labels[0].numel())
    loss, r2 = measured("regression", outputs, labels)
    y, f = labels.reshape(7, -1).double().numpy(), outputs.double().numpy()
    assert loss == pytest.approx(((y - f) ** 2).mean(), rel=1e-6)
    each = 1 - ((y - f) ** 2).sum(0) / ((y - y.mean(0)) ** 2).sum(0)
    assert r2 == pytest.approx(each.mean(), rel=1e-5)
    one = task_named("regression").loss(Says(outputs), (torch.arange(7), labels))
    torch.testing.assert_close(one, torch.from_numpy(((y - f) ** 2).mean(1)).float())
    _, constant = measured("regression", outputs, torch.full_like(labels, 3.25))
    assert constant == 0.0


def test_segmentation() -> None:
    torch.manual_seed(0)
    scores, labels = torch.randn(7, 3, 4, 5), torch.randint(3, (7, 4, 5))
    labels[labels == 2] = 1  # a class that only predictions have
    labels[0, :2], labels[3] = -100, -100  # of a sample nothing counts
    loss, iou = measured("segmentation", scores, labels)
    each = []
    for sample, wanted in zip(scores, labels, strict=True):
        pixels = [
            float(cross_entropy(sample[:, i, j][None], wanted[i, j][None]))
            for i in range(4)
            for j in range(5)
            if wanted[i, j] != -100
        ]
        each.append(sum(pixels) / max(len(pixels), 1))
    assert loss == pytest.approx(sum(each) / 7, rel=1e-5)
    counted, found = labels != -100, scores.argmax(1)
    shares = []
    for k in range(3):
        a, b = (found == k) & counted, (labels == k) & counted
        shares.append(int((a & b).sum()) / int((a | b).sum()))
    assert iou == pytest.approx(sum(shares) / 3)


def test_text() -> None:
    torch.manual_seed(0)
    scores, labels = torch.randn(7, 4, 6), torch.randint(6, (7, 4))
    labels[2, 1:] = -100
    loss, perplexity = measured("text", scores, labels)
    log_p = scores.log_softmax(-1)
    tokens = [
        [-float(log_p[s, t, labels[s, t]]) for t in range(4) if labels[s, t] != -100]
        for s in range(7)
    ]
    assert loss == pytest.approx(sum(sum(own) / len(own) for own in tokens) / 7, rel=1e-5)
    every = [one for own in tokens for one in own]
    assert perplexity == pytest.approx(math.exp(sum(every) / len(every)), rel=1e-5)


@pytest.mark.parametrize(("task", "shape"), [("segmentation", (6, 2, 2)), ("text", (6, 3))])
def test_labels_are_smoothed_as_torch_does(task: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    labels = torch.randint(4, shape)
    scores = torch.randn(6, 4, *shape[1:])
    outputs = scores if task == "segmentation" else scores.transpose(1, 2)
    found = task_named(task).loss(Says(outputs), (torch.arange(6), labels), 0.2)
    each = cross_entropy(scores, labels, reduction="none", label_smoothing=0.2)
    torch.testing.assert_close(found, each.flatten(1).mean(1))


def test_outputs_may_be_the_logits_of_an_object() -> None:
    class Wrapped(Says):
        def forward(self, numbers: Tensor) -> object:
            return SimpleNamespace(logits=super().forward(numbers))

    scores, labels = torch.randn(5, 3), torch.randint(3, (5,))
    batch = torch.arange(5), labels
    found = [evaluate(net(scores), [batch]) for net in (Says, Wrapped)]
    assert found[0] == found[1]


def test_how_a_metric_is_written() -> None:
    plain, less = Metric("r2", "R²"), Metric("mae", "error", higher=False)
    assert (plain.text(0.93125), plain.text(0.93125, 0.0021)) == ("0.9313", "0.9313 ± 0.0021")
    assert [less.text(value) for value in (12.345, 1234.5, 0.00012, 0.0)] == [
        *("12.35", "1234", "0.0001"),
        "0.000",
    ]
    assert plain.difference(0.5, 0.75) == "−0.2500"
    assert (ACCURACY.change(0.5, 0.25), plain.axis) == ("50.00 -> 25.00 %", "test R²")
    for metric in (plain, less):
        assert Metric.of(metric.tags()) == metric
    assert (ACCURACY.tags(), Metric.of({})) == ({}, ACCURACY)


# ------------------------------------------------------------------ what an object is for


def made(x: object, y: object = None, **others: object) -> SimpleNamespace:
    parts = {"x_train": x, "x_test": x} | ({} if y is None else {"y_train": y, "y_test": y})
    return SimpleNamespace(**parts, **others)


ROWS, IMAGES = np.random.default_rng(0).normal(size=(6, 4)), np.ones((6, 2, 5, 5))
TOKENS = np.arange(30).reshape(6, 5) % 9


@pytest.mark.parametrize(
    ("source", "task", "shape", "classes"),
    [
        (made(ROWS, np.arange(6) % 3), "classification", (6,), ("0", "1", "2")),
        (made(ROWS, ROWS[:, 0]), "regression", (6,), ("target",)),
        (made(ROWS, ROWS[:, :2]), "regression", (6, 2), ("target 0", "target 1")),
        (made(ROWS, ROWS[:, :2], classes=["a", "b"]), "regression", (6, 2), ("a", "b")),
        (made(ROWS, np.arange(6), task="regression"), "regression", (6,), ("target",)),
        (made(IMAGES, np.arange(150).reshape(6, 5, 5) % 4), "segmentation", (6, 5, 5), "0123"),
        (made(TOKENS, TOKENS), "text", (6, 5), "012345678"),
        (made(TOKENS), "text", (6, 4), "012345678"),
        (made(TOKENS, np.arange(6) % 2, task="classification"), "classification", (6,), "01"),
    ],
)
def test_the_labels_say_what_data_are_for(
    source: SimpleNamespace, task: str, shape: tuple[int, ...], classes: tuple[str, ...]
) -> None:
    dataset = as_dataset(source, "mine")
    assert (dataset.task.name, tuple(dataset.y_train.shape)) == (task, shape)
    assert dataset.classes == tuple(classes)
    assert dataset.y_train.is_floating_point() == (task == "regression")
    assert dataset.x_train.is_floating_point() == (source.x_train is not TOKENS)


def test_without_labels_the_next_token_is_the_label() -> None:
    dataset = as_dataset(made(TOKENS), "mine")
    np.testing.assert_array_equal(dataset.x_train, TOKENS[:, :-1])
    np.testing.assert_array_equal(dataset.y_test, TOKENS[:, 1:])


def test_a_task_that_is_named_counts_before_that_of_the_object() -> None:
    source = made(ROWS, np.arange(6) % 3, task="classification")
    named = as_dataset(as_dataset(source, "mine"), "mine", "regression")
    assert (named.task.name, named.y_train.dtype) == ("regression", torch.float32)


def absolute(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (model(batch[0])[:, 0] - batch[1]).abs()


def largest(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> float:
    return max(float(absolute(model, batch).max()) for batch in batches)


def test_a_loss_and_a_metric_of_ones_own() -> None:
    found = as_dataset(made(ROWS, ROWS[:, 0], loss=absolute, metric=largest), "mine").task
    outputs, labels = torch.randn(5, 1), torch.randn(5)
    parts = [(torch.arange(5)[k], labels[k]) for k in (slice(3), slice(3, 5))]
    loss, value = evaluate(Says(outputs), parts, found)
    errors = (outputs[:, 0] - labels).abs()
    assert (loss, value) == (pytest.approx(float(errors.mean())), float(errors.max()))
    assert (found.metric.key, found.metric.higher) == ("largest", True)
    metric = Metric("worst", "largest error", higher=False, measure=largest)
    only = as_dataset(made(ROWS, ROWS[:, 0], metric=metric), "mine").task
    assert evaluate(Says(outputs), parts, only) == (
        pytest.approx(float(errors.square().mean())),
        value,
    )
    own = as_dataset(made(ROWS, ROWS[:, :, None], loss=absolute), "mine")
    assert (own.task.name, own.classes, own.task.metric.key) == ("own", ("output",), "loss")
    assert evaluate(Says(outputs), parts, own.task) == (loss, loss)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (made(ROWS, np.ones(6)), "training samples that all have the same target"),
        (made(ROWS, ROWS[:, 0] * np.nan), "6 training samples whose target is not finite"),
        (made(ROWS, ROWS[:, :, None]), r"shape \(6, 4, 1\) .* takes floating-point targets"),
        (made(ROWS, ROWS[:, 0], task="regresion"), "no task 'regresion' .did you mean 'regressi"),
        (made(ROWS, ROWS[:, 0], task="classification"), "takes one whole number a sample"),
        (made(ROWS, np.ones((6, 5, 5), int)), r"takes a whole number from 0 for each pixel"),
        (made(IMAGES, np.zeros((6, 5, 5), int)), "every label of mine is 0"),
        (made(IMAGES, -np.ones((6, 5, 5), int)), "training labels from -1 to -1"),
        (made(ROWS, TOKENS, task="text"), "takes numbers of tokens from 0"),
        (made(TOKENS, TOKENS[:, 1:], task="text"), "the next token at each place"),
        (made(TOKENS[:, :1]), "sequences of one token and no labels"),
        (made(ROWS, ROWS[:, :2], classes=["a"]), "1 names of targets for 2 targets"),
        (made(IMAGES, np.ones((6, 5, 5), int), augment=True), "asks for augment, which crops"),
        (made(ROWS, np.arange(6) % 3, augment=True), r"asks for augment.* shape \(6, 4\) for a cl"),
        (made(ROWS, ROWS[:, 0], loss=3), "a loss that is a int: give a function"),
        (made(ROWS, ROWS[:, 0], metric=lambda model, batches: 1.0), "give a named function"),
        (made(ROWS, ROWS[:, 0], metric=Metric("loss", "loss", measure=largest)), "that of the lo"),
    ],
)
def test_what_does_not_fit_a_task_is_refused(source: SimpleNamespace, message: str) -> None:
    with pytest.raises(RamifyError, match=message):
        as_dataset(source, "mine")


def test_a_metric_that_is_no_number_is_refused() -> None:
    def nothing(model: nn.Module, batches: object) -> float:
        return math.nan

    task = as_dataset(made(ROWS, ROWS[:, 0], metric=nothing), "mine").task
    batch = torch.arange(2), torch.ones(2)
    with pytest.raises(RamifyError, match="the metric nothing gives nan, where a finite number"):
        evaluate(Says(torch.ones(2, 1)), [batch], task)

    def broken(model: nn.Module, batches: object) -> float:
        return {}["gone"]

    task = as_dataset(made(ROWS, ROWS[:, 0], metric=broken), "mine").task
    with pytest.raises(RamifyError, match="the metric broken failed .KeyError: 'gone'.: it takes"):
        evaluate(Says(torch.ones(2, 1)), [batch], task)
