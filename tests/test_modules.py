"""Every module is what its name says, and `import ramify` brings no more than the library needs."""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import ramify

EXTRAS = (
    "matplotlib",
    "PIL",
    "sklearn",
    "jinja2",
    "typer",
    "rich",
    "pydantic",
    "pandas",
    "grandalf",
    "lightning",
    "transformers",
    "optuna",
    "tensorboard",
)


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
    assert not hidden


WITHOUT = f"""
import sys
sys.modules.update(dict.fromkeys({EXTRAS}))  # as if they were not installed
"""


def run(code: str) -> str:
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_the_library_imports_nothing_of_the_extras() -> None:
    code = f"import sys, ramify.public; print([name for name in {EXTRAS} if name in sys.modules])"
    assert run(code).strip() == "[]"


def test_the_first_block_of_the_readme_runs_without_the_extras() -> None:
    page = (Path(__file__).parents[1] / "README.md").read_text()
    [block, *_] = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert "3 channel groups" in run(WITHOUT + block)


def test_what_needs_an_extra_says_so() -> None:
    said = """
from ramify.data import load
for name in ("digits", "."):
    try:
        load(name)
    except ValueError as error:
        print(error)
import ramify
for name in ("lightning", "hf"):
    try:
        getattr(ramify, name)
    except ValueError as error:
        print(error)
"""
    digits, folder, callbacks, callback = run(WITHOUT + said).splitlines()
    assert callbacks.endswith('lightning, which is not installed: pip install "ramify[lightning]".')
    assert callback.endswith(
        'transformers, which is not installed: pip install "ramify[transformers]".'
    )
    assert digits.endswith('sklearn, which is not installed: pip install "ramify[cli]".')
    assert folder.endswith('PIL, which is not installed: pip install "ramify[cli]".')
