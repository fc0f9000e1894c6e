"""The torch optimizers that Ramify supports, and the rules for their states in `docs/edits.md`."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.fuzz_edits.expected import Law, values_of

OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, 1e-3),
    "SGD, momentum": lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9),
    "SGD, Nesterov": lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, 1e-3),
    "Adam, AMSGrad": lambda p: torch.optim.Adam(p, 1e-3, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, 1e-3),
    "NAdam": lambda p: torch.optim.NAdam(p, 1e-3),
    "RAdam": lambda p: torch.optim.RAdam(p, 1e-3),
    "Adamax": lambda p: torch.optim.Adamax(p, 1e-3),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 1e-3),
    "RMSprop, centred": lambda p: torch.optim.RMSprop(p, 1e-3, centered=True, momentum=0.9),
    "Adagrad": lambda p: torch.optim.Adagrad(p, 1e-3),
    "Adadelta": lambda p: torch.optim.Adadelta(p, 1e-1),
    "Rprop": lambda p: torch.optim.Rprop(p, 1e-3),
    "ASGD": lambda p: torch.optim.ASGD(p, 1e-3),
    "Muon": lambda p: torch.optim.Muon(p, 1e-3),
    "Adafactor": lambda p: torch.optim.Adafactor(p, 1e-3),
}
"""Muon accepts only matrices; Adafactor stores rows and columns, which Ramify refuses."""


def drawn_optimizers(draw: random.Random, net: nn.Module) -> tuple[str, list[Optimizer]]:
    """An optimizer for a network with one or two parameter groups, or Muon together with AdamW."""
    parameters = list(net.parameters())
    name = draw.choice([*OPTIMIZERS][:-1] * 4 + ["Adafactor"])
    if name == "Muon":
        matrices = [p for p in parameters if p.dim() == 2]
        others = [p for p in parameters if p.dim() != 2]
        found = [OPTIMIZERS[name](matrices)] if matrices else []
        return name, [*found, *([OPTIMIZERS["AdamW"](others)] if others else [])]
    optimizer = OPTIMIZERS[name](parameters[::2] if len(parameters) > 1 else parameters)
    if len(parameters) > 1:
        optimizer.add_param_group({"params": parameters[1::2]})
    return name, [optimizer]


def _pace(values: Tensor) -> Tensor:
    return torch.where(values == 0, 1.0, values.abs().clamp_min(0.1))


def _size(gradients: Tensor) -> Tensor:
    return torch.where(gradients == 0, 1.0, gradients.abs())


def _squares(gradients: Tensor, values: Tensor) -> Tensor:
    return (_size(gradients) / _pace(values)) ** 2


def gradients_of(gradients: Tensor, values: Tensor) -> Tensor:
    """The rule for means of gradients."""
    return gradients


_LAWS: dict[str, Law] = {
    "exp_avg": gradients_of,
    "momentum_buffer": gradients_of,
    "prev": gradients_of,
    "exp_avg_sq": _squares,
    "max_exp_avg_sq": _squares,
    "square_avg": _squares,
    "sum": _squares,
    "exp_inf": lambda g, f: _size(g) / _pace(f),
    "grad_avg": lambda g, f: g / _pace(f),
    "step_size": lambda g, f: _pace(f),
    "acc_delta": lambda g, f: _pace(f) ** 2,
    "ax": values_of,
    "row_var": values_of,  # of Adafactor, beside what is edited: an edit of these is refused
    "col_var": values_of,
    "variance": values_of,
}
_OWN: dict[tuple[type[Optimizer], str], Law] = {
    (torch.optim.RMSprop, "momentum_buffer"): lambda g, f: torch.sign(g) * _pace(f),
    (torch.optim.Adadelta, "square_avg"): lambda g, f: _size(g) ** 2,
}


def law_of(optimizer: Optimizer, entry: str) -> Law:
    """The rule by which an entry of the state is multiplied."""
    return _OWN.get((type(optimizer), entry)) or _LAWS[entry]
