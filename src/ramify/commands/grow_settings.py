"""The settings of ``ramify grow``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ramify.commands.defaults import defaults
from ramify.commands.grow_rounds import (
    PRUNING,
    all_epochs,
    implied_rule,
    rounds_with_budget,
    rounds_without_budget,
)
from ramify.commands.settings import GROW, OWN, RUN, TRAIN, NetworkSettings, option
from ramify.errors import RamifyError

if TYPE_CHECKING:
    from ramify.data import Dataset
    from ramify.methods import Method
    from ramify.select import Rule
    from ramify.select.width_bounds import WidthBounds
    from ramify.train.epoch import Training

GROWN, SEED, COMPARED = "grown", "seed", ("scratch", "wide")  # the arms, which sizes add to
CUT, WIDE = "cut-", "wide-"  # then one of the sizes, as `size_of` reads it
BOUND = "'layer1*=32'"
BOUNDS_FORM = f"a whole number of channels, or one for each of some layers, such as {BOUND}"
RESOURCES = ("params", "macs", "flops", "energy")
BUDGETS = "params, macs, flops, energy, latency (in milliseconds)"
SPLITTING = ("s2d", "s3d")
JUDGING = (  # methods that judge on a sample of the data; gauss-newton learns on all of it
    *(*SPLITTING, "auto", "gradmax", "random", "net2net", "new-neuron", "boosting", "line-search"),
    *("expansion", "l1", "bn", "taylor", OWN),
)
UNITS, DISPLACING = ("kernel", "absolute"), (*SPLITTING, "random", "line-search")
CURVATURES = ("gauss-newton", "fisher")
METHODS = (*SPLITTING, "gauss-newton", *JUDGING[2:])
RULES = ("top-fraction", "threshold", "trade-off", "knapsack", OWN)
LEARNED: dict[str, Any] = {  # what Gauss-Newton was before these were settings
    "radius": 1.0,
    "curvature": "gauss-newton",
    "morphism_lr": 0.01,
    "morphism_momentum": None,
}
SCORED = ("random", "net2net", "new-neuron", "boosting", "l1", "bn")  # they estimate no gain


class GrowSettings(NetworkSettings):
    """The settings of ``ramify grow``; those that its method or rule does not use are None."""

    kind: ClassVar[str] = "grow"
    rivals = (("rule", "fraction", "most", "threshold", "tradeoff"),)

    method: str = option(
        GROW,
        "The method that proposes changes of the shape: {}. If an option of other methods is "
        "given, such as --step, the default is the first method that has it; with --bottlenecks it "
        "is gradmax.",
        choices=METHODS,
    )
    rule: str = option(
        GROW,
        "The rule that selects among the proposed changes: {}. Default: top-fraction; trade-off "
        "for gauss-newton without a budget; threshold with --most or --threshold.",
        choices=RULES,
    )
    rounds: int = option(
        GROW,
        "The largest number of changes of the shape. With --budget the same epochs are divided "
        "into about 20 shorter rounds, so that the network reaches its shape early and then trains "
        "on.",
    )
    budget: dict[str, float] | None = option(
        GROW,
        "The largest cost of the network for one sample, such as params=1.2e6, in one of "
        f"{BUDGETS}; may be given several times.",
        form=f"one of {BUDGETS} and a number, such as params=1.2e6",
    )
    keep: int | dict[str, int] | None = option(
        GROW,
        "The smallest number of channels of every layer, or of some layers, such as "
        f"{BOUND}; may be given several times. Default: 1.",
        form=BOUNDS_FORM,
    )
    ceiling: int | dict[str, int] | None = option(
        GROW,
        "The largest number of channels of every layer, or of some layers, named as `ramify show` "
        f"lists them, such as {BOUND}; may be given several times. Default: no bound.",
        form=BOUNDS_FORM,
    )
    groups: tuple[str, ...] | None = option(
        GROW,
        "Change only the layers with these names, as `ramify show` lists them, such as "
        "'layer1*,layer2.0'; also in cuts to --sizes. Default: all layers.",
    )
    multiple_of: int = option(
        GROW, "Make the width of every changed layer a multiple of this number, such as 8"
    )
    fraction: float | None = option(
        GROW,
        "Fraction of all channels to change in a round; with the rule trade-off, of the channels "
        "of each layer.",
        of={"rule": ("top-fraction", "trade-off")},
        gt=0,
        le=1,
    )
    per_layer: bool | None = option(
        GROW,
        "Apply --fraction to every layer separately, and not to all channels together. Default: on "
        "with a budget for methods that grow, without --per.",
        of={"rule": ("top-fraction",)},
    )
    per: str | None = option(
        GROW,
        "Rank the changes by their gain per unit of one of these: {}. Default: by the gain alone.",
        choices=RESOURCES,
        of={"rule": ("top-fraction",)},
    )
    most: int | None = option(
        GROW,
        "Instead of --fraction: the largest number of channels to change in a round.",
        of={"rule": ("threshold",)},
    )
    threshold: float | None = option(
        GROW,
        "Instead of --fraction: split only channels whose splitting index is at most this number, "
        "which must be 0 or less.",
        of={"method": SPLITTING, "rule": ("threshold",)},
    )
    tradeoff: float | None = option(
        GROW,
        "λ_p, the smallest decrease of the loss per added parameter",
        of={"rule": ("trade-off",)},
    )
    step: float | None = option(
        GROW,
        "Initial distance of the copies from the channel that is split.",
        of={"method": (*SPLITTING, "auto", "random")},
    )
    step_unit: str | None = option(
        GROW,
        "Unit of --step and of similar displacements: {}. kernel: relative to the norm of the "
        "channel's own kernels; absolute: as in the papers.",
        choices=UNITS,
        of={"method": DISPLACING},
    )
    signed: float | None = option(
        GROW,
        "c, the largest sum of the absolute values of the copies' outgoing weights.",
        of={"method": ("s3d",)},
    )
    copies: tuple[int, ...] | None = option(
        GROW,
        "The numbers of copies into which a channel may be split, such as 2,3,4, which is the "
        "default with the rule knapsack, where they are compared at their cost",
        of={"method": ("s3d",)},
    )
    surrogate: float | None = option(
        GROW,
        "Sharpness of the softplus whose curvature (for gradmax, slope) replaces that of "
        "piecewise-linear activations such as ReLU; 0 to use the true one",
        of={"method": (*SPLITTING, "auto", "gradmax", "line-search")},
    )
    bottlenecks: bool = option(
        GROW,
        "Widen only the layers whose channels are worth most for their cost, as measured by "
        "removing some of them, and not all layers alike.",
    )
    trial: bool = option(
        GROW,
        "Try the selected changes of a round together before making them, and shorten splits and "
        "leave out prunes until the loss does not rise.",
    )
    rescale: bool = option(
        GROW,
        "After each change, rescale kernels that are followed by a batch norm to their initial "
        "norm, so that the network trains like a fresh one of its shape.",
    )
    depth: bool = option(
        GROW,
        "Also insert copies of whole blocks, such as residual blocks, if they gain more for their "
        "cost than the wider layers of the round. A new copy does not change the output until it "
        "is trained. `ramify show` lists the blocks that can be copied.",
    )
    phase: int | None = option(
        GROW,
        "Passes over the data in which the changes of a round are learned. Default: --epochs, or "
        "half of it in the short rounds of a run with --budget or without --epochs, --rounds and "
        "--span.",
        of={"method": ("gauss-newton",)},
        ge=1,
    )
    radius: float | None = option(
        GROW,
        "Largest norm of a learned displacement, relative to the norm of the channel's own "
        "kernels; 0 for no bound, as in the paper",
        of={"method": ("gauss-newton",)},
        ge=0,
    )
    curvature: str | None = option(
        GROW,
        "Curvature of the loss in the paper's equation (1): {}. gauss-newton: p²/4L̂, as in the "
        "paper, the default for tasks other than classification; fisher: p²/2, that of the log "
        "likelihood of a class",
        choices=CURVATURES,
        of={"method": ("gauss-newton",)},
    )
    morphism_lr: float | None = option(
        GROW,
        "Learning rate of Adam for the displacements",
        of={"method": ("gauss-newton",)},
        gt=0,
    )
    morphism_momentum: float | None = option(
        GROW,
        "Weight of the newest batch in the running mean of the gain of a change. Default: a mean "
        "over the last tenth of the phase, as in the paper (2 epochs of 20).",
        of={"method": ("gauss-newton",)},
        gt=0,
        le=1,
    )
    probe_samples: int | None = option(
        GROW,
        "Number of training samples on which the changes are scored.",
        of={"method": JUDGING},
        ge=1,
    )
    span: str = option(
        TRAIN,
        "What the learning-rate schedule covers. round: it restarts after each change of the "
        "shape, at the full learning rate. run: it covers all rounds, that is --epochs for each of "
        "--rounds and before the first, without restarts; a network that stops changing earlier "
        "still trains to the end of the schedule",
    )
    patience: int | None = option(
        TRAIN,
        "End a round before its --epochs if the mean training loss fell by at most 1 % over this "
        "many epochs. The last round makes all of its epochs and, with --span run, also those that "
        "earlier rounds left out. Default: no round ends early.",
        ge=1,
    )
    total_epochs: int | None = option(
        TRAIN,
        "With --span run: passes over the data in all, to which the network trains on after its "
        "last change. Default: --epochs for each of --rounds and before the first; gauss-newton "
        "without a budget divides the same total into rounds of a twentieth each.",
        ge=1,
    )
    sizes: tuple[int, ...] | None = option(
        GROW,
        "Also cut the grown network to these numbers of parameters, one after the other, such as "
        "1800,900, and fine-tune it after each cut by distillation from the grown one, so that one "
        "run gives a network of every size. Needs --budget params. Default: none.",
    )
    tuning_epochs: int | None = option(
        TRAIN,
        "Passes over the data after each cut to one of --sizes. Default: a fifth of the passes of "
        "the growth.",
        ge=1,
    )
    compare: bool = option(
        RUN,
        "Also train for the same number of steps: the grown shape from scratch, the seed "
        "network scaled uniformly to the same size, and the seed network scaled to each of --sizes "
        "or, without --sizes, the seed network itself.",
    )

    @classmethod
    def over(cls, base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """The given settings over those of a file; the method is one that goes with them."""
        known = super().over(base, given)
        entries = [entry for name, entry in cls.options().items() if known.get(name) is not None]
        takers = [entry["of"]["method"] for entry in entries if "method" in entry["of"]]
        narrow = bool(known.get("bottlenecks"))
        if (takers or narrow) and "method" not in known and "data" in known:
            usual = "gradmax" if narrow else defaults(cls.kind, known)["method"]
            fit = [m for m in (usual, *METHODS) if all(m in some for some in takers)]
            known["method"] = fit[0] if fit else usual
        return known

    @classmethod
    def fill(cls, values: dict[str, Any], given: Mapping[str, Any]) -> None:
        """The rule, the rounds, the phase and the width depend on other settings."""
        values["rule"] = implied_rule({**values, **given}, given)
        if given.get("rule") == "knapsack" and "copies" in values:
            values["copies"] = (2, 3, 4)
        values["phase"] = given.get("epochs", values["epochs"])
        if "budget" in given:
            values |= rounds_with_budget({**values, **given}, given)
        elif not {"epochs", "rounds", "span"} & set(given):
            values |= rounds_without_budget({**values, **given})
        if "sizes" in given:
            known = {**values, **given}
            values["tuning_epochs"] = max(1, all_epochs(known) // 5)
        if ":" in {**values, **given}["model"]:
            values["width"] = None  # a function of the user's need not take one

    @classmethod
    def refuse(cls, given: Mapping[str, Any], values: dict[str, Any]) -> None:
        """Refuse settings that exclude each other or have no effect."""
        if "fraction" in given and {"most", "threshold"} & set(given):
            raise RamifyError(
                "fraction was given together with most or threshold; choose a share of the channels"
                " (fraction), or Algorithm 1's number and threshold (most, threshold)."
            )
        if values["rule"] == "knapsack" and not values.get("budget"):
            raise RamifyError(
                "the rule knapsack needs a budget, but none was given; give one, such as --budget "
                "params=1.2e6."
            )
        if values["rule"] == "trade-off" and values["method"] in SCORED:
            raise RamifyError(
                f"the rule trade-off weighs gains against parameters, but {values['method']} "
                "estimates no gain; choose another rule or method."
            )
        if values.get("per") and values["method"] in SCORED:
            raise RamifyError(
                f"per ranks gains per cost, but {values['method']} estimates no gain; "
                "leave it out, or choose another method."
            )
        for name, does in (("bottlenecks", "chooses layers to widen"), ("depth", "inserts blocks")):
            if values[name] and values["method"] in PRUNING:
                raise RamifyError(
                    f"{name} {does} while a network grows, but {values['method']} only prunes; "
                    f"leave {name} out, or choose another method."
                )
        _refuse_sizes(given, values)
        super().refuse(given, values)

    @classmethod
    def upgraded(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Earlier folders name no rule; steps were absolute, nothing was tried or rescaled."""
        taken = {name: v for name, v in values.items() if v is not None}
        unit = "absolute" if values.get("method") in DISPLACING else None
        added: dict[str, Any] = {"rule": implied_rule(values, taken), "step_unit": unit}
        learned = values.get("method") == "gauss-newton"
        added |= LEARNED if learned else dict.fromkeys(LEARNED)
        added |= {"trial": False, "rescale": False} | dict.fromkeys(("keep", "ceiling", "per"))
        added |= dict.fromkeys(("groups", "sizes", "tuning_epochs"))
        added |= {"depth": False, "bottlenecks": False}
        rule = values.get("rule", added["rule"])
        added["per_layer"] = False if rule == "top-fraction" else None
        return super().upgraded(added | values)

    def check(self) -> None:
        """Raise a RamifyError where a setting is out of range."""
        from ramify.train.rounds import check_total, checked_budget, checked_rounds

        super().check()
        if self.threshold is not None and self.threshold > 0:
            raise RamifyError(
                f"threshold is {self.threshold}; a split lowers the loss only if its index is "
                "below 0, so threshold must be 0 or less."
            )
        checked_rounds(self.rounds), checked_budget(self.budget)
        check_total(self.training(), self.rounds)
        self.bounds(), self.selection(), self.growth(self.seed)

    def suited(self, dataset: Dataset, given: Mapping[str, Any]) -> Self:
        """With the paper's curvature where the loss is not the log likelihood of a class."""
        settings = super().suited(dataset, given)
        likelihood = dataset.task.own is None and dataset.task.name == "classification"
        if likelihood or self.curvature is None or "curvature" in given:
            return settings
        return settings.model_copy(update={"curvature": "gauss-newton"})

    def arms(self) -> tuple[str, ...]:
        """The networks that each seed trains."""
        sizes = self.sizes or ()
        cuts, wides = ([f"{prefix}{size}" for size in sizes] for prefix in (CUT, WIDE))
        if not self.compare:
            return (GROWN, *cuts)
        return (GROWN, *cuts, *(COMPARED if sizes else (SEED, *COMPARED)), *wides)

    def passes(self) -> int:
        """Epochs that the arms of a seed make together, at most."""
        return self.passes_beside(all_epochs(vars(self))) + (self.phase or 0) * self.rounds

    def passes_beside(self, grown: int) -> int:
        """Epochs that the arms of a seed make together where the grown network made so many."""
        cuts = len(self.sizes or ())
        return grown * (len(self.arms()) - cuts) + (self.tuning_epochs or 0) * cuts

    def tuning(self) -> Training:
        """The training of a network that is cut to one of the sizes."""
        return replace(
            self.training(),
            epochs=self.tuning_epochs or 0,
            lr=self.lr / 2,
            schedule="cosine",
            span="round",
            warmup=0.1,
            patience=None,
            total_epochs=None,
        )

    def growth(self, seed: int) -> Method:
        """The method that proposes the edits of the job with this seed."""
        from ramify.methods import Bottlenecks
        from ramify.methods.registry import method_named

        own: dict[str, Any] = {"step": self.step, "unit": self.step_unit}
        own |= {"signed": self.signed, "copies": self.copies, "curvature": self.curvature}
        own |= {"lr": self.morphism_lr, "momentum": self.morphism_momentum}
        given = {name: value for name, value in own.items() if value is not None}
        if self.method == "s3d" and self.rule == "knapsack":
            given["best_of_each"] = True  # the rule finds how many copies pay best
        if self.surrogate is not None:
            given["surrogate"] = self.surrogate or None  # 0 asks for the true curvature
        if self.phase is not None:
            given["epochs"] = self.phase
        if self.radius is not None:
            given["radius"] = self.radius or None  # 0 asks for no bound
        if self.method in ("auto", "gradmax"):
            given["lr"] = self.lr
        method = method_named(self.method, seed=seed, settings=given)
        return Bottlenecks(method) if self.bottlenecks else method

    def bounds(self) -> WidthBounds:
        """How narrow and how wide layers may become, and which of them may change."""
        from ramify.select.width_bounds import WidthBounds

        return WidthBounds(self.keep, self.ceiling, self.groups)

    def selection(self) -> Rule:
        """What selects among them."""
        from ramify.select.registry import rule_named

        settings: dict[str, dict[str, Any]] = {
            "top-fraction": {
                "fraction": self.fraction,
                "per": self.per,
                "per_group": bool(self.per_layer),
            },
            "threshold": {"most": self.most, "index": self.threshold or 0.0},
            "trade-off": {"params": self.tradeoff, "per_group": self.fraction},
            "knapsack": {"budget": self.budget},
        }
        own = settings.get(self.rule, {})
        return rule_named(self.rule, multiple_of=self.multiple_of, settings=own)


def size_of(arm: str) -> int | None:
    """The one of the sizes that an arm is a network of; None for the other arms."""
    prefix = next((prefix for prefix in (CUT, WIDE) if arm.startswith(prefix)), None)
    return None if prefix is None else int(arm.removeprefix(prefix))


def _refuse_sizes(given: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Refuse sizes that do not decrease from the budget, and fine-tuning without sizes."""
    sizes, most = values.get("sizes"), (values.get("budget") or {}).get("params")
    if sizes is None:
        if "tuning_epochs" in given:
            raise RamifyError("tuning_epochs needs sizes; give some, such as --sizes 1800,900.")
        return
    if most is None:
        raise RamifyError(
            "sizes need a budget of parameters for the growth; give one, such as "
            "--budget params=3600."
        )
    if not sizes or any(below >= size for size, below in pairwise((most, *sizes))) or sizes[-1] < 1:
        raise RamifyError(
            f"sizes are {', '.join(map(str, sizes))}; give decreasing numbers of parameters "
            f"below the budget of {most:,.12g}, such as {int(most) // 2},{int(most) // 4}."
        )
