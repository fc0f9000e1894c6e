"""Searches for cells and the training of what they find, piece by piece."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from ramify.cells import DARTS, NATS
from ramify.cells.derive import random_genotype
from ramify.commands.jobs import Shuffled, run_jobs
from ramify.commands.random_search import with_candidates
from ramify.commands.retrain_cells import (
    CutoutBatches,
    auxiliary_loss,
    build_network,
    run_cells,
)
from ramify.commands.retrain_settings import RetrainCellsSettings
from ramify.commands.run_folder import RunFolder
from ramify.commands.search import (
    build_derived,
    build_supernet,
    divided,
    kept_genotype,
    prepare_search,
    run_search,
    too_many_skips,
)
from ramify.commands.search_settings import SearchSettings
from ramify.data import Dataset
from ramify.errors import RamifyError
from tests.stop import Stop


def cells_of(source: Path, given: dict[str, Any]) -> RetrainCellsSettings:
    return RetrainCellsSettings.of_search(RunFolder.open(source), given, {})


NONE, ONE, TWO, SIX = (
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|none~1|+|none~0|none~1|nor_conv_1x1~2|",
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|none~1|+|none~0|none~1|skip_connect~2|",
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|none~1|+|none~0|skip_connect~1|skip_connect~2|",
    "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|skip_connect~1|skip_connect~2|",
)


def settings(**given: Any) -> SearchSettings:
    small = {"data": "digits", "space": "nats", "channels": 2, "cells": 1, "batch_size": 10}
    return SearchSettings.resolve({**small, "epochs": 2, **given})


@pytest.fixture
def images() -> Dataset:
    """Noisy copies of one random image a class, large enough for an auxiliary head."""
    generator = torch.Generator().manual_seed(7)
    labels = torch.arange(30) % 3
    x = torch.randn(3, 1, 24, 24, generator=generator)[labels]
    x = x + 0.5 * torch.randn(30, 1, 24, 24, generator=generator)
    return Dataset("made-up", x[:20], labels[:20], x[20:], labels[20:], ("a", "b", "c"))


# ---------------------------------------------------------------------------- settings


def test_settings_come_back_from_json() -> None:
    config = settings(latency_weight=0.5, skip_stop=2)
    assert SearchSettings.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert config.to_json()["command"] == "search"


def test_defaults_are_those_of_the_papers_on_cifar_and_small_elsewhere() -> None:
    darts = SearchSettings.resolve({"data": "cifar10"})
    assert (darts.space, darts.searcher, darts.channels, darts.cells) == ("darts", "rarts", 16, 8)
    assert (darts.epochs, darts.lr, darts.arch_lr, darts.batch_size) == (50, 0.025, 3e-4, 64)
    nats = SearchSettings.resolve({"data": "cifar100", "space": "nats"})
    assert (nats.channels, nats.cells, nats.weight_decay) == (16, 5, 5e-4)
    assert SearchSettings.resolve({"data": "digits"}).epochs == 5
    first = SearchSettings.resolve({"data": "cifar10", "searcher": "darts1"})
    assert (first.lam, first.beta, first.arch_lr) == (None, None, 3e-4)
    chance = SearchSettings.resolve({"data": "cifar10", "searcher": "random"})
    assert (chance.arch_lr, chance.select, chance.latency_weight) == (None, None, None)


# ---------------------------------------------------------------------------- search


def test_halves_share_no_sample(dataset: Dataset) -> None:
    numbered = replace(dataset, y_train=torch.arange(len(dataset.y_train)))
    a, p = divided(settings(samples=20), numbered, seed=3)
    both = torch.cat([a.y_train, p.y_train])
    assert len(a.y_train) == len(p.y_train) == 10
    assert len(both.unique()) == 20
    assert torch.equal(a.x_train, dataset.x_train[a.y_train])
    other, _ = divided(settings(samples=20), numbered, seed=4)
    assert not torch.equal(other.y_train, a.y_train)


def start(path: Path, config: SearchSettings | RetrainCellsSettings) -> RunFolder:
    return RunFolder.create(path, config.to_json())


def test_logits_rest_while_the_weights_warm_up(tmp_path: Path, dataset: Dataset) -> None:
    config = settings(warmup_epochs=1, searcher="darts1", arch_lr=0.1)
    folder = start(tmp_path / "run", config)
    run_jobs(config, folder, dataset, run=run_search)
    torch.manual_seed(config.seed)
    before = build_supernet(config, dataset).mixing()["cell"]
    first, second = (
        torch.tensor(event["mixing"]["cell"])
        for event in folder.events()
        if event["event"] == "epoch"
    )
    torch.testing.assert_close(first, before.detach())
    assert (second - first).abs().max() > 0.01


@pytest.mark.parametrize("searcher", ["rarts", "darts1", "darts2", "milenas", "joint"])
def test_every_searcher_searches(searcher: str, tmp_path: Path, dataset: Dataset) -> None:
    config = settings(searcher=searcher, epochs=1)
    folder = start(tmp_path / "run", config)
    run_jobs(config, folder, dataset, run=run_search)
    [epoch, result] = folder.events()
    assert epoch["step"] == 3  # 22 or 23 samples a half, 10 a step
    net = build_derived(config, dataset, result["genotype"])
    assert result["params"] == sum(p.numel() for p in net.parameters())
    assert (
        result["genotype"]
        == epoch["genotype"]
        == folder.path.joinpath("genotype.txt").read_text().strip()
    )
    mixing = torch.tensor(epoch["mixing"]["cell"])
    torch.testing.assert_close(mixing.sum(1), torch.ones(6))


def events(*texts: str) -> list[dict[str, Any]]:
    return [{"event": "epoch", "genotype": text} for text in texts]


def test_a_search_ends_before_there_are_too_many_skips() -> None:
    config = settings(skip_stop=1)
    assert not too_many_skips(config, events(ONE))
    assert not too_many_skips(config, events(SIX))  # by chance, at the beginning
    assert not too_many_skips(config, events(SIX, ONE))
    assert too_many_skips(config, events(SIX, ONE, TWO))
    assert not too_many_skips(settings(), events(NONE, SIX))
    assert kept_genotype(config, events(SIX, NONE, ONE, TWO)) == ONE
    assert kept_genotype(config, events(SIX, TWO, TWO[:-2] + "2|", SIX)) == TWO
    assert kept_genotype(settings(), events(NONE, SIX)) == SIX


def test_a_search_that_skips_is_stopped(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many skips as epochs before: the third epoch is the first with more than one."""
    monkeypatch.setattr("ramify.commands.search._skips", lambda config, event: event["epoch"])
    config = settings(epochs=6, skip_stop=1, searcher="darts1", arch_lr=0.5)
    folder = start(tmp_path / "run", config)
    run_jobs(config, folder, dataset, run=run_search)
    *epochs, result = folder.events()
    assert [event["epoch"] for event in epochs] == [0, 1, 2]
    assert result["genotype"] == epochs[1]["genotype"]
    assert result["steps"] == epochs[2]["step"]


