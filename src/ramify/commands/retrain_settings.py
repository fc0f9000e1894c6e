"""The settings of ``ramify retrain``: of a grown or saved shape, or of the cells of a search."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ramify.commands.defaults import defaults
from ramify.commands.grow_settings import GrowSettings
from ramify.commands.prune_settings import PruneSettings
from ramify.commands.search_settings import SearchSettings, space_named
from ramify.commands.settings import TRAIN, WHAT, NetworkSettings, TrainingSettings, option
from ramify.errors import RamifyError

if TYPE_CHECKING:
    from ramify.commands.run_folder import RunFolder

AS_THE_RUN = (
    "Passes over the data. Default: as many as the run made; for cells, depends on the data set."
)
NOT_OF_A_FILE = ("source", "space", "genotypes", "round")  # they belong to one run
SHAPED: dict[str, type[GrowSettings | PruneSettings]] = {  # what ends in a shape
    "grow": GrowSettings,
    "prune": PruneSettings,
}
SHAPES = ("grown", "pruned")  # their networks that are kept
TRAINED = (*SHAPES, "baseline", "scored")  # on the way there
OF_THE_SOURCE = (*NOT_OF_A_FILE, "data", "model", "width", "seed", "seeds")


class RetrainSettings(NetworkSettings):
    """The settings of ``ramify retrain``.

    Attributes:
        source: The run or the saved network whose shape is trained.
    """

    kind: ClassVar[str] = "retrain"

    epochs: int = option(TRAIN, AS_THE_RUN, ge=1)
    round: int | None = option(
        WHAT,
        "For a run: the shape after this many changes, 0 for the initial shape. Default: the final "
        "shape.",
        ge=0,
    )
    source: str

    @classmethod
    def of_run(
        cls, folder: RunFolder, given: Mapping[str, Any], base: Mapping[str, Any]
    ) -> RetrainSettings:
        """The settings of a finished run that ends in a shape, for as many epochs as it made."""
        source = folder.path
        if folder.command() not in SHAPED:
            raise RamifyError(
                f"{source} is a run of ramify {folder.command()}; give a run of ramify "
                f"{' or '.join(SHAPED)}, or of ramify search."
            )
        folder.refuse_foreign(("data", "model"), given)
        shaped, events = SHAPED[folder.command()].read(folder.config()), folder.events()
        done = {e["seed"] for e in events if e["event"] == "result" and e["arm"] in SHAPES}
        _check_finished(folder, set(shaped.all_seeds) <= done)
        _check_seeds(source, shaped.seeds, "networks", given)
        own = {name: getattr(shaped, name) for name in NetworkSettings.model_fields}
        own["epochs"] = sum(
            e["event"] == "epoch" and e["arm"] in TRAINED and e["seed"] == shaped.seed
            for e in events
        )
        if getattr(shaped, "weights", None):  # how long these were trained is not known
            own["epochs"] = max(own["epochs"], defaults(shaped.kind, own)["epochs"])
        return cls._from(source, own, given, _without(base, OF_THE_SOURCE))

    @classmethod
    def of_saved(
        cls, source: Path, given: Mapping[str, Any], base: Mapping[str, Any]
    ) -> RetrainSettings:
        """The settings for a network that ``ramify.save`` wrote, as if it had been grown."""
        if given.get("round") is not None:
            raise RamifyError(f"{source} is a saved network, which has one shape: leave round out.")
        own = defaults(GrowSettings.kind, {"data": {**base, **given}["data"]}) | {"width": None}
        own["epochs"] *= own["rounds"] + 1
        return cls._from(source, own, given, _without(base, NOT_OF_A_FILE))

    @classmethod
    def _from(
        cls,
        source: Path,
        own: Mapping[str, Any],
        given: Mapping[str, Any],
        base: Mapping[str, Any],
    ) -> RetrainSettings:
        for name in set(given) & (set(RetrainCellsSettings.options()) - set(cls.options())):
            raise RamifyError(
                f"{name.replace('_', '-')} is a setting of cells, which {source} does not hold; "
                "leave it out."
            )
        known = cls.over(base, given)
        # One round, which nothing follows.
        whole = {"span": "round", "patience": None, "total_epochs": None}
        own = {"round": None, **own}
        return cls.checked({**own, **whole, **known, "source": str(source)}, given)

    @classmethod
    def upgraded(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Earlier folders hold the last shape of a run."""
        return super().upgraded({"round": None} | values)

    def arms(self) -> tuple[str, ...]:
        """The networks that each seed trains."""
        return ("retrained",)

    def passes(self) -> int:
        """Epochs that the arms of a seed make together."""
        return self.epochs


