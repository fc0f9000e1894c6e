"""The studies of the RARTS thesis: their pieces, at toy size on the embedded digits."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import ramify
from experiments.rarts.images import halved, some
from experiments.rarts.nats import study as nats
from experiments.rarts.nats.lookups import over_steps
from experiments.rarts.nats.table import page as nats_page
from experiments.rarts.nats.table import steps_table
from experiments.rarts.width.output_gates import OutputGates
from experiments.rarts.width.study import OUTPUTS, RELATIVE, Settings, Study, total_steps
from experiments.rarts.width.table import page
from ramify.cells import NATS, NatsTables
from tests.cells.spaces import write_nats_table

TOY = Settings(
    data="digits", model="digits_net", width=6, samples=200, batch=50,
    pretrain=1, search=1, tune=1, ratios="0.5",
)  # fmt: skip


def nothing() -> None:
    """Where no bar of progress is watched."""


@pytest.fixture(scope="module")
def study() -> Study:
    return Study(0, TOY, nothing)


def test_halves_share_no_image_and_miss_none() -> None:
    data = some("digits", 101, seed=3)
    one, other = halved(data, seed=3)
    rows = [tuple(x.flatten().tolist()) for x in torch.cat([one.x_train, other.x_train])]
    assert sorted(rows) == sorted(tuple(x.flatten().tolist()) for x in data.x_train)
    assert abs(len(one.y_train) - len(other.y_train)) <= 1


@pytest.mark.parametrize(
    "method", ["rarts", "rarts" + RELATIVE, "rarts" + OUTPUTS, "darts1", "l1", "random"]
)
def test_every_method_cuts_as_many_channels_and_starts_from_the_same_network(
    study: Study, method: str
) -> None:
    before = {name: tensor.clone() for name, tensor in study.full.state_dict().items()}
    plain, distilled = study.run(method)
    assert plain["widths"] == distilled["widths"]
    assert not plain["distilled"]
    assert distilled["distilled"]
    widths = {group.name: group.width for group in study.trace(study.full).groups}
    gated = set(ramify.fold(ramify.gate(study.trace(study.plainly()))))
    total = sum(widths[name] for name in gated)
    gone = sum(widths[name] - plain["widths"][name] for name in gated)
    assert gone == round(plain["pruned"] * total) == -(-total // 2)
    assert all(plain["widths"].values())
    after = study.full.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_at_equal_macs_every_method_and_a_cut_come_to_as_many_at_most() -> None:
    steps: list[None] = []
    settings = Settings(
        **(vars(TOY) | {"ratios": "", "macs": "0.5", "temperature": 0, "pooled": 2})
    )
    study = Study(0, settings, partial(steps.append, None))
    assert isinstance(study.full[0], nn.AvgPool2d)
    most = study.baseline()["macs"] // 2
    for method in ("rarts", "l1", "cut"):
        [row] = study.run(method)
        assert not row["distilled"]
        assert 0.7 * most < row["macs"] <= most
        assert 0 < row["pruned"] < 1
        assert "| to 50% of the MACs: " in page([row | {"seed": 0}])
    assert len(steps) == total_steps(settings, ["rarts", "l1", "cut"])


def test_gates_on_outputs_scale_layers_and_fold_exactly(study: Study) -> None:
    model = copy.deepcopy(study.full).double().eval()
    x = torch.randn(4, *study.data.shape, dtype=torch.float64)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    graph = ramify.trace(model, x[:1])
    gates = OutputGates(graph, study.gated)
    for alpha in gates:
        alpha.data.uniform_(-1, 1)
    own = {name: alpha.detach().clone() for name, alpha in gates.gates.items()}
    expected = model(x)
    scores = gates.fold()
    assert torch.allclose(model(x), expected, rtol=1e-12)
    for name, alpha in own.items():
        scaled = before[f"{name}.weight"] * alpha.reshape(-1, 1, 1, 1)
        assert torch.equal(model.get_parameter(f"{name}.weight"), scaled)
    assert set(scores) == study.gated
    for target in gates.targets:
        [kernel] = target.kernels
        assert torch.equal(scores[target.group.name], own[kernel.name[: -len(".weight")]].abs())


def test_a_strong_penalty_decides_how_much_goes_and_random_pruning_takes_as_much() -> None:
    steps: list[None] = []
    settings = Settings(**(vars(TOY) | {"ratios": "0", "gamma": 0.095, "search": 5}))
    learned = Study(0, settings, partial(steps.append, None))
    [rarts] = learned.run("rarts")
    assert 0.2 < rarts["pruned"] < 1
    [random] = learned.run("random")
    assert random["pruned"] == pytest.approx(rarts["pruned"], abs=0.02)
    assert len(steps) <= total_steps(settings, ["rarts", "random"])


def test_the_table_has_a_line_for_each_method_and_ratio(study: Study) -> None:
    rows = [row | {"seed": seed} for seed in (0, 1) for row in study.run("l1")]
    rows += [study.baseline() | {"seed": 0}]
    text = page(rows)
    assert "| 50% | L1 |" in text
    assert f"{100 * (1 - rows[0]['tuned']):.1f} ± 0.0" in text


def test_cells_are_found_by_gradients_and_at_random() -> None:
    settings = nats.Settings(
        data="digits", channels=2, samples=64, batch=16, epochs=2, candidates=2
    )
    for method in ("rarts", "random"):
        steps: list[None] = []
        found = nats.run(method, 0, settings, partial(steps.append, None))
        again = nats.run(method, 0, settings, nothing)
        assert found == again
        assert len(steps) == nats.total_steps(method, settings)
        assert len(found.genotype.operations) == len(NATS.edges)
    assert found.history == []


def test_alpha_stands_still_while_it_is_warmed_up() -> None:
    settings = nats.Settings(data="digits", channels=2, samples=64, batch=16, epochs=2, warmup=1)
    first, last = nats.run("darts1", 0, settings, nothing).history
    even = torch.full((6, 5), 0.2)
    assert torch.allclose(torch.tensor(first), even, atol=1e-3)
    assert not torch.allclose(torch.tensor(last), even, atol=1e-3)


def test_random_cells_are_of_the_space_and_uniform() -> None:
    generator = torch.Generator().manual_seed(0)
    cells = [nats.drawn(generator) for _ in range(500)]
    able = nats.drawn(generator, none=False)
    names = [name for cell in cells for name in NATS.check(cell).operations]
    assert "none" not in able.operations
    assert all(abs(names.count(name) / len(names) - 0.2) < 0.03 for name in NATS.operations)


def test_the_table_of_cells_tells_ways_to_choose_apart() -> None:
    row = {"method": "rarts", "choice": "cell", "cifar10": 8.0, "cifar100": 30.0}
    row |= {"percentile": 60.0, "skips": 0.0, "seconds": 1.0}
    text = nats_page([row, row | {"choice": "perturbed", "cifar10": 6.0}])
    assert "| RARTS | mixing weights | 8.0 | 8.00 |" in text
    assert "| RARTS | perturbation | 6.0 | 6.00 |" in text


def test_cells_over_the_steps_are_those_of_the_mixing_weights_then(tmp_path: Path) -> None:
    tables = NatsTables(write_nats_table(tmp_path))
    tables._core["cifar100_test"] = tables._core["cifar10_test"]
    operations = list(NATS.operations)
    weights = {"none": 0.4, "nor_conv_3x3": 0.3, "skip_connect": 0.1}
    early = [[weights.get(name, 0.1) for name in operations]] * 6
    late = [[0.9 * (name == "skip_connect") for name in operations]] * 3 + early[3:]
    row = {"method": "darts1", "seed": 1, "seconds": 0.0, "history": [early, late]}
    rows = over_steps(row, tables, steps=50)
    assert [(r["steps"], r["choice"], r["skips"]) for r in rows] == [
        (50, "cell", 0), (50, "never none", 0), (100, "cell", 50), (100, "never none", 50),
    ]  # fmt: skip
    for found, name in zip(rows, ["none", "nor_conv_3x3"] * 2, strict=True):
        first = name if found["steps"] == 50 else "skip_connect"
        text = f"|{first}~0|+|{first}~0|{first}~1|+|{name}~0|{name}~1|{name}~2|"
        assert found["cifar10"] == 100 - tables.accuracy(text)


def test_the_table_over_the_steps_shows_the_first_epoch_and_the_quarters() -> None:
    rows = [
        {
            "method": "darts2",
            "choice": "cell",
            "steps": 200 * epoch,
            "cifar10": epoch,
            "skips": 50.0,
        }
        for epoch in range(1, 21)
    ]
    head, _, line = steps_table(rows).splitlines()
    assert head.endswith("| 200 steps | 1,000 steps | 2,000 steps | 3,000 steps | 4,000 steps |")
    assert line.startswith("| DARTS-2 | mixing weights | 1.0 (50.0) | 5.0 (50.0) |")


def test_networks_of_a_study_are_plain_again(study: Study) -> None:
    model, _ = study.searched("rarts")
    assert isinstance(model, nn.Module)
    assert list(model.state_dict()) == list(study.full.state_dict())
