"""The public names: there when asked for, and not before."""

import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import ramify

ROOMS = [found.name for found in pkgutil.iter_modules(ramify.__path__) if found.name != "__main__"]


def test_every_public_name_is_there() -> None:
    assert all(hasattr(ramify, name) for name in ramify.__all__)
    assert len(set(ramify.__all__)) == len(ramify.__all__)
    assert set(ramify.__all__) < set(dir(ramify))
    assert ramify.__version__.count(".") == 2
    with pytest.raises(AttributeError, match="module 'ramify' has no attribute 'gone'"):
        _ = ramify.gone  # type: ignore[attr-defined]


def test_the_package_alone_imports_nothing_heavy() -> None:
    program = "import sys, ramify; print({'torch', 'numpy', 'scipy'} & set(sys.modules))"
    assert python(program) == "set()\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_every_room_may_be_imported_first() -> None:
    program = (
        "import os, sys, torch\n"
        "for room in sys.argv[1:]:\n"
        "    if not (child := os.fork()):\n"
        "        __import__(f'ramify.{room}')\n"
        "        os._exit(0)\n"
        "    assert os.waitpid(child, 0)[1] == 0, room\n"
        "print('all')\n"
    )
    assert python(program, *ROOMS) == "all\n"


def test_a_star_brings_the_public_names() -> None:
    found: dict[str, object] = {}
    exec("from ramify import *", found)
    assert found.keys() - {"__builtins__"} == set(ramify.__all__)


DOCUMENTED = ("public", "relax", "cells", "latency", "probe.reads", "testing", "data", "models")


def test_every_public_class_and_function_has_an_example() -> None:
    without = set()
    for room in DOCUMENTED:
        module = importlib.import_module(f"ramify.{room}")
        for name in module.__all__:
            thing = getattr(module, name)
            if (inspect.isclass(thing) or inspect.isfunction(thing)) and (
                ">>> " not in (inspect.getdoc(thing) or "")
            ):
                without.add(f"{room}.{name}")
    assert not without


def python(program: str, *arguments: str) -> str:
    source = str(Path(ramify.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
