"""Training of a network from scratch, which can resume after an interruption."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from benchmarks.cut_networks.task import Batch, Task, accuracy_and_loss, loss


@dataclass(frozen=True)
class Training:
    """How a network is trained.

    Attributes:
        epochs: passes over the training samples, numbered from 1.
        lr: the largest learning rate, reached after a fifth of the steps and then lowered to 0.
        decay: weight decay.
        adam: AdamW instead of SGD with Nesterov momentum.
        small: the epochs with images of three quarters of the side, which cost about half.
    """

    epochs: int
    lr: float
    decay: float
    adam: bool = False
    small: tuple[int, ...] = ()


def train(task: Task, training: Training, file: Path) -> None:
    """Train a network and write its weights, with a checkpoint after each epoch.

    Args:
        task: the network and its data.
        training: how to train.
        file: the safetensors file for the weights; the checkpoint has `.state` appended to its
            name.
    """
    torch.manual_seed(0)
    model = task.build().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps = sum(1 for _ in task.batches(0, 0))
    optimizer: Optimizer = (
        AdamW(model.parameters(), training.lr, weight_decay=training.decay)
        if training.adam
        else SGD(model.parameters(), training.lr, 0.9, weight_decay=training.decay, nesterov=True)
    )
    total = steps * training.epochs
    schedule = OneCycleLR(
        optimizer, training.lr, total, pct_start=0.2, anneal_strategy="linear", cycle_momentum=False
    )
    state, first = file.with_name(file.name + ".state"), 0
    if state.exists():
        kept = torch.load(state, weights_only=True)
        for part, name in ((model, "model"), (optimizer, "optimizer"), (schedule, "schedule")):
            part.load_state_dict(kept[name])
        first = kept["epoch"]
    for epoch in range(first, training.epochs):
        began, sums = time.process_time(), 0.0
        model.train()
        for batch in task.batches(0, epoch):
            sums += _step(
                model, optimizer, smaller(batch) if epoch + 1 in training.small else batch
            )
            schedule.step()
        accuracy, held = accuracy_and_loss(model, task.validation)
        print(
            f"epoch {epoch + 1}: training loss {sums / steps:.3f}, held-out loss {held:.3f}, "
            f"accuracy {accuracy:.2f} %, {time.process_time() - began:.0f} s",
            flush=True,
        )
        states = {"model": model, "optimizer": optimizer, "schedule": schedule}
        kept = {name: part.state_dict() for name, part in states.items()} | {"epoch": epoch + 1}
        torch.save(kept, state.with_suffix(".new"))
        state.with_suffix(".new").replace(state)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, file)
    accuracy, entropy = accuracy_and_loss(model, task.test)
    print(f"test: accuracy {accuracy:.2f} %, loss {entropy:.3f}", flush=True)


def smaller(batch: Batch) -> tuple[Tensor, Tensor]:
    """The images of a batch at three quarters of their side."""
    return functional.interpolate(batch[0], scale_factor=0.75, mode="bilinear"), batch[1]


def _step(model: nn.Module, optimizer: Optimizer, batch: Batch) -> float:
    value = loss(model, batch).mean()
    optimizer.zero_grad()
    value.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    optimizer.step()
    return float(value.detach())
