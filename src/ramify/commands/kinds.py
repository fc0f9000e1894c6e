"""The kinds of runs: what each command's settings are, how it begins, runs a job, and rebuilds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ramify.commands.cell_config import CellTrainConfig, SearchConfig
from ramify.commands.cell_training import build_network, prepare_cells, run_cells
from ramify.commands.cells import prepare_search, run_search
from ramify.commands.config import GrowConfig, RunConfig
from ramify.commands.folder import command_of
from ramify.commands.jobs import Job, Setup, build_seed, grow_or_train, prepare
from ramify.commands.prune import PruneConfig, prepare_widths, run_phase
from ramify.commands.random_search import run_random
from ramify.commands.retrain import RetrainConfig
from ramify.data import Dataset


@dataclass(frozen=True)
class Kind:
    """One kind of run.

    Attributes:
        config: The class of its settings.
        prepare: Loads the data and tries the network, before a folder is made.
        run: Runs one job to its end.
        build: Makes the network that a seed's saved one is loaded into; None where no network is
            saved.
    """

    config: type[RunConfig]
    prepare: Callable[[Any], Dataset]
    run: Callable[[Job, Setup], None]
    build: Callable[[Any, Dataset, int], nn.Module] | None


def _search(job: Job, setup: Setup) -> None:
    config = setup.config
    assert isinstance(config, SearchConfig)
    (run_random if config.searcher == "random" else run_search)(job, setup)


def _seed_network(config: Any, dataset: Dataset, seed: int) -> nn.Module:
    return build_seed(config, dataset)


KINDS = (
    Kind(GrowConfig, prepare, grow_or_train, _seed_network),
    Kind(PruneConfig, prepare_widths, run_phase, _seed_network),
    Kind(RetrainConfig, prepare, grow_or_train, _seed_network),
    Kind(SearchConfig, prepare_search, _search, None),
    Kind(CellTrainConfig, prepare_cells, run_cells, build_network),
)


def kind_of(config: Mapping[str, Any]) -> Kind:
    """The kind of a run whose ``config.json`` this is.

    Args:
        config: The settings of the run.

    Returns:
        Its kind.
    """
    of_cells = "genotypes" in config
    command = command_of(config)
    return next(
        kind
        for kind in KINDS
        if kind.config.command == command and of_cells == (kind.config is CellTrainConfig)
    )
