"""Models of `transformers`, from small configurations of every family; a few at full size."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.zoo.entries import Entry, Inputs, noise, tokens

TEXT = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
BERT = {**TEXT, "intermediate_size": 48, "max_position_embeddings": 40}
DECODER = {**BERT, "use_cache": False, "pad_token_id": 0}
VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 12, "depths": [2, 2], "num_heads": [2, 4]}
DETR = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 40,
    "num_queries": 7,
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone": None,
}

Row = tuple[str, str, str, dict[str, Any], Inputs]


def pixels(size: int, batch: int = 2) -> Inputs:
    """Square images."""
    return noise(batch, 3, size, size)


def words(length: int = 9, vocabulary: int = 99, **more: Any) -> Inputs:
    """Token ids, and further inputs of the model."""
    ids = tokens(vocabulary, length)
    return lambda: {"input_ids": ids(), **more}


def pairs() -> dict[str, Any]:
    """Tokens for an encoder and a decoder."""
    return {"input_ids": tokens(99, 9)(), "decoder_input_ids": tokens(99, 6)()}


def speech() -> dict[str, Any]:
    """A spectrogram, and tokens for the decoder."""
    return {"input_features": torch.randn(2, 8, 40), "decoder_input_ids": tokens(99, 5)()}


def captions() -> dict[str, Any]:
    """Texts that end with their highest token, and images."""
    ids = tokens(98, 7)()
    ids[:, -1] = 98
    return {"input_ids": ids, "pixel_values": torch.randn(2, 3, 32, 32)}


def masked_images() -> dict[str, Any]:
    """Images, and the noise that decides which patches are hidden."""
    return {"pixel_values": torch.randn(2, 3, 32, 32), "noise": torch.rand(2, 16)}


def _vision() -> list[Row]:
    small = {"hidden_sizes": [8, 16], "depths": [1, 1]}
    stages: dict[str, Any] = {**small, "num_channels": 3, "embedding_size": 8}
    return [
        ("ViT", "ViTConfig", "ViTForImageClassification", VIT, pixels(32)),
        ("DeiT", "DeiTConfig", "DeiTForImageClassificationWithTeacher", VIT, pixels(32)),
        (
            "BEiT",
            "BeitConfig",
            "BeitForImageClassification",
            {**VIT, "use_relative_position_bias": True, "layer_scale_init_value": 0.1},
            pixels(32),
        ),
        ("DINOv2", "Dinov2Config", "Dinov2ForImageClassification", VIT, pixels(32)),
        (
            "ViT-MAE",
            "ViTMAEConfig",
            "ViTMAEForPreTraining",
            {
                **VIT,
                "decoder_hidden_size": 24,
                "decoder_num_hidden_layers": 1,
                "decoder_num_attention_heads": 4,
                "decoder_intermediate_size": 32,
            },
            masked_images,
        ),
        ("YOLOS", "YolosConfig", "YolosForObjectDetection",
         {**VIT, "image_size": [32, 32], "num_detection_tokens": 5}, pixels(32)),
        ("Swin", "SwinConfig", "SwinForImageClassification", {**SWIN, "window_size": 4},
         pixels(32)),
        ("SwinV2", "Swinv2Config", "Swinv2ForImageClassification", {**SWIN, "window_size": 4},
         pixels(32)),
        ("SegFormer", "SegformerConfig", "SegformerForSemanticSegmentation",
         {"num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [4, 2], "hidden_sizes": [8, 16],
          "patch_sizes": [7, 3], "strides": [4, 2], "num_attention_heads": [1, 2],
          "mlp_ratios": [2, 2], "decoder_hidden_size": 24}, pixels(64)),
        ("PVT", "PvtConfig", "PvtForImageClassification",
         {"num_encoder_blocks": 2, "depths": [1, 1], "sequence_reduction_ratios": [4, 1],
          "hidden_sizes": [8, 16], "patch_sizes": [4, 2], "strides": [4, 2],
          "num_attention_heads": [1, 2], "mlp_ratios": [2, 2], "image_size": 64}, pixels(64)),
        ("CvT", "CvtConfig", "CvtForImageClassification",
         {"embed_dim": [8, 16, 24], "depth": [1, 2, 3], "num_heads": [1, 2, 3]}, pixels(64)),
        ("MobileViT", "MobileViTConfig", "MobileViTForImageClassification",
         {"image_size": 64, "hidden_sizes": [16, 24, 32], "neck_hidden_sizes":
          [8, 8, 12, 16, 16, 16, 32], "num_attention_heads": 4, "mlp_ratio": 2.0}, pixels(64)),
        ("LeViT", "LevitConfig", "LevitForImageClassification",
         {"image_size": 64, "hidden_sizes": [16, 24, 32], "num_attention_heads": [2, 3, 4],
          "depths": [1, 1, 1], "key_dim": [8, 8, 8], "mlp_ratio": [2, 2, 2],
          "attention_ratio": [2, 2, 2], "down_ops":
          [["Subsample", 8, 2, 4, 2, 2], ["Subsample", 8, 3, 4, 2, 2]]}, pixels(64)),
        ("ConvNeXt", "ConvNextConfig", "ConvNextForImageClassification",
         {"num_stages": 2, **small}, pixels(32)),
        ("ConvNeXtV2", "ConvNextV2Config", "ConvNextV2ForImageClassification",
         {"num_stages": 2, **small}, pixels(32)),
        ("PoolFormer", "PoolFormerConfig", "PoolFormerForImageClassification",
         {"num_encoder_blocks": 2, "hidden_sizes": [8, 16], "depths": [1, 1],
          "patch_sizes": [7, 3], "strides": [4, 2], "padding": [2, 1]}, pixels(32)),
        ("EfficientNet", "EfficientNetConfig", "EfficientNetForImageClassification",
         {"image_size": 32, "width_coefficient": 0.3, "depth_coefficient": 0.3,
          "hidden_dim": 384}, pixels(32)),
        ("MobileNetV1", "MobileNetV1Config", "MobileNetV1ForImageClassification",
         {"image_size": 32, "depth_multiplier": 0.25}, pixels(32)),
        ("MobileNetV2", "MobileNetV2Config", "MobileNetV2ForImageClassification",
         {"image_size": 32, "depth_multiplier": 0.3}, pixels(32)),
        ("RegNet", "RegNetConfig", "RegNetForImageClassification",
         {**stages, "groups_width": 8, "layer_type": "y"}, pixels(32)),
        ("ResNet", "ResNetConfig", "ResNetForImageClassification",
         {**stages, "hidden_sizes": [16, 32]}, pixels(32)),
        ("BiT", "BitConfig", "BitForImageClassification",
         {**stages, "hidden_sizes": [32, 64], "embedding_size": 32, "num_groups": 4},
         pixels(32)),
    ]  # fmt: skip


def _text() -> list[Row]:
    gqa = {**DECODER, "num_key_value_heads": 2, "head_dim": 8}
    return [
        ("BERT", "BertConfig", "BertForSequenceClassification", BERT, words()),
        ("RoBERTa", "RobertaConfig", "RobertaForMaskedLM", BERT, words()),
        ("DistilBERT", "DistilBertConfig", "DistilBertForSequenceClassification",
         {"vocab_size": 99, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}, words()),
        ("ALBERT", "AlbertConfig", "AlbertForSequenceClassification",
         {**BERT, "embedding_size": 16}, words()),
        ("ELECTRA", "ElectraConfig", "ElectraForSequenceClassification",
         {**BERT, "embedding_size": 16}, words()),
        ("DeBERTaV2", "DebertaV2Config", "DebertaV2ForSequenceClassification",
         {**BERT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"],
          "position_buckets": 8, "max_relative_positions": 16}, words()),
        ("GPT-2", "GPT2Config", "GPT2LMHeadModel",
         {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40,
          "bos_token_id": 0, "eos_token_id": 1, "use_cache": False}, words()),
        ("OPT", "OPTConfig", "OPTForCausalLM",
         {**TEXT, "ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 40,
          "use_cache": False}, words()),
        ("GPT-NeoX", "GPTNeoXConfig", "GPTNeoXForCausalLM", DECODER, words()),
        ("BLOOM", "BloomConfig", "BloomForCausalLM",
         {"vocab_size": 99, "hidden_size": 32, "n_layer": 2, "n_head": 4, "use_cache": False},
         words()),
        ("Falcon", "FalconConfig", "FalconForCausalLM",
         {**TEXT, "use_cache": False, "alibi": False}, words()),
        ("LLaMA, grouped queries", "LlamaConfig", "LlamaForCausalLM", gqa, words()),
        ("Mistral", "MistralConfig", "MistralForCausalLM", gqa, words()),
        ("Qwen2", "Qwen2Config", "Qwen2ForCausalLM", gqa, words()),
        ("Qwen3", "Qwen3Config", "Qwen3ForCausalLM", gqa, words()),
        ("Gemma", "GemmaConfig", "GemmaForCausalLM", gqa, words()),
        ("Phi", "PhiConfig", "PhiForCausalLM", DECODER, words()),
        ("Mixtral", "MixtralConfig", "MixtralForCausalLM",
         {**gqa, "num_local_experts": 3, "num_experts_per_tok": 2}, words()),
        ("Mamba", "MambaConfig", "MambaForCausalLM",
         {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4,
          "use_cache": False}, words()),
        ("T5", "T5Config", "T5ForConditionalGeneration",
         {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2,
          "num_heads": 4, "use_cache": False}, pairs),
        ("BART", "BartConfig", "BartForConditionalGeneration",
         {"vocab_size": 99, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1,
          "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48,
          "decoder_ffn_dim": 48, "max_position_embeddings": 40, "use_cache": False}, pairs),
    ]  # fmt: skip


def _speech_and_pairs() -> list[Row]:
    return [
        ("Whisper", "WhisperConfig", "WhisperForConditionalGeneration",
         {"vocab_size": 99, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1,
          "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48,
          "decoder_ffn_dim": 48, "num_mel_bins": 8, "max_source_positions": 20,
          "max_target_positions": 20, "use_cache": False, "pad_token_id": 0, "bos_token_id": 1,
          "eos_token_id": 2, "decoder_start_token_id": 1}, speech),
        ("Wav2Vec2", "Wav2Vec2Config", "Wav2Vec2ForCTC",
         {**BERT, "conv_dim": [16, 16], "conv_stride": [5, 4], "conv_kernel": [10, 8],
          "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 8,
          "num_conv_pos_embedding_groups": 4}, noise(2, 800)),
        ("CLIP", "CLIPConfig", "CLIPModel",
         {"text_config": {**BERT, "eos_token_id": 98, "bos_token_id": 0}, "vision_config": VIT,
          "projection_dim": 24}, captions),
    ]  # fmt: skip


def _backbone(kind: str) -> Any:
    hub = importlib.import_module("transformers")
    if kind == "swin":
        return hub.SwinConfig(**SWIN, window_size=4, out_features=["stage2"])
    few = {"hidden_sizes": [16, 32], "depths": [1, 1], "embedding_size": 8}
    return hub.ResNetConfig(**few, out_features=["stage1", "stage2"])


def _detectors() -> list[tuple[str, str, str, dict[str, Any], str]]:
    deformable = {
        "num_feature_levels": 2,
        "encoder_n_points": 2,
        "decoder_n_points": 2,
        "decoder_layers": 2,
    }
    return [
        ("DETR on Swin", "DetrConfig", "DetrForObjectDetection", DETR, "swin"),
        ("DETR on ResNet", "DetrConfig", "DetrForObjectDetection", DETR, "resnet"),
        ("Conditional DETR", "ConditionalDetrConfig", "ConditionalDetrForObjectDetection",
         DETR, "swin"),
        ("Deformable DETR", "DeformableDetrConfig", "DeformableDetrForObjectDetection",
         {**DETR, **deformable}, "resnet"),
    ]  # fmt: skip


def _full() -> list[Row]:
    return [
        ("ViT-B/16 at 224", "ViTConfig", "ViTForImageClassification", {}, pixels(224, 1)),
        ("Swin-T at 224", "SwinConfig", "SwinForImageClassification", {}, pixels(224, 1)),
        ("BERT-base", "BertConfig", "BertForSequenceClassification", {}, words(32)),
        ("GPT-2, 124 M", "GPT2Config", "GPT2LMHeadModel", {"use_cache": False}, words(32)),
        ("ResNet-50 at 224, transformers", "ResNetConfig", "ResNetForImageClassification", {},
         pixels(224, 1)),
    ]  # fmt: skip


def _make(config: str, model: str, settings: dict[str, Any], backbone: str = "") -> nn.Module:
    hub = importlib.import_module("transformers")
    extra = {"backbone_config": _backbone(backbone)} if backbone else {}
    made: nn.Module = getattr(hub, model)(getattr(hub, config)(**settings, **extra))
    return made


def entries() -> list[Entry]:
    """One entry for each configuration; none if `transformers` is not installed."""
    if importlib.util.find_spec("transformers") is None:
        return []

    def entry(row: Row, full: bool = False) -> Entry:
        name, config, model, settings, inputs = row
        build: Callable[[], nn.Module] = partial(_make, config, model, settings)
        return Entry(name, "transformers", build, inputs, full)

    found = [entry(row) for row in [*_vision(), *_text(), *_speech_and_pairs()]]
    for name, config, model, settings, backbone in _detectors():
        build = partial(_make, config, model, settings, backbone)
        found.append(Entry(name, "transformers", build, pixels(64)))
    return found + [entry(row, full=True) for row in _full()]
