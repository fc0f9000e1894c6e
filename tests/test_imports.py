"""Objects of the user by ``package.module:object``."""

from pathlib import Path
from typing import Any

import pytest

from ramify.errors import RamifyError
from ramify.imports import made, object_at


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("of_a_stranger.py").write_text(
        "class Outer:\n    inner = 3\n\ndef build(seed, size=2):\n    return seed, size\n"
    )
    Path("broken_of_a_stranger.py").write_text("import surely_not_there\n")


def test_a_module_of_the_current_directory_is_found() -> None:
    assert object_at("of_a_stranger:Outer.inner", "number") == 3


@pytest.mark.parametrize(
    "text, said",
    [
        ("word", "unknown method 'word': give a name."),
        ("of_a_stranger:", "unknown method"),
        (
            "of_a_stranger:gone",
            "of_a_stranger has no 'gone', which the method .* asks for: correct",
        ),
        ("no.such:thing", "there is no module 'no', which the method 'no.such:thing' asks for"),
    ],
)
def test_what_is_not_there_is_named(text: str, said: str) -> None:
    with pytest.raises(RamifyError, match=said):
        object_at(text, "method", "a name")


def test_what_the_users_module_lacks_is_theirs_to_see() -> None:
    with pytest.raises(ModuleNotFoundError, match="surely_not_there"):
        object_at("broken_of_a_stranger:x", "method")


def test_a_function_is_called_with_what_it_takes() -> None:
    build = object_at("of_a_stranger:build", "method")
    offered: dict[str, Any] = {"seed": 5, "other": 1}
    assert made(build, "of_a_stranger:build", "method", **offered) == (5, 2)
    with pytest.raises(RamifyError, match=r"missing a required argument: 'seed'.*give a default"):
        made(build, "of_a_stranger:build", "method")
