"""The networks by name, with their data, training settings, and arguments for a peer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from benchmarks.cut.torch_pruning import Settings
from benchmarks.cut_networks import images, text
from benchmarks.cut_networks.task import Task
from benchmarks.cut_networks.training import Training
from benchmarks.cut_networks.vit import Attention, ViT
from ramify.models import resnet, vgg


@dataclass(frozen=True)
class Network:
    """A network that is trained and cut.

    Attributes:
        task: reads its data and builds the network.
        training: how it is trained from scratch.
        peer: its arguments for Torch-Pruning; None to only ignore its output layers.
        optimizer: the optimizer for fine-tuning cut networks.
    """

    task: Callable[[], Task]
    training: Training
    peer: Settings | None = None
    optimizer: str = "sgd"


def _vit(model: nn.Module) -> Mapping[str, Any]:
    """Heads lose dimensions alike; the head is an output, and positions follow the stream."""
    attentions = [part for part in model.modules() if isinstance(part, Attention)]
    heads = {
        layer: part.heads for part in attentions for layer in (part.query, part.key, part.value)
    }
    return {
        "num_heads": heads,
        "ignored_layers": [model.head],
        "unwrapped_parameters": [(model.places, 2)],
    }


def _llama(model: nn.Module) -> Mapping[str, Any]:
    """As Torch-Pruning's own example for LLaMA: heads as they are, MLPs and the stream."""
    net: Any = model.net
    heads = {}
    for layer in net.model.layers:
        heads[layer.self_attn.q_proj] = net.config.num_attention_heads
        heads[layer.self_attn.k_proj] = net.config.num_key_value_heads
        heads[layer.self_attn.v_proj] = net.config.num_key_value_heads
    return {
        "num_heads": heads,
        "prune_num_heads": False,
        "prune_head_dims": False,
        "ignored_layers": [net.lm_head],
    }


NETWORKS = {
    "resnet20": Network(
        partial(images.task, resnet.build),
        Training(epochs=8, lr=0.2, decay=5e-4, small=(1, 2, 3, 4, 6, 7)),
    ),
    "vgg19": Network(
        partial(images.task, partial(vgg.build, width=16)),
        Training(epochs=12, lr=0.1, decay=5e-4),
    ),
    "vit": Network(
        partial(images.task, partial(ViT, width=96, heads=3)),
        Training(epochs=6, lr=2e-3, decay=0.05, adam=True),
        _vit,
        "adamw",
    ),
    "llama": Network(
        partial(text.task, text.Llama),
        Training(epochs=4, lr=3e-3, decay=0.1, adam=True),
        _llama,
        "adamw",
    ),
}
"""Name -> network."""