class RetrainCellsSettings(TrainingSettings):
    """The settings of ``ramify retrain`` for cells that a search found.

    Attributes:
        source: The folder of the search.
        space: Name of the space.
        genotypes: Text of the architecture of each seed in turn; begun again where seeds are left.
    """

    kind: ClassVar[str] = "retrain-cells"

    epochs: int = option(TRAIN, AS_THE_RUN, ge=1)
    channels: int = option(WHAT, "For cells: channels of the first cells.", ge=1)
    cells: int = option(WHAT, "For cells: the number of cells, as for ramify search.", ge=1)
    auxiliary: float = option(
        TRAIN, "For cells: weight of the loss of the auxiliary head; 0 for none.", ge=0
    )
    drop_path: float = option(
        TRAIN,
        "For cells: probability that an edge is dropped in the last epoch; it grows from 0.",
        ge=0,
        lt=1,
    )
    cutout: int = option(
        TRAIN, "For cells: side of the square that is cut out of each image; 0 for none.", ge=0
    )
    source: str
    space: str
    genotypes: tuple[str, ...]

    @classmethod
    def of_search(
        cls, folder: RunFolder, given: Mapping[str, Any], base: Mapping[str, Any]
    ) -> Self:
        """The settings for what a search found.

        Data, device and threads are the search's. On CIFAR, widths, depth and training are those of
        the papers; elsewhere the network is as wide and as deep as the supernet was.

        Args:
            folder: Of a finished ``ramify search``.
            given: Settings by name; those left open are absent.
            base: Settings of another run, which count before the default values.

        Returns:
            All settings.

        Raises:
            RamifyError: The search is not finished, or a setting is out of range.
        """
        from ramify.train.history import is_found

        folder.refuse_foreign(("data", "space"), given)
        source, searched = folder.path, SearchSettings.read(folder.config())
        for name in ("data", "model", "width"):
            if name in given and given[name] != getattr(searched, name, None):
                raise RamifyError(
                    f"{name} is the search's own, {source}; leave --{name} out, or search there."
                )
        if given.get("round") is not None:
            raise RamifyError(
                f"{source} is a run of ramify search, which has no rounds: leave round out."
            )
        found = {e["seed"]: e["genotype"] for e in folder.events() if is_found(e)}
        _check_finished(folder, set(searched.all_seeds) <= set(found))
        _check_seeds(source, searched.seeds, "architectures", given)
        shared = ("data", "space", "seed", "seeds", "device", "threads", "channels", "cells")
        own = {name: getattr(searched, name) for name in shared}
        values = {**own, **defaults(cls.kind, own)}
        values |= {name: own[name] for name in shared[:-2]}
        if not _has_auxiliary(searched.space, values["channels"], values["cells"]):
            values["auxiliary"] = 0.0
        known = cls.over(_without(base, OF_THE_SOURCE), given)
        genotypes = tuple(found[seed] for seed in searched.all_seeds)
        return cls.checked(
            {**values, **known, "source": str(source), "genotypes": genotypes}, given
        )

    def arms(self) -> tuple[str, ...]:
        """One network a seed."""
        return ("retrained",)

    def passes(self) -> int:
        """Epochs that a seed makes."""
        return self.epochs

    def genotype(self, seed: int) -> str:
        """The text of what a seed trains."""
        return self.genotypes[(seed - self.seed) % len(self.genotypes)]


def _without(values: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def _check_finished(folder: RunFolder, finished: bool) -> None:
    if not finished:
        raise RamifyError(
            f"{folder.path} is not finished; resume it with ramify {folder.command()} --resume "
            f"{folder.path}, then retrain it."
        )


def _check_seeds(source: Path, count: int, what: str, given: Mapping[str, Any]) -> None:
    if count > 1 and {"seed", "seeds"} & set(given):
        one = f", or give one network, such as {source / 'model'}" if what == "networks" else ""
        raise RamifyError(
            f"{source} holds {count} {what}, and each is trained with its own seed; leave --seed "
            f"and --seeds out{one}."
        )


def _has_auxiliary(space: str, channels: int, cells: int) -> bool:
    """Whether the networks of a space can have an auxiliary head."""
    from ramify.cells import Plan

    own = space_named(space)
    plan = Plan(channels=channels, cells=cells, multiplier=own.multiplier, auxiliary=True)
    return own.stacked(plan).auxiliary is not None
