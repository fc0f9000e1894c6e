"""Edits by a callback of another library, between the epochs of that library's training loop.

`some_of` and `example_of` extract from its data the batches and the example input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from ramify.arguments import check_method_and_rule
from ramify.edit import Follower
from ramify.errors import RamifyError, did_you_mean
from ramify.methods import GaussNewton, Method
from ramify.probe.loss import Loss
from ramify.refit import cut
from ramify.refit.budget_shares import in_numbers, share_of
from ramify.select import Rule
from ramify.select.width_bounds import Bound, WidthBounds
from ramify.tracing import ChannelGraph
from ramify.train.cut_rounds import Cutting
from ramify.train.edit_once import Editing, edit_once
from ramify.train.edit_trials import EditTrials
from ramify.train.history import Event
from ramify.train.rounds import checked_budget, costs, default_rule

LABELS = ("labels", "label", "label_ids")  # entries of a batch that are not inputs of the network
SAMPLES = 256
PHASE = 20  # passes over the batches in which Gauss-Newton learns by default, as in the paper
SETTINGS = ("method", "refit", "keep", "multiple_of", "alike", "groups", "raw", "followers")


def edit_epochs(epochs: Iterable[int]) -> list[int]:
    """The epochs after which a callback edits.

    Args:
        epochs: Numbers of epochs, each an integer of 1 or more.

    Returns:
        The numbers, sorted and without duplicates.

    Raises:
        RamifyError: There are none, or one is not such a number.

    Example:
        >>> edit_epochs((4, 2))
        [2, 4]
    """
    found = list(epochs) if isinstance(epochs, Iterable) else []
    if not found or not all(type(epoch) is int and epoch >= 1 for epoch in found):
        raise RamifyError(
            f"epochs must be the numbers of epochs after which to edit the network, such as (2, "
            f"4), but got {epochs!r}."
        )
    return sorted(set(found))


def check_reached(epochs: Sequence[int], planned: int) -> None:
    """Check that a training is long enough for its edits.

    Args:
        epochs: The epochs after which the network is edited.
        planned: Number of epochs of the training; negative for no end.

    Raises:
        RamifyError: An edit would come after the end.
    """
    if 0 <= planned < epochs[-1]:
        raise RamifyError(
            f"the network is to be edited after {epochs[-1]} epochs, and the training ends after "
            f"{planned}: plan more epochs, or give smaller numbers as epochs=."
        )


def check_one_process(name: str, processes: int) -> None:
    """Refuse several processes, where a wrapped network would have to be wrapped again.

    Args:
        name: Name of the callback.
        processes: Number of processes of the trainer.

    Raises:
        RamifyError: There are several processes.
    """
    if processes > 1:
        raise RamifyError(
            f"{name} edits in one process, and this Trainer has {processes}: call ramify.grow on "
            "every rank instead, docs/deploy.md."
        )


def some_of(
    batches: Iterable[Any], move: Callable[[Any], Any], samples: int = SAMPLES
) -> list[Any]:
    """The first batches of a loader that together hold a number of samples.

    Args:
        batches: The loader.
        move: Moves a batch to the device of the network.
        samples: The least number of samples, if the loader has as many.

    Returns:
        The batches, on the device.

    Raises:
        RamifyError: There is no batch.

    Example:
        >>> import torch
        >>> [len(batch) for batch in some_of(torch.zeros(9, 2).split(3), lambda batch: batch, 5)]
        [3, 3]
    """
    found, seen = list[Any](), 0
    for batch in batches:
        found.append(move(batch))
        seen += len(_tensors_of(batch)[0])
        if seen >= samples:
            return found
    if not found:
        raise RamifyError("there is no batch to judge edits on: give batches=, a list of some.")
    return found


def example_of(batch: Any) -> Any:
    """One example of the network's inputs, for tracing.

    Args:
        batch: A tensor; a pair, of which the first element is the input; or tensors by name, of
            which the labels are left out.

    Returns:
        The inputs of the first sample, in the same form.

    Raises:
        RamifyError: The batch holds no tensor.

    Example:
        >>> import torch
        >>> example_of((torch.zeros(4, 3), torch.zeros(4))).shape
        torch.Size([1, 3])
    """
    _tensors_of(batch)
    if isinstance(batch, Mapping):
        read = {name: part for name, part in batch.items() if name not in LABELS}
        return {name: part[:1] if isinstance(part, Tensor) else part for name, part in read.items()}
    return (batch if isinstance(batch, Tensor) else batch[0])[:1]


def _tensors_of(batch: Any) -> list[Tensor]:
    """The tensors of a batch, each with the samples along its first dimension."""
    parts = batch.values() if isinstance(batch, Mapping) else batch
    found = [batch] if isinstance(batch, Tensor) else [p for p in parts if isinstance(p, Tensor)]
    if not found:
        raise RamifyError(
            f"a batch is a {type(batch).__name__} without a tensor: give batches= and inputs=, a "
            "list of batches and one example of the network's inputs."
        )
    return found


@dataclass(frozen=True)
class Growing:
    """How a callback grows a network between the epochs of another training loop.

    Attributes:
        loss: ``loss(model, batch)``, one loss a sample, shape (S,).
        method: Proposes edits; None for :class:`ramify.GaussNewton` in `PHASE` passes.
        rule: Selects among the proposals; None for the default of :func:`ramify.grow`.
        budget: The most that the network may cost.
        keep: The fewest channels of every group, or of some.
        ceiling: The most channels of every group, or of some.
        trial: Whether selections are tried before they are kept.
        followers: Weight averages and other models that receive the same edits.
        groups: Names or patterns of the groups whose widths may change; None for all.
    """

    loss: Loss
    method: Method | None = None
    rule: Rule | None = None
    budget: Mapping[str, float] | None = None
    keep: Bound | None = None
    ceiling: Bound | None = None
    trial: bool = True
    followers: Sequence[Follower] = ()
    groups: Sequence[str] | None = None

    def __post_init__(self) -> None:
        check_method_and_rule(self.method, self.rule)
        checked_budget(self.budget)
        self._bounds()

    def _bounds(self) -> WidthBounds:
        return WidthBounds(self.keep, self.ceiling, self.groups)

    def edit(
        self,
        graph: ChannelGraph,
        batches: Sequence[Any],
        optimizer: Optimizer | Sequence[Optimizer],
        history: Sequence[Event],
    ) -> Event:
        """Edit a network once, in place.

        Args:
            graph: The graph of the network.
            batches: The batches on which edits are judged.
            optimizer: The optimizer (or several) whose state is edited along.
            history: Earlier events.

        Returns:
            The event of the edit; if there was none, only the ``"reason"``.
        """
        bounds, budget = self._bounds(), checked_budget(self.budget)
        bounds.floors_and_ceilings(graph)
        method = self.method or GaussNewton(epochs=PHASE)
        rule = self.rule or default_rule(method, budget)
        _, event = edit_once(
            graph,
            Editing(self.loss, method, rule, budget, bounds),
            batches,
            judges=batches,
            trials=EditTrials(graph, self.loss, batches) if self.trial else None,
            optimizer=optimizer,
            followers=self.followers,
            history=history,
        )
        return event


@dataclass(frozen=True)
class Cuts:
    """How a callback cuts a network between the epochs of another training loop.

    Attributes:
        loss: ``loss(model, batch)``, one loss a sample, shape (S,).
        budget: The most that the network may cost in the end, in numbers or as shares of the
            network at the first cut, such as ``"50%"``.
        rounds: How many cuts there are; they approach the budget by equal factors.
        settings: Other keyword arguments of :func:`ramify.cut`.
    """

    loss: Loss
    budget: Mapping[str, float | str]
    rounds: int
    settings: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not isinstance(self.budget, Mapping):
            raise RamifyError(
                f'a budget must be a dictionary such as {{"macs": "50%"}}, not {self.budget!r}.'
            )
        checked_budget({name: share_of(name, most) for name, most in self.budget.items()})
        for name in self.settings:
            if name not in SETTINGS:
                near = did_you_mean(name, SETTINGS)
                raise RamifyError(
                    f"a cut has no setting {name!r}{near}; give {', '.join(SETTINGS)}."
                )

    def edit(
        self,
        graph: ChannelGraph,
        batches: Sequence[Any],
        optimizer: Optimizer | Sequence[Optimizer],
        history: Sequence[Event],
    ) -> Event:
        """Cut a network once, in place; arguments and result as in :meth:`Growing.edit`."""
        made = len(history)
        final = history[0]["final_budget"] if history else in_numbers(graph, self.budget)
        budget = Cutting(budget=final, rounds=max(self.rounds, made + 1)).within(graph, made)
        before = costs(graph)
        graph = cut(graph, self.loss, batches, budget=budget, optimizer=optimizer, **self.settings)
        event: Event = {"budget": budget, "final_budget": final}
        for name, now in costs(graph).items():
            event |= {f"{name}_before": before[name], f"{name}_after": now}
        return event