def test_random_search_costs_what_a_first_order_search_does(dataset: Dataset) -> None:
    config = with_candidates(settings(searcher="random", epochs=3), dataset)
    stem, head = 9 * 2 * 64, 8 * 3
    residual = 9 * 2 * 4 * 16 + 9 * 4 * 4 * 16 + 2 * 4 * 16  # and as much again, half as large
    base = stem + head + 2 * residual
    pointwise = 3 * 2 * 2 * 64  # of one edge, in a cell of each stage; a 3×3 costs nine times that
    drawn = [random_genotype(NATS, seed) for seed in range(8)]
    convs = sum(6 * (g.share("nor_conv_1x1") + 9 * g.share("nor_conv_3x3")) for g in drawn) / 8
    each = (base + pointwise * convs) * (3 * 3 * 22 + 23)
    supernet = base + pointwise * 6 * 10
    assert config.candidates == round(3 * 3 * 45 * supernet / each)
    assert with_candidates(settings(), dataset).candidates is None
    assert with_candidates(settings(searcher="random", candidates=2), dataset).candidates == 2


def test_clouds_of_points_have_no_cells(monkeypatch: pytest.MonkeyPatch, dataset: Dataset) -> None:
    points = replace(dataset, x_train=torch.randn(9, 3, 7))
    monkeypatch.setattr("ramify.commands.jobs.load", lambda name: points)
    with pytest.raises(RamifyError, match=r"shape \(3, 7\), and cells are for images"):
        prepare_search(settings())


