"""The settings of a run: each said once, with its type, bounds, help, and to what it belongs.

A command's settings are the fields of a pydantic model. From these come its options on the command
line and their help (:mod:`ramify.cli.options`), ``config.json`` and its check, and what is refused.
What is left open is filled in from :mod:`ramify.commands.defaults`. So a new option is one field,
and one value in that table.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from ramify.commands.defaults import DATA_SETS, defaults
from ramify.commands.settings_file import read_settings
from ramify.errors import RamifyError, did_you_mean
from ramify.imports import refuse_foreign, require

if TYPE_CHECKING:
    from ramify.data import Dataset, Task
    from ramify.probe.loss import Loss
    from ramify.train.epoch import Training

# The panels of the help, in their order.
SWEEP, WHAT, GROW, SEARCH, CUT, TRAIN, RUN = PANELS = (
    "The sweep",
    "What",
    "How to grow",
    "How to search",
    "How to cut",
    "How to train",
    "The run",
)
OWN = "package.module:object"  # stands for every name of that form
TASKS = ("classification", "regression", "segmentation", "text")
DOORS = ("data", "model", "method", "rule", "searcher", "space")  # settings that may be such a name
AGAIN = "restore it, or begin a new run in another folder."
KINDS_OF_JSON = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "a text",
    "array": "a list",
    "object": "a table of numbers",
    "null": "null",
}
MOST, LARGEST = 2**31 - 1, 1e38  # of a whole number, and of any: what torch takes
LONG = 80  # characters of a value that a refusal shows
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def option(
    panel: str,
    text: str,
    *,
    choices: tuple[str, ...] = (),
    of: Mapping[str, tuple[str, ...]] | None = None,
    form: str = "",
    **bounds: float,
) -> Any:
    """A setting that is also an option of the command line.

    Args:
        panel: Where its help stands.
        text: Its help; ``{}`` stands for the choices.
        choices: The names that it takes; `OWN` among them stands for the user's own.
        of: For which choices of other settings it counts, such as ``{"method": ("s3d",)}``; it is
            None for all others, which refuse it.
        form: Of a table of numbers: what to give, the end of the sentence that refuses another.
        **bounds: ``ge``, ``gt``, ``le``, ``lt``, as pydantic has them.

    Returns:
        The field of a :class:`Settings`.
    """
    entry: dict[str, Any] = {"panel": panel, "choices": choices, "of": dict(of or {}), "form": form}
    field: Any = Field
    entry |= bounds
    return field(
        description=text.format(", ".join(choices)), json_schema_extra={"option": entry}, **bounds
    )


def option_of(field: FieldInfo) -> dict[str, Any] | None:
    """The entry created by :func:`option`; None for a field that is not an option."""
    extra = field.json_schema_extra
    entry: Any = extra.get("option") if isinstance(extra, dict) else None
    return entry


class Settings(BaseModel, ABC):
    """The settings of one kind of run, stored in ``config.json`` of its folder."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )
    kind: ClassVar[str]
    # Settings of which the command line's take the place of a file's: they exclude each other.
    rivals: ClassVar[tuple[tuple[str, ...], ...]] = ()

    data: str = option(
        WHAT,
        f"The data set: {', '.join(DATA_SETS)}, or NAME for NAME.npz (digits is built in, the "
        "others are read from the folder that RAMIFY_DATA names); a folder with images in "
        "train/CLASS/* and test/CLASS/*, or only in CLASS/*, which is split; FILE.csv, to predict "
        "the last column, or FILE.csv:COLUMN; or package.module:object, your own object with "
        "arrays x_train, y_train, x_test and y_test, or a function that returns one.",
    )
    epochs: int = option(
        TRAIN, "Passes over the data before and after each change of the shape.", ge=1
    )
    batch_size: int = option(TRAIN, "Samples per training step.", ge=1)
    seed: int = option(RUN, "The first random seed.", ge=0)
    seeds: int = option(RUN, "How many seeds to run, one after the other.", ge=1, le=100_000)
    device: str = option(RUN, "A device of torch, such as cpu or cuda")
    # A setting of the run, because the last bit of a sum depends on it.
    threads: int = option(
        RUN, "Number of CPU threads; a small network needs only one", ge=1, le=1024
    )
    tensorboard: bool = option(
        RUN, "Also write a TensorBoard log: tensorboard --logdir RUN/tensorboard shows it."
    )

    @classmethod
    def command(cls) -> str:
        """The command that makes such runs."""
        return cls.kind.partition("-")[0]

    @classmethod
    def resolve(cls, given: Mapping[str, Any], base: Mapping[str, Any] | None = None) -> Self:
        """Fill in what the user left open."""
        known = cls.over(cls.tidied(base or {}), cls.tidied(given))
        values = defaults(cls.kind, known)
        cls.fill(values, known)
        return cls.checked({**values, **known}, cls.tidied(given))

    @classmethod
    def checked(cls, values: dict[str, Any], given: Mapping[str, Any]) -> Self:
        """The settings after consistency checks; those that do not apply are None."""
        if values["threads"] is None:
            import torch

            values["threads"] = torch.get_num_threads()
        for name, entry in cls.options().items():
            check_choice(name, values.get(name), entry["choices"])
        cls.refuse(given, values)
        for name, entry in cls.options().items():
            selector = cls.unmet(entry, values)
            if selector and name in given:
                takers = ", ".join(entry["of"][selector])
                raise RamifyError(
                    f"{name} is not a setting of the {selector} {values[selector]}, only of "
                    f"{takers}; leave it out, or choose another {selector}."
                )
            if selector:
                values[name] = None
        settings = cls.made({name: values.get(name) for name in cls.model_fields}, "")
        settings.check()
        return settings

    @classmethod
    def made(cls, values: Mapping[str, Any], file: str) -> Self:
        """The model, with pydantic's refusals in one sentence; ``file`` says where values stand."""
        try:
            made = cls(**values)
        except ValidationError as error:
            raise RamifyError(cls._sentence(error, values, file)) from None
        for name, value in made:
            most = MOST if isinstance(value, int) else LARGEST
            if isinstance(value, int | float) and not -most <= value <= most:
                seen = str(value) if len(str(value)) < LONG else f"{str(value)[:LONG]}…"
                raise RamifyError(f"{name} is {seen}; it must be between {-most} and {most}.")
        return made

    @classmethod
    def tidied(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Settings as they are kept, where they may be given in other words."""
        return dict(given)

    @classmethod
    def fill(cls, values: dict[str, Any], given: Mapping[str, Any]) -> None:
        """Set the defaults that depend on other settings; ``values`` is changed."""

    @classmethod
    def refuse(cls, given: Mapping[str, Any], values: dict[str, Any]) -> None:
        """Raise a RamifyError if a given setting excludes another or has no effect."""

    @classmethod
    def choice(cls, selector: str, values: Mapping[str, Any]) -> str:
        """What a setting that others depend on is set to; `OWN` for what is the user's own."""
        value = str(values.get(selector))
        return OWN if ":" in value else value

    @classmethod
    def unmet(cls, entry: Mapping[str, Any], values: Mapping[str, Any]) -> str | None:
        """The setting for whose value an option does not count; None where it counts."""
        for selector, takers in entry["of"].items():
            if cls.choice(selector, values) not in takers:
                return str(selector)
        return None

    @classmethod
    def options(cls) -> dict[str, dict[str, Any]]:
        """The entry of each option, as :func:`option` made it, by name."""
        found = {name: option_of(field) for name, field in cls.model_fields.items()}
        return {name: entry for name, entry in found.items() if entry}

    @classmethod
    def over(cls, base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Given settings over those of a file, without those of the file that they contradict."""
        options, gone = cls.options(), set[str]()
        for names in cls.rivals:
            gone |= set(names) if set(names) & set(given) else set()
        kept = {name: v for name, v in base.items() if v is not None and name not in gone}
        both = {**kept, **given}
        for name in set(kept) & set(options):
            selector = cls.unmet(options[name], both)
            if selector in given:
                del kept[name]
        return {**kept, **given}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], file: str = "config.json") -> Self:
        """The settings stored in a run folder; user modules that they name are imported."""
        settings = cls.read(values, file)
        settings.check()
        return settings

    @classmethod
    def read(cls, values: Mapping[str, Any], file: str = "config.json") -> Self:
        """The settings stored in a run folder, without importing or checking anything."""
        values = cls.upgraded({key: v for key, v in values.items() if key != "command"})
        if wrong := set(cls.model_fields) ^ set(values):
            raise RamifyError(
                f"{file} is damaged or of another version of Ramify ({min(wrong)} is missing "
                f"or unknown); {AGAIN}"
            )
        return cls.made(from_lists(values), file)

    @classmethod
    def of_file(cls, path: Path | None, given: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that a file gives, such as ``config.json`` of another run.

        Args:
            path: The file; None for no settings.
            given: The settings of the command line, which count before those of the file.

        Returns:
            Settings by name, without those that are None.

        Raises:
            RamifyError: The file has other settings than this command, or asks for code that is
                not the user's.
        """
        if path is None:
            return {}
        found = read_settings(path)
        table = isinstance(found, dict) and all(isinstance(name, str) for name in found)
        if not table or found.get("command", cls.command()) != cls.command():
            other = f" but of ramify {found['command']}" if table else ""
            raise RamifyError(
                f"{path} does not hold settings of ramify {cls.command()}{other}; give "
                "config.json of such a run, or a JSON object or a YAML table with some of its "
                "settings."
            )
        values = {key: value for key, value in found.items() if key != "command"}
        if unknown := set(values) - set(cls.model_fields):
            name = min(unknown)
            raise RamifyError(
                f"{path} has a setting {name!r}{did_you_mean(name, cls.model_fields)}, which "
                f"ramify {cls.command()} does not have; ramify {cls.command()} --help lists them."
            )
        if not isinstance(data := values.get("data"), str | None):
            raise RamifyError(
                f"{path} gives data as {data!r}, which is not a text; correct it there."
            )
        refuse_foreign(values, DOORS, given, path)
        return {key: v for key, v in from_lists(values).items() if v is not None}

    @classmethod
    def upgraded(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Settings of a folder of an earlier version, completed with newer settings."""
        return {"tensorboard": False} | values

    def suited(self, dataset: Dataset, given: Mapping[str, Any]) -> Self:
        """The settings for what the data are for; a RamifyError where one of them is not.

        Args:
            dataset: The data, which say so once they are loaded.
            given: Settings by name; those left open are absent, and may become others.

        Returns:
            The settings of the run.
        """
        return self

    def to_json(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        return {"command": self.command(), **self.model_dump(mode="json")}

    @classmethod
    def _sentence(cls, error: ValidationError, values: Mapping[str, Any], file: str) -> str:
        """A message about the first error that pydantic reports."""
        refused = error.errors()[0]
        name = str(refused["loc"][0])
        bounds = [
            f"{word} {entry[key]:g}"
            for entry in [option_of(cls.model_fields[name]) or {}]
            for key, word in BOUNDS.items()
            if key in entry
        ]
        if refused["type"].endswith("_type") or refused["type"] == "int_from_float":
            where = f"{file} gives {name} as" if file else f"{name} is"
            value = list(value) if isinstance(value := values[name], tuple) else value
            advice = AGAIN if file else "correct it where it is given."
            seen = repr(value) if len(repr(value)) < LONG else f"{repr(value)[:LONG]}…"
            return f"{where} {seen}, which is not {cls._type_in_words(name)}; {advice}"
        if refused["type"] == "finite_number":
            bounds = ["a finite number"]
        return f"{name} is {values[name]}; it must be {' and '.join(bounds)}."

    @classmethod
    def _type_in_words(cls, name: str) -> str:
        schema = cls.model_json_schema()["properties"][name]
        return " or ".join(_in_words(one) for one in schema.get("anyOf", [schema]))

    def check(self) -> None:
        """Raise a RamifyError if settings contradict each other."""
        if self.tensorboard:
            require("tensorboard", "tensorboard", "a TensorBoard log needs")

    @abstractmethod
    def arms(self) -> tuple[str, ...]:
        """The networks that each seed trains."""

    @abstractmethod
    def passes(self) -> int:
        """The most epochs of all arms of a seed together."""

    @property
    def all_seeds(self) -> range:
        """The seeds of the run."""
        return range(self.seed, self.seed + self.seeds)


class TrainingSettings(Settings):
    """The settings of a command that trains networks by one optimizer; see :class:`Training`."""

    optimizer: str = option(TRAIN, "The optimizer: sgd, adam or adamw")
    lr: float = option(TRAIN, "Learning rate at the start of the schedule")
    momentum: float = option(TRAIN, "Momentum of sgd")
    nesterov: bool = option(TRAIN, "Use Nesterov momentum.")
    weight_decay: float = option(TRAIN, "Weight decay of every parameter")
    schedule: str = option(
        TRAIN,
        "Learning-rate schedule: cosine (falls to 0), steps (divided by ten at each milestone) or "
        "constant",
    )
    milestones: tuple[float, ...] = option(
        TRAIN,
        "With --schedule steps: the points at which the learning rate is divided by ten, as "
        "fractions of the schedule",
    )
    warmup: float = option(
        TRAIN,
        "Fraction of the schedule over which the learning rate rises to its full value",
        ge=0,
        lt=1,
    )
    label_smoothing: float = option(
        TRAIN,
        "Fraction of each label that the training loss spreads over all classes, such as 0.1; test "
        "losses and accuracies use the original labels; not for a regression",
        ge=0,
        lt=1,
    )
    span: str
    patience: int | None = None
    total_epochs: int | None = None

    @classmethod
    def upgraded(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Folders from before these options had none of what they ask for."""
        added = {"warmup": 0.0, "label_smoothing": 0.0, "patience": None, "total_epochs": None}
        return super().upgraded(added | values)

    @classmethod
    def refuse(cls, given: Mapping[str, Any], values: dict[str, Any]) -> None:
        """Refuse settings of training that have no effect beside the others."""
        for name in ("momentum", "nesterov"):
            if given.get(name) and values["optimizer"] != "sgd":
                raise RamifyError(
                    f"{name} is a setting of sgd, not of {values['optimizer']}; leave it out."
                )
        if "milestones" in given and values["schedule"] != "steps":
            raise RamifyError(
                f"milestones are a setting of the schedule steps, not of {values['schedule']}; "
                "leave them out, or choose that schedule."
            )

    def check(self) -> None:
        """Raise a RamifyError where a setting of the training is out of range."""
        super().check()
        self.training()

    def training(self) -> Training:
        """How to train in each round."""
        from dataclasses import fields

        from ramify.train.epoch import Training

        return Training(**{field.name: getattr(self, field.name) for field in fields(Training)})

    def suited(self, dataset: Dataset, given: Mapping[str, Any]) -> Self:
        """As they are; only labels of classes can be smoothed."""
        if self.label_smoothing and not dataset.task.smooths:
            raise RamifyError(
                f"label_smoothing needs class labels, but {described(dataset)}; leave it out."
            )
        return super().suited(dataset, given)

    def loss(self, task: Task) -> Loss:
        """The training loss: ``loss(model, batch)`` -> (S,)."""
        from functools import partial

        return partial(task.loss, label_smoothing=self.label_smoothing)


class NetworkSettings(TrainingSettings):
    """The settings of a command that trains a network known by its name."""

    model: str = option(
        WHAT,
        "The name of a built-in network, or package.module:object, your own function that returns "
        "an nn.Module.",
    )
    width: int | None = option(
        WHAT,
        "Number of channels of the initial network; which layer this sets depends on the network.",
    )
    task: str | None = option(
        WHAT,
        "The task: {}. It determines the loss and the reported metric: accuracy, R², mean IoU or "
        "perplexity. Default: determined by the data object or its labels.",
        choices=TASKS,
    )

    @classmethod
    def upgraded(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Folders from before there were others are for a classification."""
        return super().upgraded({"task": None} | values)


def described(dataset: Dataset) -> str:
    """What data are for, as a clause of a refusal."""
    if dataset.task.own is not None:
        return f"{dataset.name} brings a loss of its own"
    if dataset.task.metric.measure is not None:
        return f"{dataset.name} brings a metric of its own"
    return f"the task of {dataset.name} is {dataset.task.name}"


def from_lists(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values, with tuples in the place of lists."""
    return {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise where a setting is none of its choices; those of no setting with choices do not."""
    if not choices or value is None or value in choices or (OWN in choices and ":" in str(value)):
        return
    near = did_you_mean(str(value), choices)
    raise RamifyError(f"there is no {name} {value!r}{near}; choose one of {', '.join(choices)}.")


def _in_words(schema: Mapping[str, Any]) -> str:
    """A type of JSON in words."""
    words = KINDS_OF_JSON[schema["type"]]
    if schema["type"] != "array":
        return words
    return f"{words} of {'texts' if schema['items']['type'] == 'string' else 'numbers'}"
