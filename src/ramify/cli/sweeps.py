"""Sweeps: many runs of a command with settings that vary, each in a folder of its own."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from ramify.cli import runs
from ramify.cli.sweep_space import (
    Choices,
    Space,
    combinations,
    drawn_in_words,
    settings_of,
    space_of,
)
from ramify.commands.run_folder import CONFIG, RunFolder, root_from, seen_in_place_of
from ramify.commands.run_kinds import RUN_KINDS
from ramify.commands.run_lock import InUse, locked
from ramify.commands.settings import DOORS, Settings, from_lists
from ramify.commands.sweep_study import COSTS, TRIALS, Trials
from ramify.data import Metric
from ramify.errors import RamifyError, did_you_mean
from ramify.imports import refuse_foreign
from ramify.report import PAGE as RUN_PAGE
from ramify.report import write_comparison
from ramify.report.events import MAIN
from ramify.report.tables import measured, results_table
from ramify.store.disk import make_folder
from ramify.store.files import read_json, write_json
from ramify.tracing.text_table import text_table

if TYPE_CHECKING:
    from optuna import Trial

SWEEP, PAGE, STORAGE, STUDY = "sweep.json", "compare.html", "trials.log", "ramify"
OPTIONS = ("vary", "trials", "storage", "study", "against")
"""Options of a sweep itself; all others are those of the command that it runs."""


@dataclass(frozen=True)
class Sweep:
    """What a sweep folder keeps in ``sweep.json``.

    Attributes:
        command: Which command it runs, ``grow`` or ``prune``.
        given: Settings that all trials have.
        base: Settings of a file, before which those go.
        vary: The texts of ``--vary``.
        trials: How many there are to be.
        storage: The file within the folder, or the URL, where Optuna keeps the trials.
        study: What the storage calls the sweep.
        against: Which cost is to be small beside a good metric, such as a high accuracy.
    """

    command: str
    given: dict[str, Any]
    base: dict[str, Any]
    vary: list[str]
    trials: int
    storage: str
    study: str
    against: str

    @property
    def kind(self) -> type[Settings]:
        """The settings of the command."""
        return RUN_KINDS[self.command].settings

    @property
    def space(self) -> Space:
        """What is varied."""
        return space_of(self.kind, self.vary)

    def options(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """The options of a trial."""
        return {**self.given, **settings_of(self.kind, drawn)}

    def is_elsewhere(self, folder: Path) -> bool:
        """Whether the trials are kept somewhere else than in a file of the sweep's folder."""
        file = folder / self.storage
        inside = file.resolve().is_relative_to(folder.resolve())
        return "://" in self.storage or not inside or (file.exists() and not file.is_file())

    def agreed(self) -> dict[str, Any]:
        """What all processes of a sweep have to agree on, as JSON values."""
        apart = ("trials", "storage", "study")
        plain: dict[str, Any] = {k: v for k, v in asdict(self).items() if k not in apart}
        for values in (plain["given"], plain["base"]):  # no result depends on these
            values.pop("device", None)
        return plain


def begin(kind: type[Settings], given: dict[str, Any], base: Path | None, out: Path | None) -> None:
    """Begin a sweep and make its trials, or join one that other machines make."""
    own = {name: given.pop(name, None) for name in OPTIONS}
    space = space_of(kind, own["vary"] or [])
    if twice := set(space) & set(given):
        raise RamifyError(f"{min(twice)} is both given and varied; leave one of them out.")
    every = combinations(space)
    sweep = Sweep(
        command=kind.command(),
        given=given,
        base=kind.of_file(base, given),
        vary=own["vary"],
        trials=own["trials"] or (TRIALS if every is None else len(every)),
        storage=own["storage"] or STORAGE,
        study=own["study"] or STUDY,
        against=_cost(own["against"] or "params"),
    )
    # A mistake in what all trials share shows before there is a folder.
    options = sweep.options({name: _first(entry) for name, entry in space.items()})
    here = Path.cwd()
    settings = kind.resolve(options, sweep.base)
    RUN_KINDS[kind.kind].prepare(settings)
    root = root_from(here)
    folder = root / out if out else runs.claimed_folder(f"sweep-{settings.data}", root)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        seen = "a sweep" if (folder / SWEEP).exists() else "something"
        advice = f", or resume it with --resume {folder}" if seen == "a sweep" else ""
        raise RamifyError(f"{folder} already holds {seen}; give another folder by --out{advice}.")
    make_folder(folder)
    trials = _trials(sweep, folder)
    write_json(folder / SWEEP, asdict(sweep))
    _work(sweep, trials, given)


