"""The settings of ``ramify prune``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ramify.commands.defaults import DATA_SETS
from ramify.commands.grow_settings import BUDGETS, RESOURCES
from ramify.commands.settings import (
    CUT,
    OWN,
    SEARCH,
    TRAIN,
    WHAT,
    NetworkSettings,
    described,
    option,
)
from ramify.errors import RamifyError

if TYPE_CHECKING:
    from torch import nn

    from ramify.data import Dataset
    from ramify.methods import Method
    from ramify.refit.outcome import Accept
    from ramify.select import Rule
    from ramify.train.epoch import Training
    from ramify.train.width_search import WidthSearch

GATED = ("rarts", "darts", "darts1", "darts2", "milenas", "joint", OWN)  # they learn gates
SCORED = ("takeover", "l1", "taylor", "random")  # a score, behind plain training where there is
SEARCHERS = (*SCORED, *GATED[:-1], "bn", OWN)
OWN_SCORE = "a method of your own"  # what `OWN` is where it scores, and learns no gates
CUTS = ("ratio", "threshold", "budget")  # they exclude each other
SAYS_HOW_MUCH = (*CUTS, "accept")


class PruneSettings(NetworkSettings):
    """The settings of ``ramify prune``; those that its searcher does not use are None."""

    kind: ClassVar[str] = "prune"
    rivals = (CUTS,)

    weights: str | None = option(
        WHAT,
        "A file with the weights of your trained network, which is then evaluated and not trained: "
        "a safetensors file, or a file written by torch.save(model.state_dict(), FILE) or by "
        "ramify.save.",
    )
    pretrain_epochs: int = option(
        TRAIN,
        "Passes over the data to train the full network first. Default: --epochs; 0 with "
        "--weights.",
        ge=0,
    )
    searcher: str = option(
        SEARCH,
        "How channels are scored: {}. takeover scores a channel by the rise of the loss after the "
        "other channels are refitted. Your own object is a subclass of ramify.relax.Searcher, "
        "which learns gates in a search, or a method, which scores channels.",
        choices=SEARCHERS,
    )
    search_epochs: int = option(
        SEARCH,
        "Passes over the data in the search between the training and the cut; each step takes one "
        "batch of each half. Default: --epochs; 0 for takeover and, with --weights, for l1, taylor "
        "and random.",
        ge=0,
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
        "γ, the weight of the L1 penalty on the gates or, for bn, on the scales of the norm "
        "layers; a larger γ brings more of them to zero",
        of={"searcher": (*GATED, "bn")},
    )
    penalty_by: str | None = option(
        SEARCH,
        "Weight the penalty of each gate or norm scale by the cost of its channel in: {}. With bn "
        "this is the regulariser of MorphNet. Default: equal weights.",
        choices=RESOURCES,
        of={"searcher": (*GATED, "bn")},
    )
    arch_lr: float | None = option(
        SEARCH, "Learning rate of the gates. Default: --lr.", of={"searcher": GATED}
    )
    budget: dict[str, float | str] | None = option(
        CUT,
        "The largest cost of the cut network for one sample, such as params=1.2e6, or macs=50% of "
        f"the full network, in one of {BUDGETS}; may be given several times",
        form=f"one of {BUDGETS} and a number, such as params=1.2e6, or a percentage of the full "
        "network, such as macs=50%",
    )
    accept: dict[str, float] | None = option(
        CUT,
        "Cut as far as possible while the metric worsens by at most this much, such as "
        "accuracy=-1.0 (one point less than the full network) or loss=0.05 (a rise by 0.05); for "
        "other tasks iou=-1.0 (points), r2=-0.01 or perplexity=0.5. May be combined with --budget "
        "or --ratio. "
        "Measured after the refit and before fine-tuning, on a tenth of the training data (100 to "
        "2,000 samples) that this run does not train on; the training of --weights may have used "
        "these samples.",
        form="accuracy and the change in points, such as accuracy=-1.0, or loss and its rise, such "
        "as loss=0.05, or the metric of another task and its change, such as r2=-0.01",
    )
    ratio: float | None = option(
        CUT,
        "Instead of --budget: the fraction of the channels to cut, over all layers.",
        gt=0,
        le=1,
    )
    per_layer: bool = option(CUT, "Apply --ratio to every layer separately.")
    threshold: float | None = option(
        CUT,
        "Instead of --budget: cut the channels whose gate or, for bn, norm scale is at most this "
        "number.",
        ge=0,
    )
    keep: float | int | dict[str, float | int] = option(
        CUT,
        "The least that is kept of every layer: a fraction of its channels, such as 0.1, or a "
        "number of channels, such as 8; or that of single groups, named as `ramify show` lists "
        "them, such as layer1.0=0.5, which may be given several times",
        form="a share of at most 1.0, a whole number of channels, or one of these by group, such "
        "as layer1.0=0.5",
    )
    groups: tuple[str, ...] | None = option(
        CUT,
        "Score and cut only the groups with these names, as `ramify show` lists them, such as "
        "'*.mlp.fc1,*.q_proj:1'. Default: all groups.",
    )
    alike: tuple[str, ...] | None = option(
        CUT,
        "Patterns of group names, such as '*.mlp.fc1'; all groups that match one pattern stay "
        "equally wide. Default: none.",
    )
    multiple_of: int = option(
        CUT, "Make the width of every changed layer a multiple of this number, such as 8"
    )
    raw: bool = option(
        CUT,
        "Compare the raw scores of different layers, as the RARTS thesis does. Otherwise gates and "
        "norm scales are divided by the mean of their layer, cuts with more equal fractions in all "
        "layers are tried too, and the cut with the lowest loss is kept. Always on with --searcher "
        "random. Not with --searcher takeover.",
    )
    refit: bool = option(
        CUT,
        "Refit the remaining channels by least squares on --probe-samples samples. Default: on.",
    )
    sensitivity: bool = option(
        CUT,
        "Before the cut, measure the rise of the loss when a fraction of only one layer is pruned, "
        "and show it on the page.",
    )
    rounds: int = option(
        CUT,
        "Number of cuts, each followed by fine-tuning, that reduce the cost to --budget by equal "
        "factors",
        ge=1,
    )
    depth: bool = option(
        CUT,
        "Also drop whole blocks, if the cut network then has a lower loss than with narrower "
        "layers alone; `ramify show` lists the blocks. Needs --budget, one round and no search.",
    )
    probe_samples: int = option(
        CUT,
        "Number of training samples on which channels are scored and refitted; the cut is "
        "evaluated on as many other samples.",
        ge=1,
    )
    epochs: int = option(
        TRAIN, "Passes over the data to tune the network after a cut; 0 for none.", ge=0
    )
    tuning_lr: float | None = option(
        TRAIN,
        "Learning rate of fine-tuning. Default: found by short trials after each cut; with "
        "--from-scratch half of --lr.",
        gt=0,
    )
    from_scratch: bool = option(
        TRAIN, "Reinitialise the cut network and train it from scratch instead of fine-tuning."
    )
    distill: bool = option(
        TRAIN,
        "Tune on the outputs of the full network as well as on the labels, for classification and "
        "text. Default: on if there is a trained full network.",
    )
    temperature: float | None = option(
        TRAIN, "T, the temperature of the distillation", of={"distill": ("True",)}, gt=0
    )
    weights_digest: str | None = None

    @classmethod
    def tidied(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """The settings with the order of DARTS in the searcher's name, without the digest."""
        order, name = given.get("searcher_order"), given.get("searcher", "takeover")
        if order is not None and (name != "darts" or order not in (1, 2)):
            raise RamifyError(
                f"searcher_order is {order} for the searcher {name}; it is 1 or 2, of darts alone."
            )
        named = {"searcher": f"darts{order or 1}"} if name == "darts" else {}
        apart = ("searcher_order", "weights_digest")
        return {key: value for key, value in given.items() if key not in apart} | named

    @classmethod
    def upgraded(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Earlier folders weigh all penalties alike."""
        return super().upgraded({"penalty_by": None} | values)

    @classmethod
    def fill(cls, values: dict[str, Any], given: Mapping[str, Any]) -> None:
        """Epochs, width, what is cut by, and the rate of the gates depend on other settings."""
        if given.get("model", values["model"]) != values["model"]:
            values["width"] = None
        if weights := given.get("weights"):
            from ramify.commands.weights import digest_of

            values["weights_digest"] = digest_of(weights)
        epochs = given.get("epochs", values["epochs"])
        direct = ("takeover",) if not weights else SCORED
        searched = given.get("searcher", values["searcher"]) not in direct
        values |= {"pretrain_epochs": 0 if weights else epochs}
        values |= {"search_epochs": epochs if searched else 0}
        values["arch_lr"] = given.get("lr", values["lr"])
        half = 0.5 * given.get("lr", values["lr"])
        values["tuning_lr"] = half if given.get("from_scratch") else None
        trained = bool(weights) or given.get("pretrain_epochs", epochs) > 0
        values["distill"] = trained and epochs > 0
        if any(given.get(name) is not None for name in SAYS_HOW_MUCH):
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
        cuts = [name for name in SAYS_HOW_MUCH if values.get(name) is not None]
        both = [name for name in cuts if name in CUTS]
        if len(both) > 1:
            raise RamifyError(f"{' and '.join(both)} each say how much to cut; give one of them.")
        if values["per_layer"] and "ratio" not in cuts:
            raise RamifyError(
                f"per_layer needs ratio and does not work with {cuts[0]}; leave it out."
            )
        if "threshold" in cuts and cls.choice("searcher", values) in (*SCORED, OWN_SCORE):
            raise RamifyError(
                f"threshold applies to gates or norm scales, which {values['searcher']} does not "
                "learn; give a ratio or a budget, or choose another searcher."
            )
        if given.get("raw") and values["searcher"] == "takeover":
            raise RamifyError(
                "raw is for scores that are not comparable between layers, but those of takeover "
                "are losses, which are comparable; leave it out."
            )
        if values["rounds"] > 1:
            _refuse_rounds(values)
        if values["depth"]:
            _refuse_depth(values)
        _refuse_tuning(given, values)
        super().refuse(given, values)

    def check(self) -> None:
        """Raise a RamifyError where a setting is out of range, or a file has changed."""
        from ramify.commands.prune_accept import checked_allowance
        from ramify.commands.weights import digest_of
        from ramify.refit.budget_shares import share_of
        from ramify.train.rounds import checked_budget

        super().check()
        if "loss" in (self.budget or {}):
            raise RamifyError("the loss cannot be a budget; give --accept loss=0.05 instead.")
        checked_budget({name: share_of(name, m) for name, m in (self.budget or {}).items()})
        if self.data in DATA_SETS and self.task is None:  # the others say their task when loaded
            checked_allowance(self.accept or {})
        self._rule()
        self.search(self.seed) or self.method(self.seed)
        if self.weights is None:
            return
        try:
            digest = digest_of(self.weights)
        except RamifyError as missing:  # on resuming; a new run has found the file before
            raise RamifyError(
                f"the run was started with the weights in {self.weights}, and there is no such "
                "file here: run the command in the directory in which the run was begun, or "
                "restore the file."
            ) from missing
        if digest != self.weights_digest:
            raise RamifyError(
                f"the weights in {self.weights} are not those that the run was started with; "
                "restore the file, or begin a new run."
            )

    def suited(self, dataset: Dataset, given: Mapping[str, Any]) -> Self:
        """Without a teacher where the outputs are not those that a softmax is taken of."""
        settings = super().suited(dataset, given)
        if dataset.task.softmax_last or not self.distill:
            return settings
        if given.get("distill") or "temperature" in given:
            raise RamifyError(
                "distill needs the softmax outputs of a classification or of text, but "
                f"{described(dataset)}; leave it out."
            )
        return settings.model_copy(update={"distill": False, "temperature": None})

    def arms(self) -> tuple[str, ...]:
        """The networks that each seed trains, or measures."""
        full = self.pretrain_epochs > 0 or self.weights is not None
        return ("baseline",) * full + ("scored",) * (self.search_epochs > 0) + ("pruned",)

    def passes(self) -> int:
        """Epochs that the arms of a seed make together, where a cut counts as one too."""
        return self.pretrain_epochs + self.search_epochs + self.rounds * (1 + self.epochs)

    def tuning(self) -> Training:
        """How the cut network is fine-tuned."""
        from ramify.train.shrink import tuning

        known = tuning()
        lr = self.tuning_lr or min(0.5 * self.lr, known.lr)  # the rate of the first trial
        return replace(self.training(), epochs=self.epochs, lr=lr, warmup=known.warmup)

    def search(self, seed: int) -> WidthSearch | None:
        """How the job with this seed scores channels in training; None where it does not."""
        return self._scoring(seed, self.search_epochs) if self.search_epochs else None

    def method(self, seed: int) -> Method:
        """The method that scores the channels of the present network."""
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

        given = {
            name: getattr(self, name) for name in ("lam", "beta", "gamma", "arch_lr", "penalty_by")
        }
        own: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return WidthSearch(self.searcher, epochs, seed=seed, groups=self.groups, **own)

    def budget_of(self, model: nn.Module, inputs: Any) -> dict[str, float] | None:
        """The budget in absolute numbers.

        Args:
            model: The full network, of which a budget may be a share.
            inputs: One example of its inputs.

        Returns:
            Totals by resource; None if the cut is not defined by a budget.
        """
        from ramify.refit.budget_shares import in_numbers
        from ramify.tracing import trace

        return None if self.budget is None else in_numbers(trace(model, inputs), self.budget)

    def cutting(self, budget: dict[str, float] | None, accept: Accept | None) -> dict[str, Any]:
        """How the network is cut, as keyword arguments of :func:`ramify.shrink`.

        Args:
            budget: From :meth:`budget_of`.
            accept: Decides whether a cut network is good enough; None for no such check.

        Returns:
            The arguments by name.
        """
        return {
            "budget": budget,
            "accept": accept,
            "rule": self._rule(),
            "refit": self.refit,
            "keep": self.keep,
            "multiple_of": self.multiple_of,
            "alike": self.alike or (),
            "groups": self.groups,
            # What is drawn at random is a baseline, for which nothing else chooses.
            "raw": self.raw or self.threshold is not None or self.searcher == "random",
            "rounds": self.rounds,
            "depth": self.depth,
        }

    def _rule(self) -> Rule | None:
        """Which channels may go; None for all."""
        from ramify.select import Threshold, TopFraction

        if self.threshold is not None:
            return Threshold(value=-self.threshold, multiple_of=self.multiple_of)
        if self.ratio is not None:
            return TopFraction(self.ratio, per_group=self.per_layer, multiple_of=self.multiple_of)
        return None


def _refuse_rounds(values: Mapping[str, Any]) -> None:
    """Refuse several cuts if only one makes sense."""
    for name in ("ratio", "threshold"):
        if values.get(name) is not None and values.get("accept") is None:
            raise RamifyError(
                f"rounds approach a budget step by step, but {name} selects all channels at once; "
                "give a budget, or leave rounds out."
            )
    if values["search_epochs"]:
        raise RamifyError(
            "rounds need new scores for each cut, but a search scores only once; give "
            "--search-epochs 0, or leave rounds out."
        )


def _refuse_depth(values: Mapping[str, Any]) -> None:
    """Refuse depth where no budget of size chooses it once, on the network as it is."""
    others = [name for name in SAYS_HOW_MUCH if name != "budget" and values.get(name)]
    if others or not values.get("budget"):
        instead = f" and no {', '.join(others)}" if others else ""
        raise RamifyError(
            f"depth needs a budget of size{instead}; give one, such as --budget macs=50%, or leave "
            "depth out."
        )
    if values["rounds"] > 1 or values["search_epochs"]:
        raise RamifyError(
            "blocks are dropped in a single cut without a search; give --rounds 1 and "
            "--search-epochs 0, or leave depth out."
        )


def _refuse_tuning(given: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Refuse what a tuning needs where it is missing, and what it takes where there is none."""
    if not values["epochs"]:
        for name in ("from_scratch", "distill", "tuning_lr"):
            if given.get(name):
                raise RamifyError(
                    f"{name} is a setting of fine-tuning, but epochs is 0; give some epochs."
                )
    trained = values["pretrain_epochs"] or values.get("weights")
    if values["distill"] and not trained:
        raise RamifyError(
            "distill needs the full network as a teacher, but pretrain_epochs is 0; give some "
            "epochs, or weights."
        )
    if values.get("accept") and not trained:
        raise RamifyError(
            "accept compares with the trained full network, but pretrain_epochs is 0 (by default "
            "the same as epochs): give --pretrain-epochs or --weights."
        )
    if "temperature" in given and not values["distill"]:
        raise RamifyError("temperature is a setting of distill; give both or neither.")
