"""Settings: what is filled in, what excludes what, and what comes back from disk."""

import json
from typing import Any

import pytest

from ramify import SplittingDescent, Threshold, TopFraction
from ramify.errors import RamifyError
from ramify.run.config import DEFAULTS, GrowConfig


@pytest.mark.parametrize("data", [*DEFAULTS, "some/folder"])
def test_a_data_set_alone_is_enough(data: str) -> None:
    config = GrowConfig.resolve({"data": data})
    assert config.data == data
    assert config.rounds > 0
    assert config.width is not None
    assert GrowConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_what_is_given_goes_before_any_default() -> None:
    given = {
        "data": "digits",
        "model": "vgg19",
        "width": 3,
        "rounds": 0,
        "epochs": 7,
        "batch_size": 9,
        "optimizer": "adamw",
        "lr": 0.25,
        "momentum": 0.5,
        "weight_decay": 0.0,
        "schedule": "steps",
        "fraction": 0.125,
        "step": 0.5,
        "surrogate": 2.0,
        "probe_samples": 11,
        "seed": 5,
        "seeds": 2,
        "compare": True,
        "device": "cuda:1",
        "threads": 3,
    }
    config = GrowConfig.resolve(given)
    assert config.to_json() == given | {"most": None, "threshold": None}
    training = config.training()
    assert (training.epochs, training.optimizer, training.lr) == (7, "adamw", 0.25)
    assert (training.momentum, training.weight_decay, training.schedule) == (0.5, 0.0, "steps")
    assert config.method() == SplittingDescent(step=0.5, surrogate=2.0)
    assert config.rule() == TopFraction(0.125)
    assert config.arms() == ("grown", "seed", "scratch", "wide")


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({}, TopFraction(0.35)),
        ({"most": 4}, Threshold(4, 0.0)),
        ({"threshold": -0.5}, Threshold(None, -0.5)),
        ({"most": 4, "threshold": -0.5}, Threshold(4, -0.5)),
    ],
)
def test_a_number_or_a_threshold_takes_the_place_of_the_share(
    given: dict[str, Any], rule: object
) -> None:
    assert GrowConfig.resolve({"data": "digits"} | given).rule() == rule


def test_no_surrogate_means_the_true_curvature() -> None:
    config = GrowConfig.resolve({"data": "digits", "surrogate": 0.0})
    assert config.method().surrogate is None


def test_a_function_of_the_user_is_not_forced_to_take_a_width() -> None:
    assert GrowConfig.resolve({"data": "digits", "model": "my.net:build"}).width is None
    given = {"data": "digits", "model": "my.net:build", "width": 8}
    assert GrowConfig.resolve(given).width == 8


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"fraction": 0.5, "most": 3}, "fraction was given together with most or threshold"),
        ({"fraction": 1.5}, "fraction lies above 0 and up to 1"),
        ({"most": 0}, "most is m_"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"probe_samples": 0}, "probe_samples is 0"),
        ({"seeds": 0}, "seeds is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"rounds": -1}, "rounds is -1; it must not be negative"),
        ({"epochs": 0}, "epochs is 0"),
        ({"step": 0.0}, "step is a positive length"),
        ({"optimizer": "lion"}, "unknown optimizer 'lion'"),
    ],
)
def test_settings_out_of_range_are_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RamifyError, match=message):
        GrowConfig.resolve({"data": "digits"} | given)


@pytest.mark.parametrize("change", [{"lr": None}, {"momentun": 0.9}])
def test_settings_of_another_version_are_named(change: dict[str, Any]) -> None:
    values = GrowConfig.resolve({"data": "digits"}).to_json()
    values = {k: v for k, v in (values | change).items() if change.get(k, 0) is not None}
    with pytest.raises(RamifyError, match=rf"{next(iter(change))} is missing or unknown"):
        GrowConfig.from_json(values)
