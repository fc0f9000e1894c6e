"""Every module is what its name says, and `import ramify` brings no more than the library needs."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import ramify

EXTRAS = ("matplotlib", "PIL", "sklearn", "jinja2", "typer", "rich", "pydantic", "pandas")


HIDDEN = {"ramify.cli.prune"}  # by the command of that name


def test_every_module_is_an_attribute_of_its_package() -> None:
    names = [found.name for found in pkgutil.walk_packages(ramify.__path__, "ramify.")]
    assert len(names) > 100
    hidden = set()
    for name in (name for name in names if not name.endswith("__main__")):
        module = importlib.import_module(name)
        reached = ramify
        for part in name.split(".")[1:]:
            reached = getattr(reached, part)
        if reached is not module:
            hidden.add(name)
    assert hidden <= HIDDEN


def test_the_library_imports_nothing_of_the_extras() -> None:
    code = f"import sys, ramify; print([name for name in {EXTRAS} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_public_names_are_there() -> None:
    assert sorted(set(ramify.__all__)) == sorted(ramify.__all__)
    assert all(hasattr(ramify, name) for name in ramify.__all__)
    assert ramify.__version__.count(".") == 2
