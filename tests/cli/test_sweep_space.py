import pytest

from ramify.cli.sweep_space import (
    Choices,
    Range,
    combinations,
    drawn_in_words,
    settings_of,
    space_of,
)
from ramify.commands.grow_settings import GrowSettings
from ramify.commands.prune_settings import PruneSettings
from ramify.errors import RamifyError


def test_choices_and_ranges() -> None:
    texts = ["method=s2d, random", "--lr=0.01..0.3:log", "rounds=1..4", "batch-size=16,32"]
    assert space_of(GrowSettings, texts) == {
        "method": Choices(("s2d", "random")),
        "lr": Range(0.01, 0.3, log=True, whole=False),
        "rounds": Range(1, 4, log=False, whole=True),
        "batch_size": Choices(("16", "32")),
    }


def test_what_was_drawn_becomes_settings_of_their_types() -> None:
    drawn = {"budget": "macs=30%", "lr": 0.125, "rounds": 2, "batch_size": "16", "refit": "false"}
    assert settings_of(PruneSettings, drawn) == {
        **{"budget": {"macs": "30%"}, "lr": 0.125, "rounds": 2, "batch_size": 16, "refit": False}
    }
    assert settings_of(GrowSettings, {"keep": "layer1*=3"}) == {"keep": {"layer1*": 3}}
    assert drawn_in_words({"lr": 1 / 3, "method": "s2d"}) == "lr=0.3333 method=s2d"


def test_every_combination_of_choices() -> None:
    space = space_of(GrowSettings, ["method=s2d,random", "lr=0.1,0.2"])
    assert combinations(space) == [
        {"method": method, "lr": lr} for method in ("s2d", "random") for lr in ("0.1", "0.2")
    ]
    assert combinations(space_of(GrowSettings, ["method=s2d", "lr=0.1..0.2"])) is None


@pytest.mark.parametrize(
    "text, said",
    [
        ("lr", "give NAME=VALUE"),
        ("lr=", "give NAME=VALUE"),
        ("lrr=1,2", r"no setting 'lrr' \(did you mean 'lr'\?\)"),
        ("seeds=1,2", "seeds cannot be varied, since results would not compare"),
        ("data=digits,mnist", "data cannot be varied"),
        ("milestones=0.1,0.2", "milestones cannot be varied, since it is a list"),
        ("lr=0.3..0.1", "the range of lr is 0.3..0.1; give the smaller number first"),
        ("lr=0..0.1:log", "the smaller number first, above 0"),
        ("rounds=1..2.5", "give whole numbers, the smaller"),
        ("lr=a..b", "a range is of a setting that is a number"),
        ("method=a..b", "a range is of a setting that is a number"),
        ("budget=1..2", "a range is of a setting that is a number"),
        ("lr=0.1,x", r"lr is 'x' in --vary; give a number, several .* range such as 0\.1\.\.0\.3"),
        ("rounds=1,2.5", "give a whole number"),
        ("trial=yes,no", "give true or false"),
        ("budget=x=y", "--budget is 'x=y'; give one of params"),
        ("method=s2d,s2dd", r"no method 's2dd' \(did you mean 's2d'\?\)"),
    ],
)
def test_what_cannot_be_varied_is_refused(text: str, said: str) -> None:
    with pytest.raises(RamifyError, match=said):
        space_of(GrowSettings, [text])


def test_something_has_to_vary_and_each_once() -> None:
    with pytest.raises(RamifyError, match="a sweep needs a setting to vary"):
        space_of(GrowSettings, [])
    with pytest.raises(RamifyError, match="names lr twice"):
        space_of(GrowSettings, ["lr=1,2", "lr=0.1..0.2"])
