"""What the commands write: files whole or not at all, pictures the same for the same figure."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.markdown import Markdown

from ramify.store.files import write_bytes


def write(path: Path, content: str | bytes) -> None:
    """Write a file, whole or not at all, into a folder that is made where it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content.encode() if isinstance(content, str) else content)


def show(folder: Path, page: str) -> None:
    """Write a page of Markdown as results.md, and print it."""
    write(folder / "results.md", page.rstrip("\n") + "\n")
    Console().print(Markdown(page))


def png(drawn: Figure, dpi: int = 160) -> bytes:
    """A figure as the bytes of a PNG, the same for the same figure."""
    memory = io.BytesIO()
    drawn.savefig(memory, dpi=dpi, facecolor="white", metadata={"Software": None})
    return memory.getvalue()
