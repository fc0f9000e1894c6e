"""The code on the documentation pages runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOTEBOOKS = sorted((ROOT / "docs").glob("*.ipynb"))
EXTRAS = {  # page -> extra it needs
    "diffusers.md": "diffusers",
    "experts.md": "transformers",
    "lightning.md": "lightning",
    "llm.md": "transformers",
    "trainer.md": "transformers",
    "transformers.md": "transformers",
    "yolo.md": "ultralytics",
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page: Path) -> None:
    if page.name in EXTRAS:
        extra = EXTRAS[page.name]
        pytest.importorskip(extra, reason=f"needs the extra: pip install 'ramify[{extra}]'")
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    names: dict[str, object] = {"__name__": "docs"}
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda page: page.name)
def test_notebooks_run(notebook: Path) -> None:
    cells = json.loads(notebook.read_text())["cells"]
    names: dict[str, object] = {"__name__": "docs"}
    for cell in (cell for cell in cells if cell["cell_type"] == "code"):
        assert cell["outputs"] == []  # what a reader sees comes from their own run
        exec(compile("".join(cell["source"]), str(notebook), "exec"), names)
    for target in re.findall(r"\]\(([^)#:]+)\)", notebook.read_text()):
        assert (notebook.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_how_it_works_names_every_file_of_the_core() -> None:
    page = (ROOT / "docs" / "how-it-works.md").read_text()
    shell = {"commands", "cli", "report", "models", "data"}
    files = [path.relative_to(ROOT / "src" / "ramify") for path in (ROOT / "src").rglob("*.py")]
    core = [file for file in files if file.parts[0] not in shell and file.stem[:2] != "__"]
    assert len(core) > 90
    assert [str(file) for file in core if file.name not in page] == []


def test_each_promise_names_a_test_or_a_command_that_is_there() -> None:
    page = (ROOT / "docs" / "promises.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("|") and "---" not in line]
    promises = [row for row in rows if not row.endswith("| test |")]
    assert len(promises) > 15
    for row in promises:
        named = re.findall(r"`(tests/[\w/]+\.py)`", row)
        assert named, row
        assert [name for name in named if not (ROOT / name).is_file()] == []
        for module in re.findall(r"`python -m ([\w.]+)`", row):
            path = ROOT / module.replace(".", "/")
            assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


def test_every_page_has_its_place_in_the_site_and_among_the_tasks() -> None:
    site, tasks = (ROOT / "mkdocs.yml").read_text(), (ROOT / "docs" / "index.md").read_text()
    for page in (*PAGES[1:], *NOTEBOOKS):
        assert f": {page.stem}.md\n" in site, page.name
        assert page.name == "index.md" or f"({page.name})" in tasks, page.name
