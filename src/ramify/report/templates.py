"""Fill the templates of pages."""

import re
from typing import Any

import jinja2

from ramify.report.theme import DARK, LIGHT

CHAPTERS = 3  # fewest chapters for a table of contents


def filled(template: str, **values: Any) -> str:
    """A page as text.

    Args:
        template: the name of the template's file.
        **values: its contents, by their names in the template; texts are escaped.

    Returns:
        Self-contained HTML.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ramify.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(template).render(palettes=(LIGHT, DARK), **values)
    return _with_contents(text) + "\n"


def _with_contents(text: str) -> str:
    """A page with anchors for its chapters, and a table of contents if the template has one."""
    links: list[str] = []

    def anchored(heading: re.Match[str]) -> str:
        title = heading[1]
        name = re.sub(r"[^a-z0-9]+", "-", re.sub(r"&[#\w]+;", "", title).lower()).strip("-")
        links.append(f'<a href="#{name}">{title}</a>')
        return f'<h2 id="{name}">{title}</h2>'

    text = re.sub(r"<h2>(.*?)</h2>", anchored, text)
    listed = "\n".join(links) if len(links) >= CHAPTERS else ""
    return text.replace("<nav></nav>", f"<nav>\n{listed}\n</nav>" if listed else "")
