"""The pictures of the papers: what they show is what happened."""

import copy
import dataclasses
import json
from pathlib import Path

import pytest
import torch

import ramify
from experiments.s2d.prototype import __main__ as prototype_command
from experiments.s2d.prototype import figure as prototype_figure
from experiments.s2d.prototype import study as prototype
from experiments.s3d.filters import __main__ as filter_command
from experiments.s3d.filters import figure as filter_figure
from experiments.s3d.filters import study as filters
from ramify.data import Dataset


def dataset(*shape: int) -> Dataset:
    """Two classes: noise around two fixed samples."""
    centres, labels = torch.randn(2, *shape), torch.arange(48) % 2
    samples = centres[labels] + 0.5 * torch.randn(48, *shape)
    return Dataset("two", samples[:40], labels[:40], samples[40:], labels[40:], ("a", "b"))


@pytest.fixture(scope="module")
def task() -> prototype.Task:
    torch.manual_seed(0)
    settings = prototype.Settings(prototypes=6, epochs=1, batch_size=20)
    return prototype.Task(dataset(1, 28, 28), settings)


@pytest.fixture(scope="module")
def grown(task: prototype.Task) -> prototype.Grown:
    return prototype.grow(task)


def test_one_prototype_more_each_round(grown):
    assert [len(images) for images in grown.images] == [1, 2, 3, 4, 5, 6]
    assert [len(votes) for votes in grown.votes] == [1, 2, 3, 4, 5, 6]
    assert len(grown.five.prototypes) == 5
    assert torch.equal(grown.five.prototypes, grown.images[4])
    edits = [event for event in grown.events if event["event"] == "edit"]
    for edit in edits:
        split = min(edit["proposals"], key=lambda row: row["index"])
        assert [row["channel"] for row in edit["proposals"] if row["selected"]] == [
            split["channel"]
        ]


def test_every_split_of_five_is_tried_on_a_copy(task, grown):
    before = copy.deepcopy(grown.five.state_dict())
    trials = prototype.try_splits(task, grown.five)
    assert [trial.channel for trial in trials] == [0, 1, 2, 3, 4]
    assert len({trial.decrease for trial in trials}) == 5
    for name, value in grown.five.state_dict().items():
        assert torch.equal(value, before[name])
    picture = prototype_figure.splits(grown, {0: trials})
    assert len(picture.axes) == 1
    assert len(picture.axes[0].artists) == 5
    several = prototype_figure.splits(grown, {0: trials, 1: trials})
    assert len(several.axes[1].lines) == 2 * 2  # points and a line for each seed


def test_the_correlation_is_1_where_the_eigenvalue_predicts_the_decrease():
    trials = [
        prototype.Trial(channel, -index, 3 * index) for channel, index in enumerate((1, 2, 5))
    ]
    assert prototype.correlation(trials) == pytest.approx(1)


