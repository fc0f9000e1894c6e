"""Callbacks for Lightning, with the extra ``lightning``: grow or cut while a Trainer trains.

See docs/lightning.md. The network may be the whole ``LightningModule`` or a part of it. Its
optimizers, their parameter groups and their schedulers are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ramify.edit import Follower
from ramify.errors import RamifyError
from ramify.imports import require
from ramify.methods import Method
from ramify.probe.loss import Loss
from ramify.select import Rule
from ramify.select.width_bounds import Bound
from ramify.store.model import recipe_of, reshape
from ramify.tracing import ChannelGraph, trace
from ramify.train.callback_edits import (
    Cuts,
    Growing,
    check_one_process,
    check_reached,
    edit_epochs,
    example_of,
    some_of,
)
from ramify.train.history import Event
from ramify.train.rounds import costs

require("lightning", "lightning", "the callbacks for Lightning need")

from lightning import Callback, LightningModule, Trainer  # noqa: E402

__all__ = ["CutCallback", "GrowCallback", "KeepsShape"]

RECIPE = "ramify_recipe"  # the key under which a checkpoint stores the shape


class KeepsShape(LightningModule):
    """A base class: a ``LightningModule`` whose checkpoints store its shape.

    ``load_from_checkpoint`` and ``trainer.fit(..., ckpt_path=...)`` then bring a fresh module to
    the shape in the checkpoint before they load weights and optimizer.

    Example:
        >>> class Net(KeepsShape):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = nn.Linear(2, 3)
        >>> checkpoint = {}
        >>> Net().on_save_checkpoint(checkpoint)
        >>> sorted(checkpoint["ramify_recipe"]["shapes"])
        ['layer.bias', 'layer.weight']
    """

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the shape along with the weights."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[RECIPE] = recipe_of(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Give the module the shape of the weights that are about to be loaded."""
        super().on_load_checkpoint(checkpoint)
        if RECIPE in checkpoint:
            reshape(self, checkpoint[RECIPE])


class _Between(Callback):
    """The base of both callbacks: which part to edit, after which epochs, on which batches.

    Attributes:
        history: The events so far, one for each edit.
    """

    def __init__(
        self,
        epochs: Iterable[int],
        network: str,
        batches: Sequence[Any] | None,
        inputs: Any,
    ) -> None:
        self.epochs = edit_epochs(epochs)
        self.network, self.batches, self.inputs = network, batches, inputs
        self.history: list[Event] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check before training that the network can be edited.

        Raises:
            RamifyError: There are several processes, where the wrapped network would have to be
                wrapped again; the training is too short; or the module has no such part.
        """
        check_one_process(type(self).__name__, trainer.world_size)
        if stage == "fit" and trainer.max_epochs is not None:
            check_reached(self.epochs, trainer.max_epochs)
        if self.network not in dict(pl_module.named_modules()):
            parts = ", ".join(name for name, _ in pl_module.named_children())
            raise RamifyError(
                f"the module has no part named {self.network!r} to edit: give one of {parts} as "
                "network=."
            )

    def state_dict(self) -> dict[str, Any]:
        """The events so far."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the events from a checkpoint."""
        self.history = list(state_dict["history"])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Edit the network if this is one of the given epochs."""
        now = trainer.current_epoch + 1
        if now not in self.epochs:
            return
        batches = self.batches
        if batches is None:
            loader: Any = trainer.train_dataloader
            batches = some_of(loader, trainer.strategy.batch_to_device)
        inputs = example_of(batches[0]) if self.inputs is None else self.inputs
        network: nn.Module = pl_module.get_submodule(self.network)
        graph = trace(network, inputs)
        event = self._edit(graph, batches, trainer)
        self.history.append({"epoch": now, "step": trainer.global_step} | event)
        spent: dict[str, float] = {**costs(trace(network, inputs))} if trainer.loggers else {}
        for logger in trainer.loggers:
            logger.log_metrics(spent, step=trainer.global_step)

    def _edit(self, graph: ChannelGraph, batches: Sequence[Any], trainer: Trainer) -> Event:
        raise NotImplementedError


def _optimizers(graph: ChannelGraph, trainer: Trainer) -> list[Optimizer]:
    """The module's optimizers that train the edited part."""
    edited = {id(parameter) for parameter in graph.model.parameters()}
    return [
        optimizer
        for optimizer in trainer.optimizers
        if any(id(each) in edited for group in optimizer.param_groups for each in group["params"])
    ]


