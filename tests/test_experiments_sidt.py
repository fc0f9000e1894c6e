"""SiDT: a Swin costs what Table 4.3 says, layer by layer, trains on, and leaves a head alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import AdamW
from torch.utils.flop_counter import FlopCounterMode

import ramify
from ramify.data import Dataset

pytest.importorskip("transformers", reason="needs the extra: pip install 'ramify[transformers]'")
from transformers import SwinConfig, SwinForImageClassification

from experiments.sidt import detection, structure, swin, training

SHARES = (0.2, 0.4, 0.6, 0.8)


def config(**more: object) -> SwinConfig:
    """Three blocks in two stages: 64 tokens of width 16, then 16 of width 32; 8 a head."""
    settings = {
        "image_size": 16,
        "patch_size": 2,
        "embed_dim": 16,
        "depths": [2, 1],
        "num_heads": [2, 4],
        "window_size": 4,
        "mlp_ratio": 3,
        "drop_path_rate": 0.0,
        "num_labels": 5,
    }
    return SwinConfig(**{**settings, **more})


def images(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 16, 16)


def test_costs_of_all_sizes_are_those_of_the_formulas() -> None:
    rows = structure.sizes(config(), labels=5)
    assert [row[0] for row in rows] == [0.0, *SHARES]
    for _, cost, formula in rows:
        assert cost == formula
        assert dict(cost.by_kind) == dict(formula.by_kind)
    first = swin.blocks(config())[0]  # d = 16, n = 64, M = 4, d_m = 48
    assert first.attention.by_kind == {"linear": 4 * 64 * 16**2, "attention": 2 * 64 * 16 * 16}
    assert first.mlp.by_kind == {"linear": 2 * 64 * 16 * 48}


@pytest.mark.parametrize("share", SHARES)
def test_each_layer_counted_as_it_runs_is_what_the_table_says(share: float) -> None:
    small = config(attn_implementation="eager")  # torch counts no fused attention on the CPU
    model = SwinForImageClassification(small).eval()
    graph = ramify.trace(model, images(1))
    ramify.apply(graph, swin.prunes(graph, swin.goals(graph, share)))
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(images(1))
    counted = counter.get_flop_counts()
    names = [name for name, _ in swin.swin_blocks(model)]
    assert len(names) == len(swin.blocks(small)) == 3
    kept = {0.2: (6, 0.8), 0.4: (5, 0.6), 0.6: (3, 0.4), 0.8: (2, 0.2)}[share]
    for name, full in zip(names, swin.blocks(small), strict=True):
        block = full.pruned(share)
        assert block.head_dim == kept[0]
        assert block.hidden == pytest.approx(kept[1] * full.hidden, abs=0.5)
        for part, cost in (("attention", block.attention), ("mlp", block.mlp)):
            layer = model.get_submodule(f"{name}.{part}")
            assert sum(p.numel() for p in layer.parameters()) == cost.params
            macs = sum(counted[f"{type(model).__name__}.{name}.{part}"].values()) // 2
            assert macs == cost.macs
        attention = model.get_submodule(f"{name}.attention")
        assert attention.head_dim == block.head_dim
        assert attention.num_attention_heads == block.heads


def test_a_dimension_is_one_of_q_k_and_v_in_every_head() -> None:
    model = SwinForImageClassification(config()).double().eval()
    graph = ramify.trace(model, images(1).double())
    groups = swin.dimensions(graph)
    assert len(groups) == 6
    owners = {name.split(".")[-2] for name in groups[0].producers}
    assert owners == {"q_proj", "k_proj", "v_proj"}
    widths = swin.goals(graph, 0.4)
    edits = swin.prunes(graph, widths)
    x = images().double()
    zeroed = SwinForImageClassification(config()).double().eval()
    zeroed.load_state_dict(model.state_dict())
    for edit in edits:
        block, _, layer = edit.group.partition(".attention.")
        if layer:  # the same number in each head
            for name in ("q_proj", "k_proj", "v_proj"):
                part = zeroed.get_submodule(f"{block}.attention.{name}")
                head_dim = graph[edit.group].width
                zero(part, slice(edit.channel, None, head_dim))
        else:
            zero(zeroed.get_submodule(edit.group), slice(edit.channel, edit.channel + 1))
    before = model(x).logits
    ramify.apply(graph, edits)
    assert torch.allclose(model(x).logits, zeroed(x).logits, rtol=0, atol=1e-12)
    assert not torch.allclose(model(x).logits, before, rtol=0, atol=1e-9)


def zero(layer: nn.Module, rows: slice) -> None:
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter[rows] = 0


def test_prunes_take_the_smallest_weights() -> None:
    model = SwinForImageClassification(config())
    graph = ramify.trace(model, images(1))
    name = "swin.encoder.layers.1.blocks.0.mlp.fc1"
    norms = model.get_submodule(name).weight.abs().sum(1)
    chosen = {edit.channel for edit in swin.prunes(graph, {name: 90})}
    assert chosen == set(norms.argsort()[:6].tolist())


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_a_pruned_swin_trains_on_with_its_optimizer(share: float) -> None:
    model = SwinForImageClassification(config())
    optimizer = AdamW(model.parameters(), lr=3e-3)
    x, y = images(8), torch.arange(8) % 5

    def step() -> float:
        loss = cross_entropy(model(x).logits, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    for _ in range(3):
        step()
    graph = ramify.trace(model, x[:1])
    edits = swin.prunes(graph, swin.goals(graph, share))
    name = "swin.encoder.layers.0.blocks.1.mlp.fc1"
    weight = model.get_submodule(name).weight
    old = optimizer.state[weight]["exp_avg"].clone()
    gone = {edit.channel for edit in edits if edit.group == name}
    rows = [row for row in range(48) if row not in gone]
    graph = ramify.apply(graph, edits, optimizer=optimizer)
    assert torch.equal(optimizer.state[weight]["exp_avg"], old[rows])
    assert all(optimizer.state[p]["step"] == 3 for p in model.parameters())
    losses = [step() for _ in range(12)]
    assert losses[-1] < 0.8 * losses[0]
    assert graph[name].width == swin.left(48, share)


def test_a_detector_is_pruned_in_its_backbone_alone() -> None:
    small = config(out_features=["stage2"], depths=[1, 1])
    model = detection.detector(small, labels=3, queries=6, width=16)
    optimizer = AdamW(model.parameters(), lr=1e-3)
    x = images(4)
    boxes = torch.rand(4, 2, 4) * 0.4 + 0.3
    targets = [{"class_labels": torch.tensor([0, k % 3]), "boxes": b} for k, b in enumerate(boxes)]
    detection.train(model, optimizer, x, targets, [0, 1])
    head = [p for n, p in model.named_parameters() if not n.startswith(detection.BACKBONE)]
    moments = [optimizer.state[p]["exp_avg"].clone() for p in head]
    heads, backbone = detection.outside(model), detection.parameters(model, detection.BACKBONE)
    whole = detection.parameters(model)
    for share in (0.2, 0.4):
        graph = ramify.trace(model, x[:1])
        widths = {8: 6, 48: 38, 96: 77} if share == 0.2 else {6: 4, 38: 23, 77: 46}
        goals = swin.goals(graph, share)
        assert {graph[name].width: goal for name, goal in goals.items()} == widths
        assert detection.prune(model, optimizer, x[:1], share)
        assert detection.same(heads, detection.outside(model))
        assert all(
            torch.equal(optimizer.state[p]["exp_avg"], m)
            for p, m in zip(head, moments, strict=True)
        )
        found = model(x, labels=targets)
        optimizer.zero_grad()
        found.loss.backward()
        assert found.logits.shape == (4, 6, 4)
        assert found.loss.isfinite()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
        queries = model.get_submodule(
            "model.backbone.model.swin.encoder.layers.0.blocks.0.attention.q_proj"
        )
        assert queries.weight.grad.abs().sum() > 0
    lost = backbone - detection.parameters(model, detection.BACKBONE)
    assert lost == whole - detection.parameters(model) > 0
    old = detection.mean_loss(model, x, targets)
    detection.train(model, optimizer, x, targets, range(10))
    assert detection.mean_loss(model, x, targets) < old


def test_an_edit_of_the_head_is_seen() -> None:
    model = nn.ModuleDict({"head": nn.Linear(2, 2)})
    before = detection.outside(model)
    assert detection.same(before, detection.outside(model))
    with torch.no_grad():
        model["head"].bias[0] = torch.nextafter(model["head"].bias[0], torch.tensor(9.0))
    assert not detection.same(before, detection.outside(model))


def test_boxes_of_blood_cells_are_centers_and_sizes_as_shares(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for name, color in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (40, 20), color).save(tmp_path / "train" / name)
    listed = {
        "images": [
            {"id": 7, "file_name": "a.png", "width": 40, "height": 20},
            {"id": 3, "file_name": "b.png", "width": 40, "height": 20},
        ],
        "annotations": [
            {"image_id": 3, "category_id": 3, "bbox": [0.0, 0.0, 40.0, 20.0]},
            {"image_id": 7, "category_id": 1, "bbox": [10.0, 5.0, 20.0, 4.0]},
        ],
    }
    (tmp_path / "train.json").write_text(json.dumps(listed))
    x, targets = detection.blood_cells(tmp_path, 2, side=8)
    assert x.shape == (2, 3, 8, 8)
    assert x[0, 0].mean() > 0 > x[1, 0].mean()
    assert torch.allclose(targets[0]["boxes"], torch.tensor([[0.5, 0.35, 0.5, 0.2]]))
    assert torch.allclose(targets[1]["boxes"], torch.tensor([[0.5, 0.5, 1.0, 1.0]]))
    assert [t["class_labels"].tolist() for t in targets] == [[0], [2]]


def test_what_the_thesis_prints_beside_what_its_formulas_say() -> None:
    full = SwinConfig()
    baseline = swin.table_cost(full, 100)
    assert baseline.params == 27_596_254  # Table 4.4: 27.60 M
    assert swin.table_cost(full, 20).params == 27_534_734  # Table 4.5: 27.53 M
    assert structure.plain(baseline) == 4_489_875_456  # 4.49 G without norms
    assert structure.remaining(full, "4.4", 0.0) == pytest.approx((1, 1), abs=1e-3)
    params, macs = structure.remaining(full, "4.5", 0.2)
    assert params == pytest.approx(0.72, abs=0.005)
    assert macs == pytest.approx(0.80, abs=0.005)  # later layers lost more than earlier ones
    text = structure.size_table(full, [(0.0, baseline, baseline)])
    assert "| 0% | 27.60 | 4.49 | 0 / 0 | 27.60 / 4.49 | 1.00 / 1.00 |" in text


def test_the_small_run_trains_prunes_and_tunes(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.randn(10, 3, 32, 32), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 0, 1])
    data = Dataset("cifar100", x, y, x[:250], y[:250], tuple("abc"))
    monkeypatch.setattr(training, "load", lambda name: data)
    monkeypatch.setattr(training, "SHARES", (0.4,))
    ticks: list[int] = []
    settings = training.Settings(classes=2, images=6, epochs=1, tune=1, batch=3)
    arms = training.study(0, settings, lambda: ticks.append(1))
    assert len(ticks) == 3
    assert [arm.share for arm in arms] == [0.0, 0.4]
    assert arms[0].params > 1.5 * arms[1].params
    assert arms[0].after == arms[0].before == arms[1].before
    few = training.some(data, classes=2, images=6)
    assert few.y_train.tolist() == [0, 1, 0, 1, 0, 1]
    assert len(few.y_test) == 8
    monkeypatch.setattr(structure, "SHARES", (0.4,))
    assert f"| 40% | {arms[1].params:,} |" in structure.training_table(arms)