def test_the_tree_has_a_node_for_every_split_and_every_leaf(grown):
    axes = prototype_figure.tree(grown).axes[0]
    assert len(axes.artists) == 5 + 6
    assert len(axes.lines) == 2 * 5
    spots = {tuple(box.xybox) for box in axes.artists}
    assert {(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines} <= spots
    assert {(line.get_xdata()[1], line.get_ydata()[1]) for line in axes.lines} <= spots
    ends = sorted(box.xybox[1] for box in axes.artists)
    assert ends == [0, 1, 2, 3, 4, *[5] * 6]


@pytest.fixture(scope="module")
def pictures() -> filters.Pictures:
    torch.manual_seed(0)
    settings = filters.Settings(images=40, before=1, after=1)
    return filters.study(dataset(3, 8, 8), settings)


def test_copies_lie_along_the_extreme_eigenvectors(pictures):
    first = pictures.first
    norms = first.filters.norm(dim=1, keepdim=True)
    for copies, direction in zip(pictures.copies, first.directions, strict=True):
        torch.testing.assert_close(copies[0], first.filters + 0.3 * norms * direction)
        torch.testing.assert_close(copies[1], first.filters - 0.3 * norms * direction)
    assert (first.values[0] <= first.values[1]).all()
    torch.testing.assert_close(first.directions.norm(dim=2), torch.ones(2, 12))
    assert not torch.equal(pictures.trained, pictures.copies)


def test_filters_shown_are_those_of_the_extreme_radii(pictures):
    radius = pictures.first.radius
    shown = radius[pictures.first.shown()]
    assert shown[0] == radius.max()
    assert shown[-1] == radius.min()
    assert shown.tolist() == sorted(shown.tolist(), reverse=True)


def test_distances_of_the_copies(pictures):
    still = dataclasses.replace(pictures, trained=pictures.copies)
    found = filter_figure.changes(still)
    assert found["min"] == pytest.approx([0.6] * 12, rel=1e-4)
    assert found["max"] == pytest.approx([0.6] * 12, rel=1e-4)


def test_guided_gradients_leave_the_network_as_it_was():
    net = filters.Net(2).eval()
    relus = [module for module in net.modules() if isinstance(module, torch.nn.ReLU)]
    weight = net.get_parameter(f"{filters.LAST}.weight").detach()
    image = torch.randn(1, 3, 8, 8)
    before = net(image)
    guided = filters._guided(net, {f"{filters.LAST}.weight": weight}, 1, image)
    assert guided.shape == (3, 8, 8)
    assert all(relu.inplace and not relu._backward_hooks for relu in relus)
    assert not any(relu._forward_hooks for relu in relus)
    assert torch.equal(net(image), before)


def test_guided_gradients_of_positive_weights_are_plain_gradients():
    net = filters.Net(2).eval()
    for parameter in net.parameters():
        parameter.data.abs_()
    image = torch.rand(1, 3, 8, 8)
    weight = net.get_parameter(f"{filters.LAST}.weight").detach()
    guided = filters._guided(net, {f"{filters.LAST}.weight": weight}, 1, image)
    pixels = image.clone().requires_grad_()
    (plain,) = torch.autograd.grad(net.layers(pixels)[:, 1].sum(), pixels)
    torch.testing.assert_close(guided, plain[0])
    weight = -weight.clone()
    assert filters._guided(net, {f"{filters.LAST}.weight": weight}, 1, image).abs().max() == 0


def test_pictures_have_a_row_and_a_panel_a_filter(pictures):
    assert len(filter_figure.filters(pictures).axes) == 4 * 11
    assert len(filter_figure.gradients(pictures).axes) == 1 + 4 * 9
    assert len(filter_figure.gradient_changes(pictures)) == 4


def test_the_split_leaves_the_accuracy_of_the_network_where_it_does_not_move():
    torch.manual_seed(0)
    data = dataset(3, 8, 8)
    net = filters.Net(2).eval()
    first = net.get_parameter(f"{filters.FIRST}.weight").detach().flatten(1)
    split = filters._split(net, first, torch.zeros_like(first), 0.3, data)
    torch.testing.assert_close(split(data.x_test), net(data.x_test))
    assert ramify.trace(split, data.x_test[:1])[filters.FIRST].width == 24


class Killed(Exception):
    """In place of a kill."""


def killed(*rest: object, **more: object) -> None:
    raise Killed


def files(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in out.iterdir() if file.is_file()}


def test_the_command_of_the_filters_goes_on_where_it_was_killed(tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    data = dataset(3, 8, 8)
    monkeypatch.setattr(filter_command, "load", lambda name: data)
    given = ["--images", "40", "--out"]
    filter_command.main([*given, str(tmp_path / "whole")])
    assert "copies apart along v_min" in " ".join(capsys.readouterr().out.split())
    stopped = str(tmp_path / "stopped")
    with monkeypatch.context() as patched:
        patched.setattr(filters, "_around", killed)  # behind all training
        with pytest.raises(Killed):
            filter_command.main([*given, stopped])
    monkeypatch.setattr(filters, "_some", killed)  # nothing trains again
    filter_command.main([*given, stopped])
    whole = files(tmp_path / "whole")
    assert set(whole) == {"filters.png", "gradients.png", "results.json", "results.md"}
    assert files(tmp_path / "stopped") == whole


def test_the_command_of_the_prototypes_goes_on_where_it_was_killed(tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    data = dataset(1, 28, 28)
    monkeypatch.setattr(prototype_command, "load", lambda name: data)
    given = ["--prototypes", "5", "--epochs", "1", "--seeds", "2", "--out"]
    prototype_command.main([*given, str(tmp_path / "whole")])
    assert "decrease of the loss after training" in " ".join(capsys.readouterr().out.split())
    stopped, trained = str(tmp_path / "stopped"), prototype._trained_loss
    times: list[object] = []

    def third(*given: object) -> float:
        times.append(given)
        return killed() if len(times) == 3 else trained(*given)

    with monkeypatch.context() as patched:
        patched.setattr(prototype, "_trained_loss", third)
        with pytest.raises(Killed):
            prototype_command.main([*given, stopped])
    monkeypatch.setattr(prototype, "_trained_loss", lambda *g: times.append(g) or trained(*g))
    prototype_command.main([*given, stopped])
    # alone and the first split were there, four splits and the second seed were not
    assert len(times) == 3 + 4 + 6
    monkeypatch.setattr(prototype, "grow", killed)  # nothing is grown again
    prototype_command.main([*given, stopped])
    assert len(times) == 3 + 4 + 6
    whole = files(tmp_path / "whole")
    assert set(whole) == {"tree.png", "splits.png", "results.json", "results.md"}
    assert files(tmp_path / "stopped") == whole
    held = json.loads(whole["results.json"])
    assert [len(trials) for trials in held["trials"].values()] == [5, 5]
    assert set(held["correlation"]) == {"0", "1"}