def resume(path: Path, command: str, given: dict[str, Any], others: Mapping[str, Any]) -> None:
    """Go on with a sweep, or help another process; ``--trials`` and ``--device`` may be others."""
    for name, value in others.items():
        if value is not None:
            raise RamifyError(f"--{name} and --resume exclude each other; give --resume alone.")
    if not (path / SWEEP).exists():
        seen = seen_in_place_of(path, SWEEP)
        raise RamifyError(f"{path} is not the folder of a sweep: it {seen}; give that of one.")
    advice = "restore it, or begin a new sweep in another folder."
    sweep = _stored(read_json(path / SWEEP, advice), f"{path / SWEEP} is damaged", advice)
    if sweep.command != command:
        raise RamifyError(
            f"{path} is a sweep of ramify {sweep.command}; use ramify sweep {sweep.command} "
            f"--resume {path}."
        )
    trials = given.pop("trials", None)
    known = {**sweep.given, **{name: getattr(sweep, name) for name in OPTIONS}}
    for name, value in given.items():
        if name != "device" and known.get(name) != value:
            seen = "left open" if known.get(name) is None else f"= {known[name]!r}"
            raise RamifyError(
                f"{path} was started with {name} {seen}, not {value!r}; go on without "
                "that option, or begin a new sweep in another folder."
            )
    refuse_foreign({**sweep.base, **sweep.given}, DOORS, given, path / SWEEP)
    if "storage" not in given and sweep.is_elsewhere(path):
        raise RamifyError(
            f"{path / SWEEP} asks for the storage {sweep.storage!r}, which is no file of that "
            f"folder: give --storage {shlex.quote(sweep.storage)} too if you trust it."
        )
    if trials is not None:
        sweep = Sweep(**vars(sweep) | {"trials": trials})
        write_json(path / SWEEP, asdict(sweep))
    if "device" in given:  # of this process alone
        sweep = Sweep(**vars(sweep) | {"given": {**sweep.given, "device": given["device"]}})
    _work(sweep, _trials(sweep, path), given)


def _stored(stored: Any, damaged: str, advice: str) -> Sweep:
    """The sweep that a file holds."""
    try:
        for field in fields(Sweep):
            if type(value := stored[field.name]).__name__ != str(field.type).partition("[")[0]:
                raise TypeError(f"{field.name} is {value!r}")
        sweep = Sweep(**stored | {k: from_lists(stored[k]) for k in ("given", "base")})
    except (TypeError, KeyError) as error:
        raise RamifyError(f"{damaged} ({error}); {advice}") from None
    if sweep.command not in RUN_KINDS or not all(isinstance(text, str) for text in sweep.vary):
        raise RamifyError(f"{damaged} (it has no such command, or varies no texts); {advice}")
    return sweep


def _cost(name: str) -> str:
    if name not in COSTS:
        near = did_you_mean(name, COSTS)
        raise RamifyError(f"there is no cost {name!r}{near}; give one of {', '.join(COSTS)}.")
    return name


def _first(entry: Any) -> Any:
    """Some value of what is varied."""
    if isinstance(entry, Choices):
        return entry.texts[0]
    return int(entry.low) if entry.whole else entry.low


def _trials(sweep: Sweep, folder: Path) -> Trials:
    """The trials in the storage, every combination first where there are not too many."""
    every = combinations(sweep.space) or []
    first = every if len(every) <= sweep.trials else []
    seed = int(sweep.given.get("seed", 0))
    return Trials.open(folder, sweep.storage, sweep.study, seed, sweep.agreed(), first)


