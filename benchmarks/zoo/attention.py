"""Models whose attention stores its sizes as numbers, in torch's own layers and in libraries.

python -m benchmarks.zoo.attention    # the prunable share of the parameters of each
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.zoo.entries import Entry, Inputs, noise, tokens
from benchmarks.zoo.shares import print_shares
from benchmarks.zoo.vision import declare_operators


def sequences(count: int) -> Inputs:
    """This many sequences of 32-dimensional vectors, as positional arguments."""
    return lambda: tuple(torch.randn(2, 7 - n, 32) for n in range(count))


def same_thrice() -> tuple[torch.Tensor, ...]:
    """Queries, keys and values of self-attention, all the same tensor."""
    x = torch.randn(2, 7, 32)
    return x, x, x


def captions() -> tuple[torch.Tensor, torch.Tensor]:
    """Images, and texts that end with their highest token."""
    ids = tokens(98, 16)()
    ids[:, -1] = 98
    return torch.randn(2, 3, 32, 32), ids


def writing() -> dict[str, torch.Tensor]:
    """Tokens, and the states of an encoder."""
    return {"input_ids": tokens(99, 9)(), "encoder_hidden_states": torch.randn(2, 5, 24)}


def _encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    return nn.TransformerEncoder(layer, 2)


def _torch() -> list[Entry]:
    rows: list[tuple[str, Callable[[], nn.Module], Inputs]] = [
        ("nn.MultiheadAttention", partial(nn.MultiheadAttention, 32, 4), same_thrice),
        ("nn.TransformerEncoder", _encoder, sequences(1)),
        (
            "nn.Transformer",
            partial(nn.Transformer, 32, 4, 1, 1, 64, batch_first=True),
            sequences(2),
        ),
    ]
    return [Entry(name, "torch", build, inputs) for name, build, inputs in rows]


def _open_clip() -> nn.Module:
    declare_operators()
    model = importlib.import_module("open_clip.model")
    vision = {"layers": 2, "width": 32, "head_width": 8, "patch_size": 8, "image_size": 32}
    text = {"context_length": 16, "vocab_size": 99, "width": 32, "heads": 4, "layers": 2}
    made: nn.Module = model.CLIP(24, model.CLIPVisionCfg(**vision), model.CLIPTextCfg(**text))
    return made


def _vit() -> nn.Module:
    declare_operators()
    models = importlib.import_module("torchvision.models")
    sizes = {"num_layers": 2, "num_heads": 4, "hidden_dim": 32, "mlp_dim": 64, "num_classes": 10}
    made: nn.Module = models.VisionTransformer(image_size=32, patch_size=8, **sizes)
    return made


def _swin_v2() -> nn.Module:
    declare_operators()
    swin = importlib.import_module("torchvision.models.swin_transformer")
    made: nn.Module = swin.SwinTransformer(
        [4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=10,
        block=swin.SwinTransformerBlockV2, downsample_layer=swin.PatchMergingV2,
    )  # fmt: skip
    return made


def _timm(name: str, settings: dict[str, Any]) -> nn.Module:
    declare_operators()
    made: nn.Module = importlib.import_module("timm").create_model(name, num_classes=10, **settings)
    return made


def _hub(config: str, model: str, settings: dict[str, Any]) -> nn.Module:
    declare_operators()
    hub = importlib.import_module("transformers")
    made: nn.Module = getattr(hub, model)(getattr(hub, config)(**settings))
    return made


_SPEECH = {
    "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 48, "conv_dim": [16, 16], "conv_stride": [5, 4], "conv_kernel": [10, 8],
    "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4,
}  # fmt: skip
_VIDEO = {
    "image_size": 32, "patch_size": 8, "num_frames": 2, "hidden_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 4, "intermediate_size": 48,
}  # fmt: skip
_WRITING = {
    "vocab_size": 99, "d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4,
    "decoder_ffn_dim": 48, "max_position_embeddings": 40, "use_cache": False,
    "cross_attention_hidden_size": 24,
}  # fmt: skip
_COAT = {
    "img_size": 64, "embed_dims": (16, 32, 48, 48), "num_heads": 8, "parallel_depth": 0,
    "serial_depths": (1, 1, 1, 1), "crpe_window": {3: 2, 5: 3, 7: 3},
}  # fmt: skip
_PVT = {"embed_dims": (8, 16, 24, 32), "num_heads": (1, 2, 3, 4), "depths": (1, 1, 1, 1)}


def entries() -> list[Entry]:
    """One entry for each model of torch and of the installed packages."""
    found = _torch()
    has = {name: importlib.util.find_spec(name) is not None for name in (
        "open_clip", "torchvision", "transformers", "timm")}  # fmt: skip
    if has["open_clip"]:
        found.append(Entry("open_clip ViT", "open_clip", _open_clip, captions))
    if has["torchvision"]:
        found.append(Entry("torchvision ViT", "torchvision", _vit, noise(2, 3, 32, 32)))
        found.append(Entry("torchvision swin_v2", "torchvision", _swin_v2, noise(2, 3, 32, 32)))
    if has["transformers"]:
        rows: list[tuple[str, str, str, dict[str, Any], Inputs]] = [
            ("WavLM", "WavLMConfig", "WavLMForCTC", _SPEECH, noise(2, 800)),
            ("TimeSformer", "TimesformerConfig", "TimesformerForVideoClassification", _VIDEO,
             noise(2, 2, 3, 32, 32)),
            ("TrOCR", "TrOCRConfig", "TrOCRForCausalLM", _WRITING, writing),
        ]  # fmt: skip
        for name, config, model, settings, inputs in rows:
            build = partial(_hub, config, model, settings)
            found.append(Entry(name, "transformers", build, inputs))
    if has["timm"]:
        for name, settings in (("pvt_v2_b0", _PVT), ("coat_tiny", _COAT)):
            build = partial(_timm, name, settings)
            found.append(Entry(name, "timm", build, noise(2, 3, 64, 64)))
    return found


if __name__ == "__main__":
    print_shares(entries())
