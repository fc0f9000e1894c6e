"""Models of `transformers`, from small configurations, unchanged: groups, edits, attributes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

import ramify
from ramify import Prune, Split
from tests.checks import distance, mask, of_copy, outputs
from tests.structures.base import scatter

transformers = pytest.importorskip("transformers")
Built = tuple[nn.Module, dict[str, Tensor]]

SIZES = {
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 10,
}


def image(side: int) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(2, 3, side, side)}


def tokens() -> dict[str, Tensor]:
    return {"input_ids": torch.randint(3, 20, (2, 5))}


def vit() -> Built:
    config = transformers.ViTConfig(image_size=8, patch_size=4, **SIZES)
    return transformers.ViTForImageClassification(config), image(8)


def swin() -> Built:
    config = transformers.SwinConfig(
        image_size=16, patch_size=2, embed_dim=6, depths=[2, 1], num_heads=[2, 3], window_size=4
    )
    return transformers.SwinForImageClassification(config), image(16)


def bert() -> Built:
    config = transformers.BertConfig(vocab_size=20, max_position_embeddings=8, **SIZES)
    return transformers.BertForSequenceClassification(config), tokens()


def llama() -> Built:
    sizes = {**SIZES, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 16}
    config = transformers.LlamaConfig(vocab_size=20, use_cache=False, **sizes)
    return transformers.LlamaForCausalLM(config), tokens()


def gpt2() -> Built:
    config = transformers.GPT2Config(
        vocab_size=20, n_embd=12, n_layer=2, n_head=3, n_positions=8, use_cache=False,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config), tokens()


def t5() -> Built:
    config = transformers.T5Config(
        vocab_size=20, d_model=12, d_kv=4, d_ff=10, num_layers=2, num_heads=3, use_cache=False
    )
    return transformers.T5EncoderModel(config), tokens()


MODELS: dict[str, Callable[[], Built]] = {
    build.__name__: build for build in (vit, swin, bert, llama, gpt2, t5)
}


def made(name: str) -> Built:
    torch.manual_seed(0)
    model, inputs = MODELS[name]()
    model = model.double().eval()
    scatter(model)
    doubles = lambda t: t.double() if t.is_floating_point() else t  # noqa: E731
    return model, tree_map(doubles, inputs)


@pytest.mark.parametrize("name", MODELS)
def test_splits_everywhere_keep_the_outputs(name: str) -> None:
    model, inputs = made(name)
    graph = ramify.trace(model, inputs)
    before = outputs(model, inputs)
    able = [group for group in graph.groups if group.can_split]
    assert len(able) >= 5  # heads, their channels, hidden units; some shared by both layers
    ramify.apply(graph, [Split(g.name, c, (0.7, 0.3)) for g in able for c in (0, g.width - 1)])
    assert distance(before, outputs(model, inputs)) < 1e-10


@pytest.mark.parametrize("name", MODELS)
def test_prunes_are_masks(name: str) -> None:
    model, inputs = made(name)
    graph = ramify.trace(model, inputs)
    exact = [group for group in graph.groups if group.prune_exact]
    assert len(exact) >= 5
    masked = copy.deepcopy(model)
    for group in exact:
        mask(of_copy(graph, masked), group, [1])
    expected = outputs(masked, inputs)
    ramify.apply(graph, [Prune(group.name, 1) for group in exact])
    assert distance(expected, outputs(model, inputs)) < 1e-10


HELD = {
    "vit": ("vit.layers.0.attention", {"head_dim": -1}, ["q_proj", "k_proj", "v_proj"]),
    "swin": (
        "swin.encoder.layers.0.blocks.1.attention",
        {"head_dim": -1, "num_attention_heads": 0},
        ["q_proj", "k_proj", "v_proj"],
    ),
    "bert": (
        "bert.encoder.layer.0.attention.self",
        {"attention_head_size": -1, "num_attention_heads": 0, "all_head_size": None},
        ["query", "key", "value"],
    ),
    "gpt2": ("transformer.h.0.attn", {"head_dim": -1, "num_heads": 0, "split_size": None}, []),
}


@pytest.mark.parametrize("name", HELD)
def test_attributes_of_attention_follow(name: str) -> None:
    """A head less, and a channel less in every head; floats such as the scale stay."""
    path, held, layers = HELD[name]
    model, inputs = made(name)
    attention: Any = model.get_submodule(path)
    floats = {n: v for n, v in vars(attention).items() if isinstance(v, float)}
    before = {key: getattr(attention, key) for key in held}
    graph = ramify.trace(model, inputs)
    where = f"{path}.{layers[0]}" if layers else f"{path}.c_attn"
    dims = graph[where]
    heads = next(
        g for g in graph.groups if g is not dims and g.producers == dims.producers and g.can_split
    )
    ramify.apply(graph, [Prune(dims.name, 0), Prune(heads.name, 1)])
    sizes = {-1: dims.width - 1, 0: heads.width - 1, None: (dims.width - 1) * (heads.width - 1)}
    assert {key: getattr(attention, key) for key in held} == {k: sizes[n] for k, n in held.items()}
    assert before == {
        key: {-1: dims.width, 0: heads.width, None: dims.width * heads.width}[n]
        for key, n in held.items()
    }
    assert all(getattr(attention, n).out_features == sizes[None] for n in layers)
    assert {n: v for n, v in vars(attention).items() if isinstance(v, float)} == floats


def test_grouped_queries_lose_a_key_head_with_its_queries() -> None:
    model, inputs = made("llama")
    graph = ramify.trace(model, inputs)
    attention: Any = model.get_submodule("model.layers.0.self_attn")
    keys = next(g for g in graph.groups if "model.layers.0.self_attn.v_proj.weight" in g.producers)
    assert keys.width == 2
    graph = ramify.apply(graph, [Prune(keys.name, 0)])
    assert attention.k_proj.out_features == attention.v_proj.out_features == 4
    assert attention.q_proj.out_features == attention.o_proj.in_features == 8
    outputs(model, inputs)


def test_relative_positions_are_per_head() -> None:
    model, inputs = made("swin")
    graph = ramify.trace(model, inputs)
    table = "layers.0.blocks.0.attention.relative_position_bias.relative_position_bias_table"
    holders = [g for g in graph.groups if any(name.endswith(table) for name in g.carriers)]
    assert [group.width for group in holders] == [2]
