"""From a matplotlib figure to SVG that can stand inside a page."""

import io
import re
from html import escape

import matplotlib
from matplotlib.figure import Figure

from ramify.report.theme import LIGHT, SETTINGS

_VARIABLES = {color: f"var(--{role})" for role, color in LIGHT.items()}


def inline_svg(figure: Figure, name: str, label: str) -> str:
    """Write a figure as an SVG element with real text and the page's colours.

    Args:
        figure: the figure.
        name: a word that no other figure of the page has; it begins every id.
        label: what the figure shows, for readers who do not see it.

    Returns:
        One ``<svg>`` element that refers to nothing outside itself.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context(SETTINGS):
        figure.savefig(buffer, format="svg")
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"<[^>]*>", lambda found: _tag(found[0], name), text)
    return re.sub(r"^<svg[^>]*>", lambda found: _head(found[0], label), text).strip()


def _tag(tag: str, name: str) -> str:
    """A tag with ids of its own, two decimals and the page's colours."""
    tag = tag.replace("xlink:href=", "href=")
    tag = re.sub(r'\bid="', f'id="{name}-', tag)
    tag = re.sub(r'href="#|url\(#', lambda found: f"{found[0]}{name}-", tag)
    tag = re.sub(r"(\.\d\d)\d+", r"\1", tag)
    return re.sub(r"#[0-9a-f]{6}\b", lambda found: _VARIABLES.get(found[0], found[0]), tag)


def _head(opening: str, label: str) -> str:
    """The opening tag with its size in CSS pixels and without namespaces, which HTML implies."""
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', opening)
    assert box is not None
    width = float(box[1]) * 4 / 3
    return (
        f'<svg role="img" aria-label="{escape(label, quote=True)}" viewBox="0 0 {box[1]} {box[2]}" '
        f'style="width:{width:.0f}px">'
    )
