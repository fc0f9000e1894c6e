"""The options of a command, made from the fields of its settings: none is written twice."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from pydantic.fields import FieldInfo

from ramify.commands.defaults import default_in_words
from ramify.commands.settings import PANELS, RUN, Settings, option_of
from ramify.errors import RamifyError

COMMON = ("out", "resume", "config")  # of every command that makes a run folder

Out = Annotated[
    Path | None,
    typer.Option(
        help="A new folder for the run. Default: runs/DATA, numbered.", rich_help_panel=RUN
    ),
]
Resume = Annotated[
    Path | None,
    typer.Option(
        help="Resume an interrupted run, to the same result. Its settings are kept; only --device "
        "may differ.",
        rich_help_panel=RUN,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        help="Take settings from a JSON or YAML file, such as config.json of another run, which "
        "repeats that run; options given on the command line override the file.",
        rich_help_panel=RUN,
    ),
]


def takes(
    *kinds: type[Settings], first: Mapping[str, Any] | None = None, **others: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of its settings.

    The command is called with all settings that are given in one dictionary, and with ``out``,
    ``resume`` and ``config``.

    Args:
        *kinds: Its settings; of options of the same name, the first one's help is shown.
        first: Annotations of arguments that come before the options.
        **others: Annotations of further options.

    Returns:
        A decorator of ``command(given, out, resume, config, **first)``.
    """
    fields = {name: (kind, f) for kind in kinds[::-1] for name, f in kind.model_fields.items()}
    order: dict[str, Any] = {
        name: option
        for name, (kind, field) in fields.items()
        if (option := _option(name, kind, field))
    } | others
    ranked = sorted(order, key=lambda name: PANELS.index(_panel(order[name])))
    shown = {**(first or {}), **{name: order[name] for name in ranked}}
    shown |= {"config": Config, "out": shown.get("out", Out)}
    shown |= {"resume": shown.get("resume", Resume)}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def run(**options: Any) -> None:
            apart = {name: options.pop(name) for name in (*(first or {}), *COMMON)}
            command(parsed(options, fields), **apart)

        parameters = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
            for name, kind in shown.items()
        ]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = dict(shown)
        run.__name__ = command.__name__
        # A line of a docstring is no line of the terminal: only empty lines part paragraphs.
        paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
        run.__doc__ = "\n\n".join(" ".join(text.split()) for text in paragraphs)
        return run

    return decorate


def _option(name: str, kind: type[Settings], field: FieldInfo) -> Any:
    """The option of a field: its name, type, help and panel; None of what is no option."""
    entry = option_of(field)
    if entry is None:
        return None
    plain = scalar(field)
    taken: Any = {tuple: str, dict: list[str]}.get(container(field), plain)
    flag = f"--{name.replace('_', '-')}"
    return Annotated[
        taken | None,
        typer.Option(
            flag if plain is not bool else f"{flag}/--no-{flag[2:]}",
            help=_help(name, kind, str(field.description), entry),
            rich_help_panel=entry["panel"],
            show_default=False,
        ),
    ]


def _help(name: str, kind: type[Settings], text: str, entry: Mapping[str, Any]) -> str:
    """What an option is, its value where it is left open, and when it counts."""
    sentences, options = [text.removesuffix(".")], kind.options()
    if words := default_in_words(kind.kind, name):
        sentences.append(f"Default: {words}")
    for other, takers in entry["of"].items():
        rest = [choice for choice in options[other]["choices"] if choice not in takers]
        if takers == ("True",):
            sentences.append(f"Only with --{other}")
        elif len(rest) < len(takers):
            sentences.append(f"Not with --{other} {', '.join(rest)}")
        else:
            sentences.append(f"Only with --{other} {', '.join(takers)}")
    return "".join(f"{sentence}. " for sentence in sentences).rstrip()


def container(field: FieldInfo) -> Any:
    """``tuple`` or ``dict`` of a field that holds several values; else None."""
    kinds = [field.annotation, *get_args(field.annotation)]
    return next((c for c in (tuple, dict) for k in kinds if getattr(k, "__origin__", k) is c), None)


def scalar(field: FieldInfo) -> Any:
    """The type of a field, or of what it holds several of."""
    text = str(field.annotation)
    return next(k for k in (bool, int, float, str) if k.__name__ in text.replace("dict[str", ""))


def _panel(annotation: Any) -> str:
    return str(get_args(annotation)[1].rich_help_panel)


def parsed(
    options: Mapping[str, Any], fields: Mapping[str, tuple[type[Settings], FieldInfo]]
) -> dict[str, Any]:
    """The settings among the options of a command, without those left open."""
    given = {name: value for name, value in options.items() if value is not None and value != []}
    for name in set(given) & set(fields):
        field = fields[name][1]
        if container(field) is dict:
            given[name] = _table(name, given[name], field)
        elif container(field) is tuple:
            given[name] = _list(scalar(field), name, given[name])
    return given


def _list(kind: Callable[[str], Any], name: str, text: str) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        example = "2,3,4" if kind is int else "0.5,0.75"
        raise RamifyError(f"--{name} is {text!r}; give numbers such as {example}.") from None


def _table(name: str, texts: Sequence[str], field: FieldInfo) -> Any:
    """Numbers by name, of texts such as ``macs=1e9``; or one alone, where the setting takes one."""
    kinds = get_args(field.annotation)
    alone, held = (
        bool({int, float} & set(kinds)),
        str(next(kind for kind in kinds if get_args(kind))),
    )
    found: dict[str, float | str] = {}
    for text in texts:
        key, equals, most = (part.strip() for part in text.partition("="))
        if key in found:
            raise RamifyError(f"--{name} names {key} twice; give each once.")
        try:
            if alone and not equals and len(texts) == 1:
                return _number(key, whole="int" in held)
            share = "str]" in held and most.endswith("%")  # it stays as it is
            found[key] = most if share else _number(most, whole="int" in held)
        except ValueError:
            form = (option_of(field) or {})["form"]
            raise RamifyError(f"--{name} is {text!r}; give {form}.") from None
    return found


def _number(text: str, whole: bool) -> float | int:
    """A number; a whole one where it is written so and such numbers have a meaning of their own."""
    return int(text) if whole and text.isdigit() else float(text)
