"""The pages' templates, filled."""

from typing import Any

import jinja2

from ramify.report.theme import DARK, LIGHT


def filled(template: str, **values: Any) -> str:
    """A page as text.

    Args:
        template: the name of the template's file.
        **values: what it shows, by the names that it gives them; texts are escaped.

    Returns:
        HTML that refers to nothing outside itself.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ramify.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(palettes=(LIGHT, DARK), **values) + "\n"
