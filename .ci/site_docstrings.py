"""Docstrings as the site shows them: roles and formulas of reStructuredText in Markdown."""

import re
import textwrap
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|class|meth|mod|attr|data):`~?([^`]+)`")
FORMULA = re.compile(r"^( *)\.\. math:: *(.*(?:\n(?:\1 +.*| *))*)", re.MULTILINE)
EXAMPLE = re.compile(r"^( *)Example:$", re.MULTILINE)  # griffe knows the plural alone
INLINE = re.compile(r":math:`([^`]+)`")


def in_markdown(text: str) -> str:
    """A docstring without directives and roles: ``:func:`ramify.grow``` as code, and so on."""
    text = EXAMPLE.sub(r"\1Examples:", text)
    text = FORMULA.sub(lambda found: _block(found[1], found[2]), text)
    return INLINE.sub(r"`\1`", ROLE.sub(r"`\1`", text))


def _block(indent: str, formula: str) -> str:
    lines = textwrap.dedent(formula).strip().splitlines()
    return "\n".join(f"{indent}{line}" for line in ["```tex", *lines, "```", ""])


class Plain(griffe.Extension):
    """Lets griffe read docstrings in Markdown."""

    def on_object(self, *, obj: griffe.Object, **others: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring is not None:
            obj.docstring.value = in_markdown(obj.docstring.value)
