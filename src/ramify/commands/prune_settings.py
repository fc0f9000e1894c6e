"""The settings of ``ramify prune``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from ramify.commands.grow_settings import BUDGETS
from ramify.commands.settings import CUT, OWN, SEARCH, TRAIN, NetworkSettings, option
from ramify.errors import RamifyError

if TYPE_CHECKING:
    from torch import nn

    from ramify.methods import Method
    from ramify.select import Rule
    from ramify.train.epoch import Training
    from ramify.train.width_search import WidthSearch

GATED = ("rarts", "darts", "darts1", "darts2", "milenas", "joint", OWN)  # they learn gates
SCORED = ("takeover", "l1", "taylor", "random")  # a score, behind plain training where there is
SEARCHERS = (*SCORED, *GATED[:-1], "bn", OWN)
OWN_SCORE = "a method of your own"  # what `OWN` is where it scores, and learns no gates
CUTS = ("ratio", "threshold", "budget")


class PruneSettings(NetworkSettings):
    """The settings of ``ramify prune``; those that its searcher does not take are None."""

    kind: ClassVar[str] = "prune"
    rivals = (CUTS,)

    searcher: str = option(
        SEARCH,
        "What scores the channels: {}. takeover needs no search: it scores by what the loss rises "
        "by once the other channels have taken over. Your own is a class of ramify.relax.Searcher, "
        "which learns gates, or a method, which scores after training.",
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
        "--epochs, and 0 for takeover.",
        ge=0,
    )
    groups: tuple[str, ...] | None = option(
        CUT,
        "Score and cut only the groups of these names, as `ramify show` lists them, such as "
        "'*.mlp.fc1,*.q_proj:1'. Default: all.",
    )
    ratio: float | None = option(
        CUT, "In place of --budget: the share of the channels to cut, over all layers."
    )
    keep: float = option(CUT, "The floor of every layer, as a share of its channels", gt=0, le=1)
    alike: tuple[str, ...] | None = option(
        CUT,
        "Patterns of names of groups, such as '*.mlp.fc1'; groups that one matches stay equally "
        "wide.",
    )
    raw: bool = option(
        CUT,
        "Compare scores between layers as they are, as the RARTS thesis does, and not over the "
        "mean of each layer.",
    )
    refit: bool = option(
        CUT, "Let the channels that stay take over, by least squares on --probe-samples samples."
    )
    rounds: int = option(
        CUT, "Cuts, each with its fine-tuning, that approach the budget by equal factors.", ge=1
    )
    per_layer: bool = option(CUT, "Cut the share --ratio of every layer.")
    threshold: float | None = option(
        CUT,
        "In place of --budget: cut the channels whose gate, or for bn whose norm scale, is at most "
        "this number.",
        ge=0,
    )
    budget: dict[str, float | str] | None = option(
        CUT,
        "Cut until the network costs no more than this for one sample, such as params=1.2e6, or "
        f"macs=50% of the full network; may be given several times. One of {BUDGETS}. Default: "
        "macs=50%.",
    )
    multiple_of: int = option(
        CUT, "Make the width of a layer that changes a multiple of this, such as 8"
    )
    epochs: int = option(
        TRAIN, "Passes over the data that fine-tune the network after a cut.", ge=0
    )
    tuning_lr: float = option(
        TRAIN, "Learning rate of the fine-tuning. Default: half of --lr.", gt=0
    )
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
        direct = given.get("searcher", values["searcher"]) == "takeover"
        values |= {"pretrain_epochs": epochs, "search_epochs": 0 if direct else epochs}
        values["arch_lr"] = given.get("lr", values["lr"])
        values["tuning_lr"] = 0.5 * given.get("lr", values["lr"])
        values["distill"] = given.get("pretrain_epochs", epochs) > 0
        if any(name in given for name in CUTS):
            values["budget"] = None

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
        cuts = [name for name in CUTS if values.get(name) is not None]
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
        from ramify.train.cut_rounds import Cutting
        from ramify.train.rounds import checked_budget

        super().check()
        sizes = {name: _checked_share(name, most) for name, most in (self.budget or {}).items()}
        Cutting(**self.cutting(checked_budget(sizes)))
        self.search(self.seed) or self.method(self.seed)

    def arms(self) -> tuple[str, ...]:
        """The networks that each seed trains."""
        searched = self.search_epochs > 0
        return ("baseline",) * (self.pretrain_epochs > 0) + ("scored",) * searched + ("pruned",)

    def passes(self) -> int:
        """Epochs that the arms of a seed make together."""
        return self.pretrain_epochs + self.search_epochs + self.rounds * self.epochs

    def tuning(self) -> Training:
        """How the cut network is fine-tuned."""
        from ramify.train.shrink import tuning

        return replace(
            self.training(), epochs=self.epochs, lr=self.tuning_lr, warmup=tuning().warmup
        )

    def search(self, seed: int) -> WidthSearch | None:
        """How the job with this seed scores channels in training; None where it does not."""
        return self._scoring(seed, self.search_epochs) if self.search_epochs else None

    def method(self, seed: int) -> Method:
        """What scores the channels of the network as it is."""
        from ramify.train.width_search import WidthSearch

        found = WidthSearch(self.searcher, seed=seed).method()
        if found is None or self.searcher == "bn":
            raise RamifyError(
                f"the searcher {self.searcher} learns its scores in training, and search_epochs is "
                "0; give some."
            )
        return found

    def _scoring(self, seed: int, epochs: int) -> WidthSearch:
        from ramify.train.width_search import WidthSearch

        given = {name: getattr(self, name) for name in ("lam", "beta", "gamma", "arch_lr")}
        own: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return WidthSearch(self.searcher, epochs, seed=seed, groups=self.groups, **own)

    def budget_of(self, model: nn.Module, inputs: Any) -> dict[str, float] | None:
        """The budget in absolute numbers.

        Args:
            model: The full network, of which a budget may be a share.
            inputs: One example of its inputs.

        Returns:
            Totals by resource; None where something else says what goes.
        """
        from ramify.cost import RESOURCES, graph_cost
        from ramify.latency import measure_edited
        from ramify.tracing import trace

        if self.budget is None:
            return None
        graph = trace(model, inputs)
        totals = dict[str, float]()
        for name, most in self.budget.items():
            if isinstance(most, str):
                counted = name in RESOURCES
                now = graph_cost(graph).of(name) if counted else measure_edited(graph).median
                most = _checked_share(name, most) * now
            totals[name] = most
        return totals

    def cutting(self, budget: dict[str, float] | None) -> dict[str, Any]:
        """How the network is cut, as keyword arguments of :func:`ramify.shrink`.

        Args:
            budget: From :meth:`budget_of`.

        Returns:
            The arguments by name.
        """
        return {
            "budget": budget,
            "rule": None if self.budget else self._rule(),
            "refit": self.refit,
            "keep": self.keep,
            "multiple_of": self.multiple_of,
            "alike": self.alike or (),
            "groups": self.groups,
            "raw": self.raw or self.threshold is not None,
            "rounds": self.rounds,
        }

    def _rule(self) -> Rule:
        from ramify.select import Threshold, TopFraction

        if self.threshold is not None:
            return Threshold(value=-self.threshold, multiple_of=self.multiple_of)
        assert self.ratio is not None
        return TopFraction(self.ratio, per_group=self.per_layer, multiple_of=self.multiple_of)


def _checked_share(name: str, most: float | str) -> float:
    """A budget as it is, or as a share of the full network's cost where it is a percentage."""
    if not isinstance(most, str):
        return most
    try:
        share = float(most.removesuffix("%")) / 100
    except ValueError:
        share = 0.0
    if not (most.endswith("%") and 0 < share < 1):
        raise RamifyError(
            f"the budget of {name} is {most!r}; give a number above 0, or a percentage of the "
            "full network between 0% and 100%, such as 50%."
        )
    return share
