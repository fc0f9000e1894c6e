"""SiDT: a Swin costs what Table 4.3 says, layer by layer; searched, cut and tuned in any task."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import AdamW
from torch.utils.flop_counter import FlopCounterMode

import ramify
from ramify import relax
from ramify.data import Dataset

pytest.importorskip("transformers", reason="needs the extra: pip install 'ramify[transformers]'")
from transformers import SwinConfig, SwinForImageClassification

pytest.importorskip("pycocotools", reason="needs the extra: pip install 'ramify[experiments]'")
from experiments.sidt import blood, classification, detection, structure, study, swin, ways
from experiments.sidt.detector import Detections
from experiments.sidt.ways import Way

SHARES = (0.2, 0.4, 0.6, 0.8)
DEFAULTS = classification.Settings()


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


def test_a_head_may_keep_one_dimension() -> None:
    model = SwinForImageClassification(config())
    graph = ramify.trace(model, images(1))
    [name, *_] = [group.name for group in swin.dimensions(graph)]
    assert swin.widths(model)["swin.encoder.layers.0.blocks.0.attention.q_proj"] == 8
    ramify.apply(graph, swin.prunes(graph, {name: 1}))
    left = swin.widths(model)
    assert left["swin.encoder.layers.0.blocks.0.attention.q_proj"] == 1
    assert sorted(left.values()) == [1, 8, 8, 48, 48, 96]


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


def blood_cells(root: Path) -> None:
    """Four images of 20 rows and 40 columns, two of them with boxes, in every split."""
    for split in ("train", "val", "test"):
        (root / split).mkdir(parents=True)
        for number in range(4):
            pixels = np.random.default_rng(number).integers(0, 256, (20, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / split / f"{number}.png")
        listed = {
            "info": {},
            "images": [
                {"id": 7 - n, "file_name": f"{n}.png", "width": 40, "height": 20} for n in range(4)
            ],
            "annotations": [
                annotation(1, 7, 1, [10.0, 5.0, 20.0, 4.0]),
                annotation(2, 7, 2, [0.0, 0.0, 8.0, 8.0]),
                annotation(3, 5, 3, [0.0, 0.0, 40.0, 20.0]),
            ],
            "categories": [{"id": k, "name": name} for k, name in enumerate("abc", 1)],
        }
        (root / f"{split}.json").write_text(json.dumps(listed))


def annotation(number: int, image: int, kind: int, box: list[float]) -> dict[str, object]:
    held = {"id": number, "image_id": image, "category_id": kind, "bbox": box, "iscrowd": 0}
    return {**held, "area": box[2] * box[3]}


def test_boxes_are_read_in_pixels_of_the_resized_images(tmp_path: Path) -> None:
    blood_cells(tmp_path)
    train, test = blood.read(tmp_path, ("train", "test"), (10, 10))
    assert train.images.shape == (4, 3, 10, 10)
    assert torch.allclose(train.images.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.equal(train.images, test.images)
    assert torch.allclose(
        train.boxes[0], torch.tensor([[2.5, 2.5, 7.5, 4.5], [0.0, 0.0, 2.0, 4.0]])
    )
    assert [len(boxes) for boxes in train.boxes] == [2, 0, 1, 0]
    assert [labels.tolist() for labels in train.labels] == [[0, 1], [], [2], []]


def test_mirrored_images_have_mirrored_boxes(tmp_path: Path) -> None:
    blood_cells(tmp_path)
    [train] = blood.read(tmp_path, ("train",), (20, 40))
    seen = set()
    for number in range(12):
        [batch] = blood.batches(train, torch.tensor([0, 2]), 2, 4, (0, number))
        row = int(batch.target.heat[:, 2].amax((1, 2)).argmin())  # the image without a platelet
        flips = {axes: train.images[0].flip(axes) for axes in ((), (1,), (2,), (1, 2))}
        turned = [axes for axes, image in flips.items() if torch.equal(batch.images[row], image)]
        seen.add(turned[0])
        heat = batch.target.heat[row, 0]
        center = [int(heat.flatten().argmax()) // 10, int(heat.flatten().argmax()) % 10]
        # box 10..30 by 5..9: centre at column 20, row 7 of 40 by 20; mirrored at row 13
        assert center == [3 if 1 in turned[0] else 1, 5]
        left, top, right, bottom = batch.target.sides[row, :, *center].tolist()
        assert left + right == pytest.approx(20)
        assert top + bottom == pytest.approx(4)
        assert 4 * center[0] + 2 - top == pytest.approx(11 if 1 in turned[0] else 5)
    assert len(seen) == 4


def test_average_precision_is_that_of_what_is_found(tmp_path: Path) -> None:
    blood_cells(tmp_path)
    [test] = blood.read(tmp_path, ("test",), (10, 10))

    def judged(shift: float, wrong: int = 0) -> dict[str, float]:
        seen = [
            Detections(boxes + shift, (labels + wrong) % 3, torch.full((len(labels),), 0.5))
            for boxes, labels in zip(test.boxes, test.labels, strict=True)
        ]
        return blood.precision(test, seen)

    assert judged(0.0) == pytest.approx(dict.fromkeys(("ap", "ap50", "ap a", "ap b", "ap c"), 1.0))
    assert judged(0.0, wrong=1)["ap50"] == 0.0
    near = judged(0.5)  # overlaps: of a 4.5·1.5 / (20 - 6.75), of b 1.5·3.5 / 10.75, of c 0.82
    assert near["ap50"] == pytest.approx(2 / 3)
    assert near["ap c"] == pytest.approx(0.7)  # 0.5, 0.55 up to 0.8


def tiny_settings(kind: type[study.Settings], **more: object) -> study.Settings:
    held = {"epochs": 1, "search": 1, "tune": 1, "batch": 2, "model": "small"}
    return kind(**{**held, **more})


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> classification.Cifar:
    x, y = torch.randn(12, 3, 16, 16), torch.arange(12) % 3
    data = Dataset("cifar100", x, y, x[:6], y[:6], tuple("abc"))
    monkeypatch.setattr(classification, "load", lambda name: data)
    sizes = {"image_size": 16, "patch_size": 2, "embed_dim": 16, "depths": [1, 1]}
    sizes |= {"num_heads": [2, 4], "window_size": 4, "drop_path_rate": 0.0}
    monkeypatch.setattr(classification, "SHAPES", {"small": sizes})
    settings = tiny_settings(classification.Settings, classes=2, images=6)
    return classification.Cifar(settings, torch.device("cpu"))


def test_a_part_of_the_classes_is_learned_and_the_rest_judges(few: classification.Cifar) -> None:
    assert few.data.y_train.tolist() == [0, 1, 0, 1, 0, 1]
    assert few.data.y_test.tolist() == [0, 1, 0, 1]
    settings = tiny_settings(classification.Settings, classes=2, images=6, split="val")
    data = classification.Cifar(settings, torch.device("cpu")).data
    assert len(data.y_test) == 2
    assert torch.equal(data.x_test, classification.load("").x_train[[9, 10]])


def test_the_command_cuts_the_same_share_by_every_arm_and_goes_on(
    few: classification.Cifar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classification, "RATIOS", (0.4,))
    given = {k: v for k, v in asdict(few.settings).items() if v != getattr(DEFAULTS, k)}
    asked = [f"--{name}={value}" for name, value in given.items()]
    classification.main([*asked, "--seeds=1", f"--out={tmp_path}"])
    results = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [result["arm"] for result in results] == [ways.FULL, *ways.USUAL]
    total = 2 * 8 + 64 + 128
    for result in results:
        assert sum(full for _, full in result["left"].values()) == total
        gone = total - sum(kept for kept, _ in result["left"].values())
        assert gone == math.ceil(result["ratio"] * total)
        assert all(kept > 0 for kept, _ in result["left"].values())
        assert set(result["tuned"]) == {"accuracy"}
        assert result["before"] == results[0]["before"]
    assert results[3]["searched"] == results[0]["searched"]  # L1: what was trained on, as it is
    assert len({json.dumps(result["left"]) for result in results}) > 2
    assert results[1]["params"] < results[0]["params"]
    text = (tmp_path / "results.md").read_text()
    assert "| 40% | RARTS |" in text
    assert "| 82.11 | 17.89 | 2.60 |" in text
    assert (tmp_path / "layers.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(study, "run", None)  # nothing is left to do
    classification.main([*asked, "--seeds=1", f"--out={tmp_path}"])
    assert (tmp_path / "results.md").read_text() == text


def test_the_command_cuts_to_equal_parameters_whatever_is_ranked(
    few: classification.Cifar, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {k: v for k, v in asdict(few.settings).items() if v != getattr(DEFAULTS, k)}
    asked = [*(f"--{name}={value}" for name, value in given.items()), f"--out={tmp_path}"]
    asked += ["--seeds=1", "--of=parameters", "--ratios", "0.1", "0.4"]
    asked += ["--arms", "rarts", "cut", "--gates", *ways.GATES, "--places", *ways.PLACES]
    classification.main(asked)
    said = capsys.readouterr().out
    assert "RARTS, q/k/v alone: left out at 40%, since these dimensions hold" in said
    results = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    found = {ways.way_of(result): result for result in results}
    whole = found[Way(ways.FULL)]["params"]
    for way, result in found.items():
        goal = (1 - way.ratio) * whole
        assert goal - 4 * 32 * 4 - 17 < result["params"] <= round(goal)  # one dimension at most
        for name, (kept, full) in result["left"].items():
            kind = "mlp" if ".mlp." in name else "qkv"
            assert kept == full or (way.ratio and way.gates in ("both", kind))
    kinds = {(way.arm, way.gates, way.place) for way in found if way.ratio == 0.1}
    searched = {("rarts", gates, "after") for gates in ways.GATES}
    searched |= {("rarts", gates, "before") for gates in ("both", "mlp")}
    assert kinds == searched | {("cut", gates, "after") for gates in ways.GATES}
    stages = {path.stem for path in (tmp_path / "stages").rglob("*.safetensors")}
    assert stages == {
        "trained-0", "full-0", "rarts-0", "rarts-both-before-0", "rarts-mlp-after-0",
        "rarts-mlp-before-0", "rarts-qkv-after-0",
    }  # fmt: skip
    text = (tmp_path / "results.md").read_text()
    assert "| 10% | RARTS, MLPs alone, before the activation |" in text
    assert "| 40% | `ramify.cut`, MLPs alone |" in text
    assert "Table 4.4" not in text


def test_the_score_of_a_unit_stands_before_or_after_its_activation(
    few: classification.Cifar, tmp_path: Path
) -> None:
    few.settings = replace(few.settings, search=3)  # Adam's first step sees signs alone
    found = {}
    for place in ways.PLACES:
        way = Way("rarts", gates="mlp", place=place)
        found[place] = study.stages(few, 0, way, tmp_path)[1]
    after, before = (stage.scores for stage in found.values())
    assert after.keys() == before.keys()
    for name, scores in after.items():
        assert name.endswith("mlp.fc1")
        assert not torch.allclose(scores, before[name])


def test_ramify_cut_also_takes_a_share_of_the_dimensions(
    few: classification.Cifar, tmp_path: Path
) -> None:
    result = study.run(few, 0, Way("cut", 0.4), tmp_path)
    kept, full = (sum(sizes) for sizes in zip(*result["left"].values(), strict=True))
    assert full - kept == math.ceil(0.4 * full)


def test_a_result_of_before_there_were_choices_is_of_the_usual_way() -> None:
    assert ways.way_of({"arm": "l1", "ratio": 0.2, "seed": 3}) == Way("l1", 0.2)
    assert ways.way_of(ways.as_row(Way("rarts", 0.2, "parameters", "mlp", "before"))) == Way(
        "rarts", 0.2, "parameters", "mlp", "before"
    )


def test_stages_are_kept_and_go_on_to_the_same(few: classification.Cifar, tmp_path: Path) -> None:
    first = study.run(few, 0, Way("rarts", 0.4), tmp_path / "one")
    again = study.run(few, 0, Way("rarts", 0.4), tmp_path / "one")  # from its stages
    assert {**again, "seconds": 0} == {**first, "seconds": 0}
    _, stage = study.stages(few, 0, Way("rarts"), tmp_path / "one")
    scores = list(stage.scores.values())
    assert all((score != 1).any() for score in scores)
    lowest = torch.cat(scores).abs().sort().values[math.ceil(0.4 * 208)]
    for score, (kept, full) in zip(scores, first["left"].values(), strict=True):
        sizes = score.abs()
        assert (sizes > lowest).sum() <= kept <= max(1, (sizes >= lowest).sum())
        assert full == len(sizes)


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> detection.BloodCells:
    blood_cells(tmp_path / "bccd")
    monkeypatch.setenv("RAMIFY_DATA", str(tmp_path))
    sizes = {"patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2]}
    sizes |= {"window_size": 3, "drop_path_rate": 0.0}
    monkeypatch.setattr(detection, "SHAPES", {"small": sizes})
    monkeypatch.setattr(detection, "NECKS", {"small": 8})
    settings = tiny_settings(detection.Settings, height=24)
    return detection.BloodCells(settings, torch.device("cpu"))


def test_a_detector_is_searched_and_cut_in_its_backbone_alone(
    cells: detection.BloodCells, tmp_path: Path
) -> None:
    result = study.run(cells, 0, Way("rarts", 0.4), tmp_path)
    assert all(name.startswith("backbone.") for name in result["left"])
    before, stage = study.stages(cells, 0, Way("rarts"), tmp_path)
    assert before == result["before"]
    whole = sum(p.numel() for p in stage.model.parameters())
    assert result["params"] < whole
    other = [n for n, _ in stage.model.named_parameters() if not n.startswith("backbone.")]
    model = stage.model
    shapes = {name: model.get_parameter(name).shape for name in other}
    graph = ramify.trace(model, cells.example)
    proposals = relax.GateScale(stage.scores).propose(graph, cells.loss, [])
    ramify.apply(graph, [p.edit for p in ramify.TopFraction(0.4).select(proposals)])
    assert {name: model.get_parameter(name).shape for name in other} == shapes
    assert set(result["tuned"]) == {"ap", "ap50", "ap a", "ap b", "ap c"}


def test_a_missing_data_set_and_an_unknown_model_are_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAMIFY_DATA", str(tmp_path))
    with pytest.raises(ramify.RamifyError, match=r"train.json was not found: let RAMIFY_DATA name"):
        blood.folder()
    with pytest.raises(ramify.RamifyError, match="unknown model 'x': give one of small, swin-t"):
        study.swin_config(detection.SHAPES, "x")
    with pytest.raises(ramify.RamifyError, match="unknown split 'train': give test or val"):
        detection.Settings(split="train")


def test_the_command_of_the_detector_goes_on_from_its_stages_and_prints_its_tables(
    cells: detection.BloodCells,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(detection, "RATIOS", (0.2, 0.4))
    usual = asdict(detection.Settings())
    given = {k: v for k, v in asdict(cells.settings).items() if v != usual[k]}
    asked = [*(f"--{name}={value}" for name, value in given.items()), f"--out={tmp_path / 'out'}"]
    asked += ["--seeds=1", "--arms", "rarts"]
    known, runs = study.run, list[object]()

    def second_is_killed(*rest: object) -> object:
        runs.append(rest)
        if len(runs) == 2:
            raise KeyboardInterrupt
        return known(*rest)

    monkeypatch.setattr(study, "run", second_is_killed)
    with pytest.raises(KeyboardInterrupt):
        detection.main(asked)
    detection.main(asked)
    assert len(runs) == 2 + 2  # the full network was there
    text = (tmp_path / "out" / "results.md").read_text()
    assert "| 40% | RARTS |" in text
    assert "Box AP at an overlap of 0.5:" in capsys.readouterr().out


def test_the_command_of_the_sizes_prints_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(structure, "SwinConfig", config)
    structure.main(["--out", str(tmp_path)])
    lines = (tmp_path / "results.md").read_text().splitlines()
    assert [line.split(" | ")[3] for line in lines[2:]] == ["0 / 0"] * 5
    assert "formula" in capsys.readouterr().out
