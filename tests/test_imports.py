"""Objects of the user by ``package.module:object``."""

import re
from pathlib import Path
from typing import Any

import pytest

from ramify.errors import RamifyError
from ramify.imports import made, object_at, place_in_users_code, takes_arguments


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
        ("./of_a_stranger:Outer", "is no name of a module: write it as an import would"),
        ("of_a_stranger.py:Outer", "names a file, .* give of_a_stranger:Outer"),
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


def test_a_function_of_other_arguments_is_refused() -> None:
    takes_arguments(lambda graph, loss, batches=(): None, 3, "propose(...)", "mine:X", "method")
    with pytest.raises(RamifyError, match=r"mine:X has <lambda>\(graph\), which cannot be called"):
        takes_arguments(lambda graph: None, 3, "propose(graph, loss, batches)", "mine:X", "method")


@pytest.mark.parametrize(
    "text, kind, said",
    [
        ("x = = 1\n", SyntaxError, "in line 1 of "),
        ("def f():\n    raise ValueError\nf()\n", ValueError, "in line 2 of .*, in f$"),
        ("import json\njson.loads('{')\n", ValueError, "in line 2 of "),
    ],
)
def test_an_error_in_the_users_code_has_a_place_there(
    tmp_path: Path, text: str, kind: type[Exception], said: str
) -> None:
    (name := tmp_path / "a_wrong_file_of_a_stranger.py").write_text(text)
    with pytest.raises(kind) as raised:
        exec(compile(text, str(name), "exec"), {})
    raised.value.__traceback__ = raised.value.__traceback__.tb_next  # without this test's own frame
    assert re.search(said, str(place_in_users_code(raised.value)))


def test_an_error_of_ramify_or_of_a_package_has_no_place_in_the_users_code() -> None:
    with pytest.raises(RamifyError) as raised:
        object_at("word", "method")
    raised.value.__traceback__ = raised.value.__traceback__.tb_next
    assert place_in_users_code(raised.value) is None
