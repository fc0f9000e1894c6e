"""Configurations of `transformers` follow an edit of all layers alike; else a warning says so."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ramify
from ramify import Prune, Split

t = pytest.importorskip("transformers")

SIZES: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TOKENS = {"input_ids": torch.arange(3, 21).reshape(2, 9)}


def llama() -> nn.Module:
    return t.LlamaForCausalLM(t.LlamaConfig(**SIZES, num_key_value_heads=2))


def qwen2() -> nn.Module:
    return t.Qwen2ForCausalLM(t.Qwen2Config(**SIZES, num_key_value_heads=2))


def gpt2() -> nn.Module:
    sizes = {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    return t.GPT2LMHeadModel(t.GPT2Config(**sizes, bos_token_id=1, eos_token_id=2))


def bert() -> nn.Module:
    return t.BertForSequenceClassification(t.BertConfig(**SIZES))


def t5() -> nn.Module:
    sizes = {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2}
    config = t.T5Config(**sizes, num_heads=4, decoder_start_token_id=0, eos_token_id=2)
    return t.T5ForConditionalGeneration(config)


def opt() -> nn.Module:
    sizes = {key: value for key, value in SIZES.items() if key != "intermediate_size"}
    return t.OPTForCausalLM(t.OPTConfig(**sizes, ffn_dim=48, word_embed_proj_dim=32))


def rwkv() -> nn.Module:
    sizes = {k: SIZES[k] for k in ("vocab_size", "hidden_size", "num_hidden_layers")}
    own = {"attention_hidden_size": 32, "intermediate_size": 64, "context_length": 64}
    return t.RwkvForCausalLM(t.RwkvConfig(**sizes, **own, bos_token_id=1, eos_token_id=2))


def gemma() -> nn.Module:
    return t.GemmaForCausalLM(t.GemmaConfig(**SIZES, num_key_value_heads=2, head_dim=8))


def bit() -> nn.Module:
    sizes = {"hidden_sizes": [32, 64], "depths": [1, 1], "embedding_size": 32, "num_groups": 4}
    return t.BitForImageClassification(t.BitConfig(**sizes, num_channels=3))


def inputs(model: nn.Module) -> dict[str, Any]:
    if model.config.model_type == "bit":
        return {"pixel_values": torch.arange(2.0 * 3 * 32 * 32).sin().reshape(2, 3, 32, 32)}
    given: dict[str, Any] = dict(TOKENS)
    if model.config.is_encoder_decoder:
        given["decoder_input_ids"] = TOKENS["input_ids"][:, :4]
    if model.config.model_type == "rwkv":
        given["use_cache"] = False
    return given


# name: (model, ends of the names of groups of which each loses channels, what follows)
ALIKE: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...], dict[str, int]]] = {
    "llama units": (llama, ("gate_proj",), {"intermediate_size": 46, "hidden_size": 32}),
    "llama stream and units": (
        llama,
        ("gate_proj", "embed_tokens"),
        {"intermediate_size": 44, "hidden_size": 28, "head_dim": 8},
    ),
    "qwen2 units": (qwen2, ("gate_proj",), {"intermediate_size": 46}),
    "gpt2 units": (gpt2, ("c_fc",), {"n_inner": 126, "n_embd": 32}),
    "bert units": (bert, ("intermediate.dense",), {"intermediate_size": 46}),
    "t5 units": (t5, ("wi",), {"d_ff": 46}),
    "t5 heads": (t5, (".q:0",), {"num_heads": 2, "d_kv": 8}),
    "opt units": (opt, ("fc1",), {"ffn_dim": 46}),
    "rwkv units": (rwkv, ("feed_forward.key",), {"intermediate_size": 62}),
}


def edited(make: Callable[[], nn.Module], ends: tuple[str, ...], first: bool = False) -> nn.Module:
    """A model of whose groups of these names two channels are pruned, or four where it is two."""
    torch.manual_seed(0)
    model: Any = make().eval()
    graph = ramify.trace(model, inputs(model))
    chosen = [g for g in graph.groups if g.name.endswith(ends)]
    assert chosen
    chosen = chosen[:1] if first else chosen
    count = 2 * len(ends)
    ramify.apply(graph, [Prune(g.name, n) for g in chosen for n in range(count)])
    return model


def agree(one: Any, two: Any) -> None:
    """Equal outputs, and the same words generated with a cache."""
    given = inputs(one)
    assert torch.equal(one(**given).logits, two(**given).logits)
    if hasattr(one, "generate") and one.can_generate():
        for cached in (True, False):
            settings = {"use_cache": cached, "eos_token_id": None, "pad_token_id": 0}
            first, second = (
                model.generate(**TOKENS, max_new_tokens=3, do_sample=False, **settings)
                for model in (one, two)
            )
            assert torch.equal(first, second)


@pytest.mark.parametrize("name", ALIKE)
def test_layers_alike_need_nothing_of_ramify(name: str, tmp_path: Path) -> None:
    make, ends, wanted = ALIKE[name]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="no configuration can say")
        model: Any = edited(make, ends)
    assert {key: getattr(model.config, key) for key in wanted} == wanted
    assert "save_pretrained" not in vars(model)
    model.save_pretrained(tmp_path)
    agree(model, type(model).from_pretrained(tmp_path).eval())


def test_key_value_groups_of_all_layers(tmp_path: Path) -> None:
    """A key/value head goes with its query heads: two entries change together."""
    torch.manual_seed(0)
    model: Any = llama().eval()
    graph = ramify.trace(model, TOKENS)
    groups = [g.name for g in graph.groups if g.name.endswith("q_proj:0")]
    assert len(groups) == 2
    ramify.apply(graph, [Prune(name, 1) for name in groups])
    config = model.config
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (2, 1, 8)
    model.save_pretrained(tmp_path)
    agree(model, type(model).from_pretrained(tmp_path).eval())


def test_a_cache_of_other_sizes_than_the_configuration_says(tmp_path: Path) -> None:
    """RWKV makes its state of the width of the stream, also where its attention has another."""
    with pytest.warns(UserWarning, match="with a cache this RwkvForCausalLM does not run .*=False"):
        model: Any = edited(rwkv, ("attention.key",))
    assert (model.config.attention_hidden_size, model.config.hidden_size) == (30, 32)
    model.save_pretrained(tmp_path)
    other = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(model(**inputs(model)).logits, other(**inputs(model)).logits)


UNEVEN: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...], bool]] = {
    "one layer": (llama, ("gate_proj",), True),
    "one layer of a recurrent model": (rwkv, ("attention.key",), True),
    "heads that the width is divided by": (bert, ("query:0",), False),
    "frequencies of a rotary embedding": (llama, ("q_proj:2",), False),
    "dimensions under the old scale of a softmax": (bert, ("query:1",), False),
    "a stream whose width scales the embedding": (gemma, ("embed_tokens:1",), False),
    "groups of one norm of several": (bit, ("embedder.convolution:0",), False),
}


@pytest.mark.parametrize("name", UNEVEN)
def test_what_no_configuration_says_is_warned_of(name: str, tmp_path: Path) -> None:
    make, ends, first = UNEVEN[name]
    before = make().config.to_dict()
    with pytest.warns(UserWarning, match="no configuration can say the shape .* ramify.save"):
        model: Any = edited(make, ends, first)
    after = model.config.to_dict()
    assert all(after[key] == value for key, value in before.items() if type(value) is int)
    with pytest.warns(UserWarning, match="no configuration can say the shape"):
        model.save_pretrained(tmp_path / "hub")
    ramify.save(model, tmp_path / "net")
    loaded = ramify.load(tmp_path / "net", build=make).eval()
    given = inputs(model)
    assert torch.equal(loaded(**given).logits, model(**given).logits)
    other = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert torch.equal(other(**given).logits, model(**given).logits)


def test_a_later_edit_that_makes_layers_alike_is_followed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: Any = llama().eval()
    graph = ramify.trace(model, TOKENS)
    names = [g.name for g in graph.groups if g.name.endswith("gate_proj")]
    with pytest.warns(UserWarning, match="no configuration can say"):
        graph = ramify.apply(graph, [Prune(names[0], 5)])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="no configuration can say")
        graph = ramify.apply(graph, [Split(names[1], 5), Prune(names[0], 0)])
        graph = ramify.apply(graph, [Prune(names[1], n) for n in range(3)])
    assert model.config.intermediate_size == 46
    model.save_pretrained(tmp_path)
    agree(model, type(model).from_pretrained(tmp_path).eval())


def test_a_failed_edit_leaves_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ramify.edit.carry.Swap.displace", fail)
    torch.manual_seed(0)
    model: Any = llama().eval()
    graph = ramify.trace(model, TOKENS)
    names = [g.name for g in graph.groups if g.name.endswith("gate_proj")]
    with pytest.raises(KeyboardInterrupt):
        ramify.apply(graph, [Prune(name, 0) for name in names])
    assert model.config.intermediate_size == 48
    assert model(**TOKENS).logits.shape == (2, 9, 99)


def test_a_model_inside_another_is_followed() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.text = t.LlamaModel(t.LlamaConfig(**SIZES, num_key_value_heads=2))
            self.head = nn.Linear(32, 2)

        def forward(self, input_ids: Tensor) -> Tensor:
            return self.head(self.text(input_ids).last_hidden_state)

    torch.manual_seed(0)
    model = Outer().eval()
    graph = ramify.trace(model, TOKENS)
    names = [g.name for g in graph.groups if g.name.endswith("gate_proj")]
    ramify.apply(graph, [Prune(name, 0) for name in names])
    assert model.text.config.intermediate_size == 47


def test_numbers_that_hardly_matter_yet_stay_as_the_edit_left_them() -> None:
    """A configuration of the same shapes with other heads is not taken, though outputs are near."""
    torch.manual_seed(0)
    model: Any = opt().eval()
    layers = model.model.decoder.layers
    for layer in layers:
        nn.init.normal_(layer.self_attn.q_proj.weight, std=1e-3)
    graph = ramify.trace(model, inputs(model))
    stream = next(group for group in graph.groups if group.name.endswith("embed_tokens:1"))
    heads = [group for group in graph.groups if group.name.endswith("q_proj:0")]
    dims = [group for group in graph.groups if group.name.endswith("q_proj:1")]
    edits = [Prune(stream.name, n) for n in range(24)]
    edits += [Prune(group.name, n) for group in heads for n in range(2)]
    edits += [Prune(group.name, n) for group in dims for n in range(4)]
    units = [group.name for group in graph.groups if group.name.endswith("fc1")]
    with pytest.warns(UserWarning, match="no configuration can say"):
        graph = ramify.apply(graph, [*edits, Split(units[0], 0)])
    before = model(**inputs(model)).logits
    ramify.apply(graph, [Split(units[1], 0)])  # from here on, the layers are alike
    assert [layer.self_attn.num_heads for layer in layers] == [2, 2]
    assert torch.allclose(model(**inputs(model)).logits, before, rtol=0, atol=1e-6)
