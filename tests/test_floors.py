"""The house: every room of the package imports only from the floors below its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "ramify"
SOURCE = Path(__file__).parents[1] / "src" / PACKAGE
ROOF = "__init__"  # the public names: imports from everywhere, imported by nobody inside

# From the ground up. Rooms of one floor do not know each other.
FLOORS = (
    {"errors"},
    {"imports", "peers", "arguments"},
    {"tracing"},
    {"edit", "distributed"},
    {"store"},
    {"cost"},
    {"latency"},
    {"probe"},
    {"methods"},
    {"select"},
    {"refit"},
    {"relax", "testing"},
    {"cells"},
    {"models", "data"},
    {"train"},
    {"lightning", "hf"},
    {"commands"},
    {"report"},
    {"cli"},
    {"__main__"},
    {"public"},
    {ROOF},
)
HEIGHT = {room: height for height, floor in enumerate(FLOORS) for room in floor}
GROUND = {"errors", "imports", "arguments"}
GROUND_ONLY = {"models", "data"}  # plain PyTorch: of the whole house they know the ground alone


def violations(source: Path) -> list[str]:
    """All imports under ``source``, the package's folder, that break the rule."""
    found = []
    for path in sorted(source.rglob("*.py")):
        module = path.relative_to(source).with_suffix("").parts
        if module[0] not in HEIGHT:
            found.append(f"{'/'.join(module)}: no floor is given for {module[0]}")
            continue
        rooms = {room for room in imported(path, module) if not allowed(module[0], room)}
        found += [f"{'/'.join(module)} imports {room}" for room in sorted(rooms)]
    return found


def allowed(importer: str, room: str) -> bool:
    """Whether a module of one room may import from another."""
    if importer == room and room != ROOF:
        return True
    if importer in GROUND_ONLY:
        return room in GROUND
    return room in HEIGHT and HEIGHT[room] < HEIGHT[importer]


def imported(path: Path, module: tuple[str, ...]) -> Iterator[str]:
    """The rooms that a file imports, at its top, in its functions or for its types alone."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = list(imported_names(node, module))
        else:
            continue
        for name in names:
            if name[0] == PACKAGE:
                yield name[1] if len(name) > 1 else ROOF


def imported_names(node: ast.ImportFrom, module: tuple[str, ...]) -> Iterator[list[str]]:
    """Full dotted names of ``from ... import ...``, relative ones resolved."""
    start = [PACKAGE, *module][: -node.level] if node.level else []
    start += node.module.split(".") if node.module else []
    for alias in node.names:
        yield [*start, alias.name] if alias.name in HEIGHT or len(start) > 1 else start


def test_the_house_stands():
    assert violations(SOURCE) == []


@pytest.mark.parametrize(
    "path, code",
    [
        ("edit.py", "from ramify.tracing import trace"),
        ("edit.py", "from ramify import tracing"),
        ("edit.py", "import ramify.tracing.groups"),
        ("edit.py", "from .tracing import trace"),
        ("edit.py", "from . import tracing"),
        ("edit.py", "import torch, os.path; from pathlib import Path"),
        ("tracing/groups.py", "from ramify.tracing.recorder import Tape"),
        ("tracing/rules/norms.py", "from ..labels import Label"),
        ("tracing/rules/norms.py", "from ...errors import RamifyError"),
        ("tracing/__init__.py", "from .groups import ChannelGraph"),
        ("models/vgg.py", "from ramify.errors import RamifyError"),
        ("data/catalog.py", "from ramify.imports import object_at"),
        ("data/catalog.py", "from ramify.data.digits import load_digits"),
        ("cli.py", "import ramify.report, ramify.train"),
        ("__init__.py", "from ramify.cli import app"),
    ],
)
def test_good_imports(tmp_path, path, code):
    assert violations_of(tmp_path, path, code) == []


@pytest.mark.parametrize(
    "path, code, room",
    [
        ("tracing/groups.py", "from ramify.edit import apply", "edit"),
        ("tracing/groups.py", "from ramify import edit", "edit"),
        ("tracing/groups.py", "from ramify import errors, edit", "edit"),
        ("tracing/groups.py", "import torch, ramify.edit as e", "edit"),
        ("tracing/groups.py", "from ..edit import apply", "edit"),
        ("tracing/groups.py", "from .. import edit", "edit"),
        ("tracing/rules/norms.py", "from ...edit import apply", "edit"),
        ("tracing/__init__.py", "from ..edit import apply", "edit"),
        ("tracing/groups.py", "def f():\n    from ramify.edit import apply", "edit"),
        ("tracing/groups.py", "class A:\n    def f(self):\n        import ramify.edit", "edit"),
        ("tracing/groups.py", "if TYPE_CHECKING:\n    from ramify.edit import Edit", "edit"),
        ("edit/apply.py", "from ramify.distributed import rank", "distributed"),
        ("probe/lanczos.py", "from ramify.methods import Taylor", "methods"),
        ("models/vgg.py", "from ramify.tracing import trace", "tracing"),
        ("models/vgg.py", "from ramify.data import load", "data"),
        ("train/grow.py", "from ramify.report import page", "report"),
        ("train/grow.py", "from ramify import grow", "__init__"),
        ("train/grow.py", "import ramify", "__init__"),
        ("train/grow.py", "from .. import grow", "__init__"),
        ("cli.py", "from . import __version__", "__init__"),
        ("errors.py", "from ramify.unheard_of import x", "unheard_of"),
    ],
)
def test_bad_imports(tmp_path, path, code, room):
    module = path.removesuffix(".py")
    assert violations_of(tmp_path, path, code) == [f"{module} imports {room}"]


def test_rooms_without_a_floor(tmp_path):
    assert violations_of(tmp_path, "helpers/text.py", "import os") == [
        "helpers/text: no floor is given for helpers"
    ]


def violations_of(folder: Path, path: str, code: str) -> list[str]:
    """The violations of a package that has one module."""
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(code)
    return violations(folder)
