"""The trials of a sweep in an Optuna storage: which process runs each, and its result.

Several processes may share one storage, on one machine or on several. A trial belongs to the
process that started it; if that process is gone, another process with the same folder resumes it.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ramify.data import Metric
from ramify.errors import RamifyError, first_line
from ramify.imports import require

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

TRIALS = 20  # the default of --trials if the ranges have infinitely many combinations
COSTS = {"params": "parameters", "macs": "MACs"}
GRACE = timedelta(minutes=1)  # time within which a new trial has created its folder
ENQUEUED = "fixed_params"  # Optuna's key for the parameters that a trial was given
WHERE, ERROR, SWEEP = "where", "error-", "sweep"  # keys in the storage besides parameters


@dataclass(frozen=True)
class Trials:
    """The trials of one sweep, seen from one folder.

    Attributes:
        study: The Optuna study.
        folder: The folder of this process's runs.
        seed: Seed of the first trial's draw.
    """

    study: Study
    folder: Path
    seed: int

    @classmethod
    def open(
        cls,
        folder: Path,
        storage: str,
        name: str,
        seed: int,
        sweep: Mapping[str, Any],
        first: Sequence[Mapping[str, Any]],
    ) -> Trials:
        """The trials of a sweep, which is created if the storage does not have it.

        Args:
            folder: The folder of this process's runs.
            storage: A file within that folder, or a URL such as ``postgresql://...``.
            name: The name of the sweep in the storage.
            seed: Seed of the first trial's draw.
            sweep: The swept settings, as JSON values; they must be the same in all processes.
            first: Parameters of the first trials.

        Returns:
            The trials.

        Raises:
            RamifyError: Optuna is not installed, the storage does not work, or holds another sweep.
        """
        require("optuna", "sweep", "a sweep needs")
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            study = optuna.create_study(
                study_name=name,
                storage=_storage(folder, storage),
                directions=["maximize", "minimize"],
                load_if_exists=True,
            )
        except Exception as error:  # many kinds, from the database, its driver or its address
            raise RamifyError(
                f"the storage {storage} cannot be used ({first_line(error)}): give a file name, or "
                "the URL of a database that runs and whose driver is installed."
            ) from error
        known = study.user_attrs.get(SWEEP)
        if known is None:
            study.set_user_attr(SWEEP, dict(sweep))
            for parameters in first:
                study.enqueue_trial(dict(parameters), skip_if_exists=True)
        elif known != dict(sweep):
            different = sorted(key for key in sweep if known.get(key) != sweep[key])
            raise RamifyError(
                f"the storage {storage} holds another sweep of the name {name!r}, with other "
                f"{' and '.join(different)}: give the same settings to join it, or another --study."
            )
        return cls(study, folder, seed)

    def path(self, number: int) -> Path:
        """The run folder of a trial."""
        return self.folder / self.name(number)

    @staticmethod
    def name(number: int) -> str:
        """The name of a trial; Optuna counts from 0."""
        return f"trial-{number + 1:03d}"

    def ask(self, most: int, draw: Callable[[Trial], None]) -> Trial | None:
        """Begin a trial.

        Args:
            most: Number of trials in the sweep.
            draw: Draws the parameters of the trial.

        Returns:
            The trial, which belongs to this process; None if there are enough trials.
        """
        import optuna

        if len(self._begun()) >= most:
            return None
        trial = self.study.ask()
        trial.set_user_attr(WHERE, self._here())
        # If two processes ask at the same time, the one with the higher number withdraws.
        if sum(one.number < trial.number for one in self._begun()) >= most:
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return None
        # A draw depends only on the trial's number and on the results of earlier trials, so that an
        # interrupted sweep draws the same parameters.
        self.study.sampler = optuna.samplers.TPESampler(
            seed=self.seed + trial.number, multivariate=False, n_startup_trials=max(4, most // 3)
        )
        draw(trial)
        return trial

    def finish(self, number: int, metric: Metric, value: float, cost: float) -> None:
        """Record the result of a trial, unless another process has done so."""
        if not self._trial(number).state.is_finished():
            for name, told in metric.tags().items():
                self.study.set_user_attr(name, told)
            self.study.tell(number, (metric.worth(value), cost))

    def fail(self, number: int, sentence: str) -> None:
        """Record why a trial failed."""
        import optuna

        if not self._trial(number).state.is_finished():
            self.study.set_user_attr(f"{ERROR}{number}", sentence)
            self.study.tell(number, state=optuna.trial.TrialState.FAIL)

    def left_behind(self, names: Sequence[str]) -> list[FrozenTrial]:
        """Trials of this folder whose process may be gone, in order.

        Trials without a folder are given up, so that new ones replace them.

        Args:
            names: The names of the parameters that each trial draws.

        Returns:
            Trials that run or were abandoned; the lock of a run folder tells which.
        """
        import optuna

        found = []
        for trial in self._in(optuna.trial.TrialState.RUNNING):
            mine = trial.user_attrs.get(WHERE, self._here()) == self._here()
            if mine and self.path(trial.number).exists() and set(names) <= set(trial.params):
                found.append(trial)
            elif mine and _age(trial) > GRACE:
                self.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                if ENQUEUED in trial.system_attrs:  # so that no combination is missed
                    self.study.enqueue_trial(trial.system_attrs[ENQUEUED])
        return found

    def failures(self) -> dict[int, str]:
        """Why trials failed, by their numbers."""
        noted = self.study.user_attrs.items()
        return {int(key.removeprefix(ERROR)): text for key, text in noted if key.startswith(ERROR)}

    def finished(self) -> int:
        """The number of finished trials, including failed ones."""
        return sum(trial.state.is_finished() for trial in self._begun())

    @property
    def metric(self) -> Metric:
        """The metric by which trials are judged."""
        return Metric.of(self.study.user_attrs)

    def best(self) -> list[FrozenTrial]:
        """The trials on the Pareto front of metric and cost, the cheapest first."""
        return sorted(self.study.best_trials, key=lambda trial: trial.values[1])

    def _begun(self) -> list[FrozenTrial]:
        """Trials that run, are finished, or failed; not those that were given up."""
        import optuna

        states = optuna.trial.TrialState
        several, failed = self._in(states.RUNNING, states.COMPLETE, states.FAIL), self.failures()
        return [one for one in several if one.state != states.FAIL or one.number in failed]

    def _in(self, *states: Any) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states)

    def _trial(self, number: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]

    def _here(self) -> str:
        return f"{platform.node()}:{self.folder.resolve()}"


def _storage(folder: Path, storage: str) -> Any:
    """An Optuna journal file, which several processes may share, or a database by its URL."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    if "://" in storage:
        return optuna.storages.RDBStorage(storage)
    return optuna.storages.JournalStorage(JournalFileBackend(str(folder / storage)))


def _age(trial: FrozenTrial) -> timedelta:
    return datetime.now() - (trial.datetime_start or datetime.min)