# ---------------------------------------------------------------------------- training


def fit(**given: Any) -> RetrainCellsSettings:
    values = {
        "data": "digits", "epochs": 4, "batch_size": 10, "seed": 0, "seeds": 1, "device": "cpu",
        "threads": 1, "tensorboard": False,
            "optimizer": "sgd", "lr": 0.05, "momentum": 0.9, "nesterov": False,
        "weight_decay": 1e-4, "schedule": "cosine", "milestones": (0.5, 0.75), "span": "round",
        "warmup": 0.0, "label_smoothing": 0.0,
        "source": "runs/x", "space": "darts", "genotypes": (random_genotype(DARTS, 0).text,),
        "channels": 4, "cells": 3, "auxiliary": 0.4, "drop_path": 0.3, "cutout": 8,
    }  # fmt: skip
    return RetrainCellsSettings(**{**values, **given})


def test_the_auxiliary_head_counts_in_training_alone(images: Dataset) -> None:
    net = build_network(fit(), images, 0, auxiliary=True)
    batch = images.x_train[:5], images.y_train[:5]
    torch.manual_seed(0)
    found = auxiliary_loss(0.4, 0.0, net.train(), batch)
    torch.manual_seed(0)
    scores, others = net.forward_with_auxiliary(batch[0])
    wanted = F.cross_entropy(scores, batch[1], reduction="none")
    wanted = wanted + 0.4 * F.cross_entropy(others, batch[1], reduction="none")
    torch.testing.assert_close(found, wanted)
    tested = auxiliary_loss(0.4, 0.0, net.eval(), batch)
    torch.testing.assert_close(tested, F.cross_entropy(net(batch[0]), batch[1], reduction="none"))


def test_smoothed_labels_reach_both_heads(images: Dataset) -> None:
    net = build_network(fit(drop_path=0.0), images, 0, auxiliary=True).train()
    batch = images.x_train[:5], images.y_train[:5]
    found = auxiliary_loss(0.4, 0.2, net, batch)
    smoothed = [
        F.cross_entropy(scores, batch[1], reduction="none", label_smoothing=0.2)
        for scores in net.forward_with_auxiliary(batch[0])
    ]
    torch.testing.assert_close(found, smoothed[0] + 0.4 * smoothed[1])


def test_edges_are_dropped_more_and_more_and_squares_cut_out(images: Dataset) -> None:
    config = fit()
    net = build_network(config, images, 0)
    plain = Shuffled(images, config, 0, lambda share: None)
    cut = CutoutBatches(plain, net, config)
    assert len(cut) == len(plain) == 2
    rates = []
    for epoch in range(4):
        for (x, y), (whole, labels) in zip(cut(epoch), plain(epoch), strict=True):
            assert torch.equal(y, labels)
            gone = x != whole
            assert 0 < gone.sum() <= 64 * len(x)
            assert (x[gone] == 0).all()
        rates.append(net.drop_path.rate)
    assert rates == pytest.approx([0, 0.075, 0.15, 0.225])
    again = [x for x, _ in cut(2)]
    assert all(torch.equal(x, y) for x, (y, _) in zip(again, cut(2), strict=True))
    assert not torch.equal(again[0], next(cut(3))[0])


