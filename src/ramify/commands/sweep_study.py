"""The trials of a sweep in a storage of Optuna: who makes which, and what came of it.

Several processes may work on one storage, on one machine or on several. A trial belongs to the
process that asked for it; where that is gone, another process of the same folder goes on with it.
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

TRIALS = 20  # where --trials says nothing and a range has no end of combinations
COSTS = {"params": "parameters", "macs": "MACs"}
GRACE = timedelta(minutes=1)  # in which a trial that has begun has its folder
ENQUEUED = "fixed_params"  # where Optuna keeps the parameters that a trial was given
WHERE, ERROR, SWEEP = "where", "error-", "sweep"  # what the storage keeps beside parameters


@dataclass(frozen=True)
class Trials:
    """The trials of one sweep, seen from one folder.

    Attributes:
        study: Of Optuna.
        folder: Where this process keeps the runs.
        seed: Of the first trial's draw.
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
        """The trials of a sweep, which begins where the storage does not know of it.

        Args:
            folder: Where this process keeps the runs.
            storage: A file within that folder, or a URL such as ``postgresql://...``.
            name: What the storage calls the sweep.
            seed: Of the first trial's draw.
            sweep: What is swept, as JSON values; all processes have to agree on it.
            first: Parameters of the trials to begin with.

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
        except Exception as error:  # of many kinds: of the database, its driver or its address
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
        """What a trial is called; Optuna counts from 0."""
        return f"trial-{number + 1:03d}"

    def ask(self, most: int, draw: Callable[[Trial], None]) -> Trial | None:
        """Begin a trial.

        Args:
            most: How many trials the sweep has.
            draw: Draws the parameters of the trial.

        Returns:
            The trial, which is this process's own; None where there are enough.
        """
        import optuna

        if len(self._begun()) >= most:
            return None
        trial = self.study.ask()
        trial.set_user_attr(WHERE, self._here())
        # Two processes that ask at once are told apart by their numbers; the later one gives way.
        if sum(one.number < trial.number for one in self._begun()) >= most:
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return None
        # A draw depends on the trial's number alone and on what earlier trials came to, so that a
        # sweep which was interrupted draws as it would have.
        self.study.sampler = optuna.samplers.TPESampler(
            seed=self.seed + trial.number, multivariate=False, n_startup_trials=max(4, most // 3)
        )
        draw(trial)
        return trial

    def finish(self, number: int, metric: Metric, value: float, cost: float) -> None:
        """Note what a trial came to, unless another process has."""
        if not self._trial(number).state.is_finished():
            for name, told in metric.tags().items():
                self.study.set_user_attr(name, told)
            self.study.tell(number, (metric.worth(value), cost))

    def fail(self, number: int, sentence: str) -> None:
        """Note why a trial came to nothing."""
        import optuna

        if not self._trial(number).state.is_finished():
            self.study.set_user_attr(f"{ERROR}{number}", sentence)
            self.study.tell(number, state=optuna.trial.TrialState.FAIL)

    def left_behind(self, names: Sequence[str]) -> list[FrozenTrial]:
        """Trials of this folder that a process began which may be gone, the first one first.

        Those that never came to a folder are given up, so that others take their place.

        Args:
            names: What each trial draws.

        Returns:
            Trials that run or are left; the lock of a run folder says which.
        """
        import optuna

        found = []
        for trial in self._in(optuna.trial.TrialState.RUNNING):
            mine = trial.user_attrs.get(WHERE, self._here()) == self._here()
            if mine and self.path(trial.number).exists() and set(names) <= set(trial.params):
                found.append(trial)
            elif mine and _age(trial) > GRACE:
                self.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                if ENQUEUED in trial.system_attrs:  # none of the combinations is to be missed
                    self.study.enqueue_trial(trial.system_attrs[ENQUEUED])
        return found

    def failures(self) -> dict[int, str]:
        """Why trials came to nothing, by their numbers."""
        noted = self.study.user_attrs.items()
        return {int(key.removeprefix(ERROR)): text for key, text in noted if key.startswith(ERROR)}

    def finished(self) -> int:
        """How many trials are finished, those that came to nothing included."""
        return sum(trial.state.is_finished() for trial in self._begun())

    @property
    def metric(self) -> Metric:
        """What the trials are judged by."""
        return Metric.of(self.study.user_attrs)

    def best(self) -> list[FrozenTrial]:
        """The trials that no other one beats in metric and cost, the cheapest first."""
        return sorted(self.study.best_trials, key=lambda trial: trial.values[1])

    def _begun(self) -> list[FrozenTrial]:
        """Trials that run, are finished, or failed for a reason; not those that were given up."""
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
    """A file of Optuna's own, which several processes may share, or a database by its URL."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    if "://" in storage:
        return optuna.storages.RDBStorage(storage)
    return optuna.storages.JournalStorage(JournalFileBackend(str(folder / storage)))


def _age(trial: FrozenTrial) -> timedelta:
    return datetime.now() - (trial.datetime_start or datetime.min)
