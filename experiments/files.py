"""Output of the commands: atomic file writes, and deterministic PNG files."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.markdown import Markdown

from ramify.store.files import write_bytes


def write(path: Path, content: str | bytes) -> None:
    """Write a file atomically; its folder is created if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content.encode() if isinstance(content, str) else content)


def show(folder: Path, page: str) -> None:
    """Write a Markdown page as results.md, and print it."""
    write(folder / "results.md", page.rstrip("\n") + "\n")
    Console().print(Markdown(page))


def png(drawn: Figure, dpi: int = 160) -> bytes:
    """The bytes of a figure's PNG file; the same figure always gives the same bytes."""
    memory = io.BytesIO()
    drawn.savefig(memory, dpi=dpi, facecolor="white", metadata={"Software": None})
    return memory.getvalue()
