"""The settings of ``ramify prune``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ramify.commands.grow_settings import BUDGETS
from ramify.commands.settings import CUT, OWN, SEARCH, TRAIN, NetworkSettings, option
from ramify.errors import RamifyError

if TYPE_CHECKING:
    from ramify.select import Rule
    from ramify.train.width_search import WidthSearch

GATED = ("rarts", "darts", "darts1", "darts2", "milenas", "joint", OWN)  # they learn gates
SCORED = ("l1", "taylor", "random")  # plain training, then a score
SEARCHERS = (*GATED[:-1], "bn", *SCORED, OWN)
OWN_SCORE = "a method of your own"  # what `OWN` is where it scores, and learns no gates
CUTS = ("ratio", "threshold", "budget")


class PruneSettings(NetworkSettings):
    """The settings of ``ramify prune``; those that its searcher does not take are None."""

    kind: ClassVar[str] = "prune"
    rivals = (CUTS,)

    searcher: str = option(
        SEARCH,
        "What scores the channels: {}. All train for as many steps. Your own is a class of "
        "ramify.relax.Searcher, which learns gates, or a method, which scores after training.",
        choices=SEARCHERS,
    )
    lam: float | None = option(
        SEARCH, "λ, the weight of the loss on the other half", of={"searcher": ("rarts", "milenas")}
    )
    beta: float | None = option(
        SEARCH,
        "β, how strongly the two copies of the weights attract each other",
        of={"searcher": ("rarts",)},
    )
    gamma: float | None = option(
        SEARCH,
        "γ, the weight of the L1 penalty on the gates, or for bn on the scales of the norm layers; "
        "a larger one learns how much to cut",
        of={"searcher": (*GATED, "bn")},
    )
    arch_lr: float | None = option(
        SEARCH, "Learning rate of the gates. Default: as --lr.", of={"searcher": GATED}
    )
    pretrain_epochs: int = option(
        SEARCH,
        "Passes over the data that train the full network first; 0 searches from fresh weights. "
        "Default: as --epochs.",
        ge=0,
    )
    search_epochs: int = option(
        SEARCH,
        "Passes over the data in the search; each step takes one batch of each half. Default: as "
        "--epochs.",
    )
    groups: tuple[str, ...] | None = option(
        CUT,
        "Score and cut only the groups of these names, as `ramify show` lists them, such as "
        "'*.mlp.fc1,*.q_proj:1'. Default: all.",
    )
    ratio: float | None = option(CUT, "Share of the channels to cut, over all layers")
    per_layer: bool = option(CUT, "Cut the share --ratio of every layer.")
    threshold: float | None = option(
        CUT,
        "In place of --ratio: cut the channels whose gate, or for bn whose norm scale, is at most "
        "this number.",
        ge=0,
    )
    budget: dict[str, float] | None = option(
        CUT,
        "In place of --ratio: cut until the network costs no more than this for one sample, such "
        f"as params=1.2e6; may be given several times. One of {BUDGETS}.",
    )
    multiple_of: int = option(
        CUT, "Make the width of a layer that changes a multiple of this, such as 8"
    )
    epochs: int = option(TRAIN, "Passes over the data that fine-tune the cut network.")
    from_scratch: bool = option(TRAIN, "Fine-tune the cut shape from fresh weights.")
    distill: bool = option(TRAIN, "Fine-tune on the outputs of the full network too.")
    temperature: float | None = option(
        TRAIN, "T, the temperature of the outputs", of={"distill": ("True",)}, gt=0
    )
    probe_samples: int = option(
        CUT,
        "Training samples on which the cut is measured, and on which taylor and a method of yours "
        "score.",
        ge=1,
    )

    @classmethod
    def tidied(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """The settings with the order of DARTS in the searcher's name."""
        order, name = given.get("searcher_order"), given.get("searcher", "rarts")
        if order is not None and (name != "darts" or order not in (1, 2)):
            raise RamifyError(
                f"searcher_order is {order} for the searcher {name}; it is 1 or 2, of darts alone."
            )
        named = {"searcher": f"darts{order or 1}"} if name == "darts" else {}
        return {key: value for key, value in given.items() if key != "searcher_order"} | named

    @classmethod
    def fill(cls, values: dict[str, Any], given: Mapping[str, Any]) -> None:
        """Epochs, width, what is cut by, and the rate of the gates depend on other settings."""
        if given.get("model", values["model"]) != values["model"]:
            values["width"] = None
        epochs = given.get("epochs", values["epochs"])
        values |= {"pretrain_epochs": epochs, "search_epochs": epochs}
        values["arch_lr"] = given.get("lr", values["lr"])
        cuts = [name for name in CUTS if name in given] or ["ratio"]
        values |= dict.fromkeys(set(CUTS) - set(cuts))

    @classmethod
    def choice(cls, selector: str, values: Mapping[str, Any]) -> str:
        """As of all settings; a searcher of the user's own may learn gates or only score."""
        found = super().choice(selector, values)
        if selector == "searcher" and found == OWN:
            from ramify.train.width_search import WidthSearch

            return OWN if WidthSearch(values["searcher"]).gated else OWN_SCORE
        return found

    @classmethod
    def refuse(cls, given: Mapping[str, Any], values: dict[str, Any]) -> None:
        """Refuse settings that exclude each other, or that have no effect beside the others."""
        cuts = [name for name in CUTS if values[name] is not None]
        if len(cuts) > 1:
            raise RamifyError(f"{' and '.join(cuts)} each say how much to cut; give one of them.")
        if values["per_layer"] and cuts != ["ratio"]:
            raise RamifyError(f"per_layer goes with ratio, not with {cuts[0]}; leave it out.")
        if "threshold" in cuts and cls.choice("searcher", values) in (*SCORED, OWN_SCORE):
            raise RamifyError(
                f"a threshold is on gates or norm scales, which {values['searcher']} does not "
                "learn; give a ratio or a budget, or choose another searcher."
            )
        if values["distill"] and not values["pretrain_epochs"]:
            raise RamifyError(
                "distill needs the full network as a teacher, and pretrain_epochs is 0; give some."
            )
        if "temperature" in given and not values["distill"]:
            raise RamifyError("temperature is a setting of distill; give both or neither.")
        super().refuse(given, values)

    def check(self) -> None:
        """Raise a RamifyError where a setting is out of range."""
        from ramify.train.rounds import checked_budget

        super().check()
        checked_budget(self.budget)
        self.selection(), self.search(self.seed)

    def arms(self) -> tuple[str, ...]:
        """The networks that each seed trains."""
        return ("baseline",) * bool(self.pretrain_epochs) + ("scored", "pruned")

    def passes(self) -> int:
        """Epochs that the arms of a seed make together."""
        return self.pretrain_epochs + self.search_epochs + self.epochs

    def search(self, seed: int) -> WidthSearch:
        """How the job with this seed scores channels."""
        from ramify.train.width_search import WidthSearch

        given = {name: getattr(self, name) for name in ("lam", "beta", "gamma", "arch_lr")}
        own: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return WidthSearch(self.searcher, self.search_epochs, seed=seed, groups=self.groups, **own)

    def selection(self) -> Rule:
        """What selects among the prunes."""
        from ramify.select import Threshold, TopFraction

        if self.threshold is not None:
            return Threshold(value=-self.threshold, multiple_of=self.multiple_of)
        share = 1.0 if self.ratio is None else self.ratio
        return TopFraction(share, per_group=self.per_layer, multiple_of=self.multiple_of)
