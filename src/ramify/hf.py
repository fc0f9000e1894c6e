"""A callback for the Trainer of transformers, with the extra ``transformers``.

See docs/trainer.md. The model remains the transformers model, and the optimizer the Trainer's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ramify.edit import Follower
from ramify.imports import require
from ramify.methods import Method
from ramify.probe.loss import Loss
from ramify.select import Rule
from ramify.select.width_bounds import Bound
from ramify.store.model import save
from ramify.tracing import trace
from ramify.train.callback_edits import (
    Growing,
    check_one_process,
    check_reached,
    edit_epochs,
    example_of,
    some_of,
)
from ramify.train.history import Event

require("transformers", "transformers", "the callback for the Trainer needs")

from transformers import (  # noqa: E402
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

__all__ = ["GrowCallback"]

SAVED = "grown"  # the name that each checkpoint of the Trainer gets for `ramify.save`


class GrowCallback(TrainerCallback):
    """Grows (or prunes) a model between epochs: a method proposes, a rule selects.

    Each checkpoint of the Trainer also holds the output of :func:`ramify.save`, under the name
    ``grown``. To resume, build the model from it with :func:`ramify.load`.

    Args:
        loss: ``loss(model, batch)``, one loss a sample, shape (S,); the ``loss`` in the model's
            own output cannot be used, because it is a mean.
        method: Proposes edits. By default :class:`ramify.GaussNewton`, which learns in 20 passes
            over ``batches``.
        rule: Selects among the proposals; by default as in :func:`ramify.grow`.
        epochs: The epochs after which to edit, such as ``(2, 4)``.
        budget: The most that the model may cost, as in :func:`ramify.grow`.
        batches: The batches on which edits are judged; by default the first 256 samples
            of the training data.
        inputs: One example of the model's inputs; by default the first sample of a batch, without
            its labels.
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
        >>> from torch.nn.functional import cross_entropy
        >>> def loss(model, batch):
        ...     logits = model(pixel_values=batch["pixel_values"]).logits
        ...     return cross_entropy(logits, batch["labels"], reduction="none")
        >>> grow = GrowCallback(loss, ramify.SplittingDescent(), ramify.TopFraction(0.5),
        ...     epochs=(2, 4), budget={"params": 40_000})
    """

    def __init__(  # noqa: PLR0913  (the settings of one callback)
        self,
        loss: Loss,
        method: Method | None = None,
        rule: Rule | None = None,
        *,
        epochs: Iterable[int],
        budget: Mapping[str, float] | None = None,
        batches: Sequence[Any] | None = None,
        inputs: Any = None,
        keep: Bound | None = None,
        ceiling: Bound | None = None,
        trial: bool = True,
        followers: Sequence[Follower] = (),
        groups: Sequence[str] | None = None,
    ) -> None:
        self.epochs = edit_epochs(epochs)
        self.batches, self.inputs = batches, inputs
        self.growing = Growing(loss, method, rule, budget, keep, ceiling, trial, followers, groups)
        self.history: list[Event] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Check before training that the model can be edited.

        Raises:
            RamifyError: There are several processes, where the wrapped model would have to be
                wrapped again, or the training is too short.
        """
        check_one_process(type(self).__name__, args.world_size)
        check_reached(self.epochs, round(state.num_train_epochs))

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Edit the model if this is one of the given epochs."""
        now = round(state.epoch or 0)
        if now not in self.epochs:
            return
        model: nn.Module = others["model"]
        batches = self.batches
        if batches is None:
            batches = some_of(others["train_dataloader"], lambda batch: batch)
        inputs = example_of(batches[0]) if self.inputs is None else self.inputs
        event = self.growing.edit(trace(model, inputs), batches, others["optimizer"], self.history)
        self.history.append({"epoch": now, "step": state.global_step} | event)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Store the shape with each checkpoint."""
        folder = Path(str(args.output_dir), f"checkpoint-{state.global_step}")
        save(others["model"], folder / SAVED)