def _work(sweep: Sweep, trials: Trials, given: Mapping[str, Any]) -> None:
    """Make trials until there are as many as asked for; the page is written whatever happens."""
    console, space, folder = Console(), sweep.space, trials.folder
    runs.say(console, f"sweep folder: {folder}")
    work = _Work(sweep, trials, console, given)
    try:
        work.take_over(list(space))
        while (trial := trials.ask(sweep.trials, lambda trial: _draw(trial, space))) is not None:
            work.make(trial.number, trial.params)
        work.take_over(list(space))  # of processes that ended meanwhile
    except KeyboardInterrupt:
        # In the place of what the trial says of itself, which goes on with the sweep.
        again = f"ramify sweep {sweep.command} --resume {folder}"
        if sweep.is_elsewhere(folder):
            again += f" --storage {shlex.quote(sweep.storage)}"
        raise KeyboardInterrupt(f"the sweep has stopped; to continue: {again}") from None
    finally:
        reasons = sorted(trials.failures().items())
        failed = [f"{trials.name(number)} failed: {why}" for number, why in reasons]
        if seen := any(folder.glob(f"*/{CONFIG}")):
            write_comparison([folder], folder / PAGE, notes=failed)
    done, wrong = trials.finished(), len(failed)
    if failed and done == wrong:
        raise RamifyError(f"no trial finished; the first error was: {reasons[0][1]}")
    said = f", of which {wrong} failed" if wrong else ""
    runs.say(console, f"\n{done} of {max(done, sweep.trials)} trials finished{said}")
    words, cost = trials.metric.words, COSTS[sweep.against]
    runs.say(console, f"best in test {words} and {cost}, smallest first:")
    heads = (*space, "trial", words, cost)
    for line in text_table(heads, _best(sweep, trials), [None] * len(heads)):
        runs.say(console, line)
    if seen:  # else all trials are in the folders of other processes
        runs.say(console, f"to view them, open {folder / PAGE} in a browser")


def _best(sweep: Sweep, trials: Trials) -> list[tuple[str, ...]]:
    """A row for each trial that no other one beats."""
    rows = []
    for trial in trials.best():
        worth, cost = trial.values
        drawn = (_short(trial.params[name]) for name in sweep.space)
        value = trials.metric.text(trials.metric.worth(worth))
        measures = (trials.name(trial.number), value, f"{cost:,.0f}")
        rows.append((*drawn, *measures))
    return rows


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _draw(trial: Trial, space: Space) -> None:
    """Draw what varies."""
    for name, entry in space.items():
        if isinstance(entry, Choices):
            trial.suggest_categorical(name, entry.texts)
        elif entry.whole:
            trial.suggest_int(name, int(entry.low), int(entry.high), log=entry.log)
        else:
            trial.suggest_float(name, entry.low, entry.high, log=entry.log)


@dataclass(frozen=True)
class _Work:
    """What this process does for a sweep.

    Attributes:
        sweep: What is swept.
        trials: Of all processes.
        console: Where to say so.
        given: Settings that were given on the command line of this process.
    """

    sweep: Sweep
    trials: Trials
    console: Console
    given: Mapping[str, Any]

    def take_over(self, names: list[str]) -> None:
        """Go on with the trials that a process left which is gone."""
        for left in self.trials.left_behind(names):
            try:
                with locked(self.trials.path(left.number)):
                    pass
            except InUse:
                continue
            self.make(left.number, left.params)

    def check(self, path: Path, drawn: Mapping[str, Any]) -> None:
        """Make sure that a run folder is of the trial whose name it has."""
        options = self.sweep.kind.tidied(self.sweep.options(drawn))
        kept = RunFolder(path).config()
        for name, value in json.loads(json.dumps(options)).items():
            if name != "device" and kept.get(name) != value:
                raise RamifyError(
                    f"{path} holds a run with {name} = {kept.get(name)!r}, and the storage "
                    f"{self.sweep.storage} gives that trial {value!r}: restore the storage, or "
                    "begin a new sweep in another folder."
                )

    def make(self, number: int, drawn: Mapping[str, Any]) -> None:
        """Make one trial, from where it stands, and note what it came to."""
        path, sweep = self.trials.path(number), self.sweep
        # In the order of the command line: a storage may keep another.
        words = drawn_in_words({name: drawn[name] for name in sweep.space})
        runs.say(self.console, f"\ntrial {number + 1} of {sweep.trials}: {words}")
        if (path / CONFIG).exists():
            self.check(path, drawn)
        try:
            if not (path / CONFIG).exists():
                runs.start(sweep.kind, sweep.options(drawn), sweep.base, path)
            elif not all((path / file).exists() for file in ("summary.json", RUN_PAGE)):
                again = {k: v for k, v in self.given.items() if k in sweep.given}
                runs.resume(path, sweep.command, again, None, None)
        except InUse:  # another process took it over
            return
        except RamifyError as error:
            self.trials.fail(number, str(error))
            runs.say(self.console, f"the trial failed: {error}")
            return
        [row] = [r for r in results_table(RunFolder(path).events()) if r["arm"] in MAIN]
        cost = row["params"] if sweep.against == "params" else row["macs"]
        self.trials.finish(number, Metric.of(row), measured(row)["mean"], cost["mean"])
