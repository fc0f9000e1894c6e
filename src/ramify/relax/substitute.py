"""The same model with other tensors instead of its own, for one pass at a time."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from ramify.probe.loss import Loss, called_loss

INSIDE = "model."


class Substitute(nn.Module):
    """Runs `loss(model, batch)` with some of the model's parameters and buffers replaced.

    The model is not copied and gets its own tensors back after each pass, even after an error.

    Args:
        model: the network.
        loss: `loss(model, batch)`.
        names: the names of the parameters that will be replaced; all buffers are replaced too.
    """

    def __init__(self, model: nn.Module, loss: Loss, names: Iterable[str]) -> None:
        super().__init__()
        self.model = model
        self._loss = (loss,)  # not registered if a module: its tensors are not the model's
        held: dict[int, list[str]] = {}
        everything = (model.named_parameters, model.named_buffers)
        for name, tensor in chain(*(of(remove_duplicate=False) for of in everything)):
            held.setdefault(id(tensor), []).append(name)
        first = {aliases[0]: aliases for aliases in held.values()}
        self._aliases = {n: first[n] for n in chain(names, dict(model.named_buffers()))}

    def buffers_copied(self) -> dict[str, Tensor]:
        """The model's current buffers by name: what a pass may update."""
        return {name: buffer.detach().clone() for name, buffer in self.model.named_buffers()}

    def run(self, batch: Any, tensors: dict[str, Tensor]) -> Tensor:
        """The loss with these tensors in place.

        Args:
            batch: a batch of the user's data.
            tensors: by name; a tied tensor has its first name. If the model replaces a buffer by a
                new one, as some do, so does the pass here.

        Returns:
            The result of the loss.
        """
        held = {
            INSIDE + alias: tensor
            for name, tensor in tensors.items()
            for alias in self._aliases[name]
        }
        out: Tensor = functional_call(self, held, (batch,), tie_weights=False)
        tensors |= {name: held[INSIDE + self._aliases[name][0]] for name in tensors}
        return out

    def forward(self, batch: Any) -> Tensor:
        """The loss on a batch."""
        [loss] = self._loss
        losses: Tensor = called_loss(loss, self.model, batch)
        return losses
