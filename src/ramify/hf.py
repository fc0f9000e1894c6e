"""A callback for the Trainer of transformers, with the extra ``transformers``.

See docs/trainer.md. The model stays that of transformers, the optimizer that of the Trainer.
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

SAVED = "grown"  # what is beside the files of each checkpoint of the Trainer


class GrowCallback(TrainerCallback):
    """Grows (or prunes) a model between epochs: a method proposes, a rule selects.

    Each checkpoint of the Trainer also gets what :func:`ramify.save` writes, under the name
    ``grown``: build the model from that by :func:`ramify.load` to resume.

    Args:
        loss: ``loss(model, batch)``, one loss a sample, shape (S,); the ``loss`` of the model's
            own output is a mean, which does not do.
        method: What proposes edits.
        rule: What selects among them.
        epochs: Edit after so many epochs, such as ``(2, 4)``.
        budget: The most that the model may cost, as of :func:`ramify.grow`.
        batches: What edits are judged on; by default the first 256 samples
            of the training data.
        inputs: One example of the model's inputs; by default the first sample of a batch, without
            its labels.
        keep: The floor of every group, or of some.
        ceiling: The most channels of every group, or of some.
        trial: Whether selections are tried before they are kept, and shortened where they would
            raise the loss.
        followers: Weight averages and other models that are edited alike.

    Attributes:
        history: The events so far, one for each edit; where nothing was done, its ``"reason"``.

    Raises:
        RamifyError: While training, as :func:`ramify.grow` does; or there are several processes.

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
        method: Method,
        rule: Rule,
        *,
        epochs: Iterable[int],
        budget: Mapping[str, float] | None = None,
        batches: Sequence[Any] | None = None,
        inputs: Any = None,
        keep: Bound | None = None,
        ceiling: Bound | None = None,
        trial: bool = True,
        followers: Sequence[Follower] = (),
    ) -> None:
        self.epochs = edit_epochs(epochs)
        self.batches, self.inputs = batches, inputs
        self.growing = Growing(loss, method, rule, budget, keep, ceiling, trial, followers)
        self.history: list[Event] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Refuse what cannot be edited, before anything is trained.

        Raises:
            RamifyError: There are several processes, in which the wrapped model would have to be
                wrapped again, or the training is too short.
        """
        check_one_process(type(self).__name__, args.world_size)
        check_reached(self.epochs, round(state.num_train_epochs))

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Edit the model after the epochs that were given."""
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
        """Keep the shape with each checkpoint."""
        folder = Path(str(args.output_dir), f"checkpoint-{state.global_step}")
        save(others["model"], folder / SAVED)
