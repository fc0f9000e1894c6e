"""Recipes of networks whose blocks were dropped or inserted."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ramify
from ramify import Drop, Insert, Prune, RamifyError
from ramify.store.state import NetworkInTraining
from tests.block_nets import NETS, made
from tests.checks import distance, outputs

EDITS: list[tuple[str, list[Any]]] = [
    ("resnet", [Drop("layer1.0"), Insert("layer2.1"), Prune("layer2.2.conv1", 1)]),
    ("flat vgg", [Drop("3"), Insert("7")]),
    ("nested vgg", [Insert("1"), Insert("1")]),
    ("encoder", [Drop("layers.0")]),
    ("linked", [Drop("down.1")]),
    ("named", [Drop("second")]),
]


@pytest.mark.parametrize("name, edits", EDITS, ids=[name for name, _ in EDITS])
def test_a_network_of_another_depth_is_saved_and_loaded(
    name: str, edits: list[Any], tmp_path: Path
) -> None:
    model, x = made(name)
    ramify.apply(ramify.trace(model, x), edits)
    path = ramify.save(model, tmp_path / "net")
    again = ramify.load(path, build=NETS[name][0]).double().eval()
    assert distance(outputs(again, x), outputs(model, x)) == 0.0
    assert list(again.state_dict()) == list(model.state_dict())
    assert ramify.recipe_of(again) == ramify.recipe_of(model)
    # A recipe as JSON, and a network that has this depth already.
    recipe = json.loads(json.dumps(ramify.recipe_of(model)))
    other = ramify.reshape(NETS[name][0]().double(), recipe)
    ramify.reshape(other, recipe).load_state_dict(model.state_dict())
    assert distance(outputs(other.eval(), x), outputs(model, x)) == 0.0


def test_edits_go_on_after_loading(tmp_path: Path) -> None:
    model, x = made("preactivation")
    ramify.apply(ramify.trace(model, x), [Drop("0"), Insert("2")])
    again = ramify.load(ramify.save(model, tmp_path / "a"), build=NETS["preactivation"][0])
    again = again.double().eval()
    for each in (model, again):
        ramify.apply(ramify.trace(each, x), [Drop("1")])
    last = ramify.load(ramify.save(again, tmp_path / "b"), build=NETS["preactivation"][0])
    assert distance(outputs(last.double().eval(), x), outputs(model, x)) == 0.0
    assert ramify.recipe_of(last)["depth"]["lists"] == {"": [4, [1, 2, 3]]}


def test_networks_as_built_have_the_recipe_of_before() -> None:
    assert "depth" not in ramify.recipe_of(made("resnet")[0])


def test_a_recipe_of_another_list_is_refused_and_changes_nothing() -> None:
    model, x = made("preactivation")
    ramify.apply(ramify.trace(model, x), [Drop("1")])
    recipe = ramify.recipe_of(model)
    other = nn.Sequential(*(copy.deepcopy(model[0]) for _ in range(5)), nn.Conv2d(3, 2, 1))
    before = list(other.state_dict())
    with pytest.raises(RamifyError, match="from the 4 that its class built, and that of this mod"):
        ramify.reshape(other, recipe)
    lost, _ = made("preactivation")
    ramify.apply(ramify.trace(lost, x), [Drop("0")])
    names = list(lost.state_dict())
    with pytest.raises(RamifyError, match="has lost number 0"):
        ramify.reshape(lost, recipe)
    assert list(other.state_dict()) == before
    assert list(lost.state_dict()) == names


@pytest.mark.parametrize(
    "depth",
    [
        [],
        {"list": {}},
        {"lists": {"": [4]}},
        {"lists": {"": [4, [0] * 1000]}},
        {"lists": {"": [4, [0, 2, 9]]}},
        {"lists": {"nowhere": [4, [0, 2, 3]]}},
        {"skips": {"0": {"outputs": [0]}}},
        {"skips": {"0": {"outputs": [0.5], "bare": True}}},
        {"skips": []},
    ],
)
def test_a_damaged_recipe_is_refused(depth: Any) -> None:
    model, x = made("preactivation")
    ramify.apply(ramify.trace(model, x), [Drop("1")])
    recipe = ramify.recipe_of(model) | {"depth": depth}
    fresh, _ = made("preactivation")
    with pytest.raises(RamifyError, match=r"the shape recipe is damaged \(depth\)"):
        ramify.reshape(fresh, recipe)


def test_a_run_goes_on_to_the_same_bits() -> None:
    def fresh() -> tuple[nn.Module, Any, Any, nn.Module, dict[str, Any]]:
        model, x = made("convnext")
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        average = copy.deepcopy(model)
        return model, x, optimizer, average, dict(copy.deepcopy(model).state_dict())

    def train(model: nn.Module, x: Any, optimizer: Any, average: nn.Module) -> None:
        for _ in range(3):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
            for mean, now in zip(average.parameters(), model.parameters(), strict=True):
                mean.data.lerp_(now.data, 0.5)

    model, x, optimizer, average, table = fresh()
    train(model, x, optimizer, average)
    ramify.apply(
        ramify.trace(model, x),
        [Drop("1"), Insert("3")],
        optimizer=optimizer,
        followers=[average, table],
    )
    train(model, x, optimizer, average)
    stored = copy.deepcopy(NetworkInTraining(model, optimizer, [average, table]).state_dict())
    train(model, x, optimizer, average)

    other, x, again, mean, beside = fresh()
    run = NetworkInTraining(other, again, [mean, beside])
    run.load_state_dict(stored)
    assert [p.shape for p in again.param_groups[0]["params"]] == [
        p.shape for p in other.parameters()
    ]
    train(other, x, again, mean)
    for one, two in ((model, other), (average, mean)):
        for name, value in one.state_dict().items():
            assert torch.equal(value, two.state_dict()[name]), name
    assert list(beside) == list(table)


def test_another_optimizer_is_still_refused() -> None:
    model, x = made("convnext")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ramify.apply(ramify.trace(model, x), [Drop("1")], optimizer=optimizer)
    stored = NetworkInTraining(model, optimizer).state_dict()
    other, _ = made("convnext")
    partial = torch.optim.SGD([{"params": [p]} for p in other.parameters()], lr=0.1)
    with pytest.raises(RamifyError, match="resume with the same optimizer"):
        NetworkInTraining(other, partial).load_state_dict(stored)
