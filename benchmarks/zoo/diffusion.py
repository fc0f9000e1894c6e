"""Small networks of `diffusers` with random weights, if it is installed."""

from __future__ import annotations

import importlib
import importlib.util
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.zoo.entries import Entry, Inputs, noise
from benchmarks.zoo.vision import declare_operators


def noisy(channels: int = 3, size: int = 16, **more: tuple[int, ...]) -> Inputs:
    """A noisy image, its time step, and further inputs of the network."""

    def make() -> dict[str, Any]:
        found = {"sample": torch.randn(2, channels, size, size), "timestep": torch.tensor([3, 70])}
        return found | {name: torch.randn(*shape) for name, shape in more.items()}

    return make


def _of_class() -> dict[str, Any]:
    images = torch.randn(2, 4, 8, 8)
    labels = torch.tensor([1, 2])
    return {"hidden_states": images, "timestep": torch.tensor([3, 70]), "class_labels": labels}


def _of_text() -> dict[str, Any]:
    images, words = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 16)
    return {
        "hidden_states": images,
        "timestep": torch.tensor([3, 70]),
        "encoder_hidden_states": words,
    }


PLAIN = {"sample_size": 16, "layers_per_block": 1, "block_out_channels": (16, 32)}
GROUPS = {"norm_num_groups": 4}
HEADS = {"num_attention_heads": 4, "attention_head_dim": 8, "num_layers": 2, "sample_size": 8}
ROWS: list[tuple[str, dict[str, Any], Inputs]] = [
    ("UNet2DModel", PLAIN | GROUPS | {
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}, noisy()),
    ("UNet2DConditionModel", PLAIN | GROUPS | {
        "cross_attention_dim": 16, "attention_head_dim": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")},
     noisy(4, encoder_hidden_states=(2, 5, 16))),
    ("AutoencoderKL", GROUPS | {
        "block_out_channels": (16, 32), "layers_per_block": 1,
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2}, noise(2, 3, 16, 16)),
    ("VQModel", GROUPS | {
        "block_out_channels": (16, 32), "num_vq_embeddings": 12,
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2}, noise(2, 3, 16, 16)),
    ("AutoencoderTiny", {"encoder_block_out_channels": (16, 16), "num_encoder_blocks": (1, 1),
        "decoder_block_out_channels": (16, 16), "num_decoder_blocks": (1, 1)},
     noise(2, 3, 16, 16)),
    ("DiTTransformer2DModel", HEADS | {
        "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_embeds_ada_norm": 10},
     _of_class),
    ("PixArtTransformer2DModel", HEADS | {
        "patch_size": 2, "in_channels": 4, "out_channels": 4, "cross_attention_dim": 32,
        "caption_channels": 16}, _of_text),
]  # fmt: skip


def _make(name: str, settings: dict[str, Any]) -> nn.Module:
    declare_operators()
    made: nn.Module = getattr(importlib.import_module("diffusers"), name)(**settings)
    return made


def entries() -> list[Entry]:
    """One entry for each network; none if `diffusers` is not installed."""
    if importlib.util.find_spec("diffusers") is None:
        return []
    return [
        Entry(name, "diffusers", partial(_make, name, settings), inputs)
        for name, settings, inputs in ROWS
    ]
