"""Slow imports, done once by the server from which every process is forked."""

from __future__ import annotations

import importlib
import importlib.util

import torch
import torch.export
from torch import nn

import benchmarks.zoo.workers
from benchmarks.zoo.vision import declare_operators

torch.set_num_threads(1)
declare_operators()
for name in ("transformers.modeling_utils", "timm", "torch_pruning"):
    if importlib.util.find_spec(name.partition(".")[0]) is not None:
        importlib.import_module(name)
torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),), strict=False).module()

__all__ = ["benchmarks"]
