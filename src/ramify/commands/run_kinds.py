"""The kinds of runs: for each its settings, and functions to prepare, run and rebuild networks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ramify.commands.grow import prepare_grow, run_grow
from ramify.commands.grow_settings import GrowSettings
from ramify.commands.jobs import Job, Setup, build_seed, prepare
from ramify.commands.prune import prepare_widths, run_phase
from ramify.commands.prune_settings import PruneSettings
from ramify.commands.random_search import run_random
from ramify.commands.retrain import run_retrain
from ramify.commands.retrain_cells import build_network, prepare_cells, run_cells
from ramify.commands.retrain_settings import RetrainCellsSettings, RetrainSettings
from ramify.commands.run_folder import command_of
from ramify.commands.search import prepare_search, run_search
from ramify.commands.search_settings import SearchSettings
from ramify.commands.settings import AGAIN, Settings
from ramify.data import Dataset
from ramify.errors import RamifyError


@dataclass(frozen=True)
class RunKind:
    """One kind of run.

    Attributes:
        settings: The class of its settings.
        prepare: Loads the data and tries the network, before a folder is created.
        run: Runs one job to its end.
        build: Builds the network into which a seed's saved one is loaded; None if no network is
            saved.
    """

    settings: type[Settings]
    prepare: Callable[[Any], Dataset]
    run: Callable[[Job, Setup], None]
    build: Callable[[Any, Dataset, int], nn.Module] | None


def _search(job: Job, setup: Setup) -> None:
    settings = setup.settings
    assert isinstance(settings, SearchSettings)
    (run_random if settings.searcher == "random" else run_search)(job, setup)


def _seed_network(settings: Any, dataset: Dataset, seed: int) -> nn.Module:
    return build_seed(settings, dataset)


RUN_KINDS = {
    kind.settings.kind: kind
    for kind in (
        RunKind(GrowSettings, prepare_grow, run_grow, _seed_network),
        RunKind(PruneSettings, prepare_widths, run_phase, _seed_network),
        RunKind(RetrainSettings, prepare, run_retrain, _seed_network),
        RunKind(SearchSettings, prepare_search, _search, None),
        RunKind(RetrainCellsSettings, prepare_cells, run_cells, build_network),
    )
}


def kind_of(config: Mapping[str, Any]) -> RunKind:
    """The kind of the run with this ``config.json``."""
    name = "retrain-cells" if "genotypes" in config else command_of(config)
    if name not in RUN_KINDS:
        raise RamifyError(
            f"config.json names a command {name!r}, which this version of Ramify does not have; "
            f"{AGAIN}"
        )
    return RUN_KINDS[name]
