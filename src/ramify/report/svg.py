"""From a matplotlib figure to SVG that can stand inside a page, or alone in a file."""

import io
import re
from html import escape

import matplotlib
from matplotlib.figure import Figure

from ramify.report.theme import DARK, LIGHT, SETTINGS

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
    text = _written(figure)
    text = re.sub(r"<[^>]*>", lambda found: _tag(found[0], name), text)
    return re.sub(r"^<svg[^>]*>", lambda found: _head(found[0], label), text).strip()


def standalone_svg(figure: Figure, label: str) -> str:
    """Write a figure as an SVG file of its own.

    Every colour stands in it as it is, for programs that know no variables; viewers that have a
    dark form, as browsers do, get the dark colours by a rule for each.

    Args:
        figure: the figure.
        label: what it shows, for readers who do not see it.

    Returns:
        The text of the file, on the colour of a card.
    """
    text = _written(figure, face=LIGHT["card"])
    rules = "".join(
        f'[style*="{kind}: {color}"]{{{kind}:{DARK[role]}!important}}'
        for role, color in LIGHT.items()
        for kind in ("fill", "stroke")
        if f"{kind}: {color}" in text
    )
    style = f"<style>@media (prefers-color-scheme: dark){{{rules}}}</style>"
    title = f"<title>{escape(label)}</title>"
    return re.sub(r"^<svg[^>]*>", lambda found: found[0] + title + style, text).strip() + "\n"


def _written(figure: Figure, face: str = "none") -> str:
    """The ``<svg>`` element that matplotlib makes of a figure, without comments and metadata."""
    buffer = io.StringIO()
    with matplotlib.rc_context(SETTINGS):
        figure.savefig(buffer, format="svg", facecolor=face)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)


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