class GrowCallback(_Between):
    """Grows (or prunes) a network between epochs: a method proposes, a rule selects.

    Args:
        loss: ``loss(network, batch)``, one loss a sample, shape (S,).
        method: Proposes edits. By default :class:`ramify.GaussNewton`, which learns in 20 passes
            over ``batches``.
        rule: Selects among the proposals; by default as in :func:`ramify.grow`.
        epochs: The epochs after which to edit, such as ``(2, 4)``.
        budget: The most that the network may cost, as in :func:`ramify.grow`.
        network: The name of the part of the module to edit; by default the whole module.
        batches: The batches on which edits are judged; by default the first 256 samples
            of the training data.
        inputs: One example of the network's inputs; by default the first element of a batch.
        keep: The fewest channels of every group, or of some.
        ceiling: The most channels of every group, or of some.
        trial: Whether to try selections before they are kept, and to shorten them if they would
            raise the loss.
        followers: Weight averages and other models that receive the same edits.
        groups: Names or patterns of the groups whose widths may change; None for all.

    Attributes:
        history: The events so far, one for each edit, or the ``"reason"`` why there was none.

    Raises:
        RamifyError: During training, as in :func:`ramify.grow`; or there are several processes.

    Example:
        >>> import ramify
        >>> from torch.nn.functional import mse_loss
        >>> def loss(network, batch):
        ...     return mse_loss(network(batch[0]), batch[1], reduction="none").mean(1)
        >>> grow = GrowCallback(loss, ramify.SplittingDescent(), ramify.TopFraction(0.5),
        ...     epochs=(2, 4), budget={"params": 2500}, network="backbone")
    """

    def __init__(  # noqa: PLR0913  (the settings of one callback)
        self,
        loss: Loss,
        method: Method | None = None,
        rule: Rule | None = None,
        *,
        epochs: Iterable[int],
        budget: Mapping[str, float] | None = None,
        network: str = "",
        batches: Sequence[Any] | None = None,
        inputs: Any = None,
        keep: Bound | None = None,
        ceiling: Bound | None = None,
        trial: bool = True,
        followers: Sequence[Follower] = (),
        groups: Sequence[str] | None = None,
    ) -> None:
        super().__init__(epochs, network, batches, inputs)
        self.growing = Growing(loss, method, rule, budget, keep, ceiling, trial, followers, groups)

    def _edit(self, graph: ChannelGraph, batches: Sequence[Any], trainer: Trainer) -> Event:
        return self.growing.edit(graph, batches, _optimizers(graph, trainer), self.history)


class CutCallback(_Between):
    """Cuts a network between epochs with :func:`ramify.cut`, which refits the remaining weights.

    Args:
        loss: ``loss(network, batch)``, one loss a sample, shape (S,).
        budget: The most that the network may cost in the end, in numbers or as shares of the
            network at the first cut, such as ``{"macs": "50%"}``.
        epochs: The epochs after which to cut; several cuts approach the budget by equal factors.
        network: The name of the part of the module to cut; by default the whole module.
        batches: The batches on which channels are chosen and the others refitted; by default the
            first 256 samples of the training data.
        inputs: One example of the network's inputs; by default the first element of a batch.
        **settings: ``method``, ``refit``, ``keep``, ``multiple_of``, ``alike``, ``groups`` and
            ``raw``, as in :func:`ramify.cut`; and ``followers``.

    Attributes:
        history: The events so far, one for each cut.

    Raises:
        RamifyError: During training, as in :func:`ramify.cut`; or there are several processes.

    Example:
        >>> from torch.nn.functional import cross_entropy
        >>> def loss(network, batch):
        ...     return cross_entropy(network(batch[0]), batch[1], reduction="none")
        >>> halve = CutCallback(loss, {"macs": "50%"}, epochs=(5,), network="backbone")
    """

    def __init__(
        self,
        loss: Loss,
        budget: Mapping[str, float | str],
        *,
        epochs: Iterable[int],
        network: str = "",
        batches: Sequence[Any] | None = None,
        inputs: Any = None,
        **settings: Any,
    ) -> None:
        super().__init__(epochs, network, batches, inputs)
        self.cuts = Cuts(loss, budget, len(self.epochs), settings)

    def _edit(self, graph: ChannelGraph, batches: Sequence[Any], trainer: Trainer) -> Event:
        return self.cuts.edit(graph, batches, _optimizers(graph, trainer), self.history)
