"""Detect divergence during training, stop with an error, and restore the network.

A loss or a weight that is not finite is a late sign: before a norm layer weights can grow without
bound while the loss stays finite, and only the running statistics overflow. So the magnitudes of
the loss and of the weights are watched too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ramify.errors import Diverged, RamifyError
from ramify.store.state import Resumable, owned

LOSS = 1e4  # bound, as a multiple of the first loss (of 1 if that is smaller)
WEIGHTS = 1e5  # bound, as a multiple of the norm of all weights at the beginning


@dataclass
class DivergenceWatch:
    """The loss and weight norm at the start of a run, to detect divergence.

    Args:
        model: the network in training.
        first_loss: the mean loss at the beginning; None to use that of the first batch.
    """

    model: nn.Module
    first_loss: float | None = None
    _length: float = field(init=False)
    _infinite: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        self._length = max(_length(self.model), 1.0)
        # An attention mask holds minus infinity from the beginning.
        self._infinite = frozenset(
            name
            for name, buffer in self.model.named_buffers()
            if not _all_finite([buffer]) and not bool(buffer.isnan().any())
        )

    def loss(self, value: float) -> None:
        """Check the mean loss of a batch.

        Raises:
            Diverged: it exceeds the bound.
        """
        if self.first_loss is None:
            self.first_loss = value
        bound = LOSS * max(abs(self.first_loss), 1.0)
        if not abs(value) <= bound:
            raise Diverged(
                f"the training diverged: the loss is {value:.3g}, and was {self.first_loss:.3g} at "
                f"the beginning; {ADVICE}"
            )

    def weights(self) -> None:
        """Check weights, and buffers that held no infinity at the beginning.

        Raises:
            Diverged: one is not finite, or the norm of all weights exceeds the bound.
        """
        length = _length(self.model)
        masks, held = self._infinite, self.model.named_buffers()
        buffers = [(name, b) for name, b in held if name not in masks or bool(b.isnan().any())]
        if not math.isfinite(length) or not _all_finite(buffer for _, buffer in buffers):
            for what, named in (
                ("parameter", self.model.named_parameters()),
                ("buffer", buffers),
            ):
                for name, tensor in named:
                    if not _all_finite([tensor]):
                        raise Diverged(
                            f"the training diverged: {what} '{name}' holds values that are not "
                            f"finite; {ADVICE}"
                        )
        if not length <= WEIGHTS * self._length:
            raise Diverged(
                f"the training diverged: all weights together are {length / self._length:.2g} "
                f"times as long as at the beginning; {ADVICE}"
            )


ADVICE = "lower the learning rate, or let it rise in a warmup"


def _length(model: nn.Module) -> float:
    """The norm of all weights as one vector."""
    weights = [p.detach() for p in model.parameters() if p.is_floating_point() and p.numel()]
    lengths = [float(length) for length in torch._foreach_norm(weights)] if weights else [0.0]
    return math.hypot(*lengths)


def _all_finite(tensors: Iterable[Tensor]) -> bool:
    found = [t for t in tensors if t.is_floating_point() and t.numel()]
    return all(bool(torch.isfinite(tensor).all()) for tensor in found)


@contextmanager
def restored(subject: Resumable) -> Iterator[None]:
    """Restore the state of a network in training if the ``with`` block raises an error.

    Args:
        subject: the network with its optimizer and followers. A copy is held during the block.

    Yields:
        Nothing.

    Raises:
        RamifyError: that of the block, with a note that the network was restored.
    """
    with torch.no_grad():
        kept = owned(subject.state_dict())
    try:
        yield
    except RamifyError as error:
        subject.load_state_dict(kept)
        raise type(error)(
            f"{error}; the network is as it was before this epoch, and so is the checkpoint where "
            "there is one"
        ) from None