def test_training_with_all_of_it_is_resumed_to_the_same_bits(
    tmp_path: Path, images: Dataset
) -> None:
    config = fit(epochs=3)
    whole, stopped = (start(tmp_path / name, config) for name in ("whole", "stopped"))
    run_jobs(config, whole, images, run=run_cells)
    with pytest.raises(KeyboardInterrupt):
        run_jobs(config, stopped, images, Stop(1), run=run_cells)
    run_jobs(config, stopped, images, run=run_cells)
    one, two = (load_file(folder.path / "model.safetensors") for folder in (whole, stopped))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not any(name.startswith("auxiliary") for name in one)
    net = build_network(config, images, 0)
    assert set(net.state_dict()) == set(one)
    result = whole.events()[-1]
    assert result["params"] == sum(p.numel() for p in net.parameters())
    epochs = [event for event in whole.events() if event["event"] == "epoch"]
    assert epochs[0]["params"] > result["params"]  # with the auxiliary head
    net.load_state_dict(one)
    hits = (net.eval()(images.x_test).argmax(1) == images.y_test).float().mean().item()
    assert result["test_accuracy"] == pytest.approx(hits)


@pytest.fixture
def searched(tmp_path: Path, dataset: Dataset) -> Callable[..., Path]:
    def make(**given: Any) -> Path:
        config = settings(**given)
        folder = start(tmp_path / "searched", config)
        for seed in range(config.seed, config.seed + config.seeds):
            text = random_genotype(NATS, seed).text
            head = {"event": "result", "job": f"searched-{seed}", "arm": "searched", "seed": seed}
            folder.append(head | {"genotype": text})
        return folder.path

    return make


def test_what_a_search_found_is_trained_seed_by_seed(searched: Callable[..., Path]) -> None:
    source = searched(seed=5, seeds=2)
    config = cells_of(source, {"epochs": 7})
    assert (config.seed, config.seeds, config.epochs) == (5, 2, 7)
    assert (config.channels, config.cells, config.auxiliary) == (2, 1, 0.0)
    assert [config.genotype(seed) for seed in (5, 6)] == [
        random_genotype(NATS, seed).text for seed in (5, 6)
    ]
    assert RetrainCellsSettings.from_json(json.loads(json.dumps(config.to_json()))) == config
    with pytest.raises(RamifyError, match="holds 2 architectures, and each is trained with its"):
        cells_of(source, {"seeds": 1})
    with pytest.raises(RamifyError, match="model is the search's own"):
        cells_of(source, {"model": "vgg19"})
    with pytest.raises(RamifyError, match="drop_path is 1.5; it must be at least 0 and below 1"):
        cells_of(source, {"drop_path": 1.5})


def test_one_architecture_is_trained_with_several_seeds(searched: Callable[..., Path]) -> None:
    config = cells_of(searched(), {"seeds": 3})
    assert len({config.genotype(seed) for seed in range(3)}) == 1


def test_on_cifar_it_is_trained_as_its_paper_does(
    searched: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = searched(data="cifar10") / "config.json"
    nats = cells_of(path.parent, {})
    assert (nats.channels, nats.cells, nats.epochs, nats.nesterov) == (16, 5, 200, True)
    assert (nats.auxiliary, nats.drop_path, nats.cutout) == (0.0, 0.0, 0)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"space": "darts"}))
    darts = cells_of(path.parent, {})
    assert (darts.channels, darts.cells, darts.epochs, darts.batch_size) == (36, 20, 600, 96)
    assert (darts.auxiliary, darts.drop_path, darts.cutout) == (0.4, 0.2, 16)
    monkeypatch.setattr("ramify.commands.retrain_settings.space_named", lambda name: NATS)
    assert cells_of(path.parent, {}).auxiliary == 0  # a space without such a head
