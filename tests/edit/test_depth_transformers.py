"""Depth of models of transformers: configuration, layer numbers, generation, saving."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import ramify
from ramify import Drop, Insert, Prune, RamifyError
from tests.block_nets import SMALL
from tests.checks import distance, outputs

transformers: Any = pytest.importorskip("transformers")

TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
T5 = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 3, "num_heads": 2}
IMAGE = {k: v for k, v in SMALL.items() if k != "vocab_size"} | {"image_size": 16, "patch_size": 8}
SLIDING = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
SLIDING |= {"num_key_value_heads": 1}


def models() -> dict[str, Any]:
    t = transformers
    gpt2 = {"vocab_size": 50, "n_embd": 16, "n_layer": 3, "n_head": 2}
    return {
        "bert": lambda: t.BertForMaskedLM(t.BertConfig(**SMALL)),
        "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(**gpt2, **TOKENS)),
        "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**SMALL, **TOKENS)),
        "qwen2": lambda: t.Qwen2ForCausalLM(t.Qwen2Config(**SMALL, **TOKENS, **SLIDING)),
        "t5": lambda: t.T5ForConditionalGeneration(t.T5Config(**T5, decoder_start_token_id=0)),
        "vit": lambda: t.ViTForImageClassification(t.ViTConfig(**IMAGE)),
    }


def small(name: str) -> tuple[Any, dict[str, Any]]:
    """A model in double precision and what it runs on."""
    torch.manual_seed(0)
    model = models()[name]().double().eval()
    ids = torch.randint(3, 50, (2, 7))
    if name == "vit":
        return model, {"pixel_values": torch.randn(2, 3, 16, 16, dtype=torch.float64)}
    return model, {"input_ids": ids} | ({"decoder_input_ids": ids} if name == "t5" else {})


def depth(model: Any) -> int:
    return int(model.config.num_hidden_layers)


def numbers(model: Any) -> list[int]:
    """The numbers that attention layers know."""
    found = [getattr(module, "layer_idx", None) for module in model.modules()]
    return [number for number in found if isinstance(number, int)]


def logits(model: Any, inputs: dict[str, Any]) -> list[torch.Tensor]:
    return outputs(model, inputs)[:1]


CASES: list[tuple[str, list[Any], int]] = [
    ("bert", [Drop("bert.encoder.layer.1")], 2),
    ("gpt2", [Drop("transformer.h.0")], 2),
    ("llama", [Insert("model.layers.2"), Drop("model.layers.0")], 3),
    ("qwen2", [Drop("model.layers.0")], 2),
    ("qwen2", [Insert("model.layers.0")], 4),
    ("t5", [Drop("encoder.block.1"), Drop("decoder.block.2")], 2),
    ("vit", [Insert("vit.layers.0")], 4),
]


@pytest.mark.parametrize("name, edits, layers", CASES)
def test_everything_says_the_new_depth(
    name: str, edits: list[Any], layers: int, tmp_path: Path
) -> None:
    model, inputs = small(name)
    other = copy.deepcopy(model)
    for edit in edits:
        if isinstance(edit, Drop):
            block: Any = other.get_submodule(edit.block)
            own = block.forward
            block.forward = lambda x, *args, own=own, **named: with_first(own(x, *args, **named), x)
    expected = logits(other, inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ramify.apply(ramify.trace(model, inputs), edits)
    assert distance(logits(model, inputs), expected) < 1e-12
    assert depth(model) == layers
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).double().eval()
    assert depth(again) == layers
    assert distance(logits(again, inputs), expected) < 1e-12
    assert numbers(model) == numbers(again)
    if name == "qwen2":
        full, sliding = "full_attention", "sliding_attention"
        types = {2: [sliding, sliding], 4: [full, full, sliding, sliding]}
        assert model.config.layer_types == again.config.layer_types == types[layers]
    if model.can_generate():
        settings = {"max_new_tokens": 5, "do_sample": False}
        ids = inputs["input_ids"]
        cached = model.generate(ids, use_cache=True, **settings)
        assert torch.equal(cached, model.generate(ids, use_cache=False, **settings))


def with_first(output: Any, stream: Any) -> Any:
    return (stream, *output[1:]) if isinstance(output, tuple) else stream


def test_channels_and_layers_in_one_call(tmp_path: Path) -> None:
    model, inputs = small("llama")
    names = [f"model.layers.{layer}.mlp.gate_proj" for layer in range(3)]
    edits = [Prune(name, channel) for name in names for channel in (3, 4)]
    ramify.apply(ramify.trace(model, inputs), [*edits, Drop("model.layers.1")])
    assert (depth(model), model.config.intermediate_size) == (2, 30)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).double().eval()
    assert distance(logits(again, inputs), logits(model, inputs)) < 1e-12


def test_the_first_layer_of_t5_makes_the_positions_of_all() -> None:
    model, inputs = small("t5")
    graph = ramify.trace(model, inputs)
    with pytest.raises(RamifyError, match="besides its stream it makes what"):
        ramify.apply(graph, [Drop("encoder.block.0")])


def test_half_a_layer_of_t5_is_replaced_in_its_place() -> None:
    model, inputs = small("t5")
    other = copy.deepcopy(model)
    other.encoder.block[1].layer[0].SelfAttention.o.weight.data.zero_()
    graph = ramify.trace(model, inputs)
    with pytest.warns(UserWarning, match="no configuration can say the shape"):
        ramify.apply(graph, [Drop("encoder.block.1.layer.0")])
    assert distance(logits(model, inputs), logits(other, inputs)) < 1e-12
    assert len(model.encoder.block[1].layer) == 2


def test_halves_of_t5_have_depths_of_their_own() -> None:
    model, inputs = small("t5")
    before = logits(model, inputs)
    ramify.apply(ramify.trace(model, inputs), [Insert("decoder.block.1")])
    assert (model.config.num_layers, model.config.num_decoder_layers) == (3, 4)
    assert (model.encoder.config.num_layers, model.decoder.config.num_layers) == (3, 4)
    assert distance(logits(model, inputs), before) < 1e-12


def test_copies_share_the_configuration() -> None:
    model, inputs = small("llama")
    ramify.apply(ramify.trace(model, inputs), [Insert("model.layers.0")])
    held = [m.config for m in model.modules() if getattr(m, "config", None) is not None]
    assert all(config is model.config for config in held)


@pytest.mark.parametrize("edits", [[Drop("model.layers.1")], [Insert("model.layers.1")]])
def test_recipes_bring_the_configuration_along(edits: list[Any], tmp_path: Path) -> None:
    model, inputs = small("qwen2")
    ramify.apply(ramify.trace(model, inputs), edits)
    path = ramify.save(model, tmp_path / "net")
    for build in (models()["qwen2"], lambda: type(model)(copy.deepcopy(model.config))):
        again = ramify.load(path, build=build).double().eval()
        assert depth(again) == depth(model)
        assert again.config.layer_types == model.config.layer_types
        assert distance(logits(again, inputs), logits(model, inputs)) < 1e-12


def test_a_refused_edit_leaves_the_configuration() -> None:
    model, inputs = small("llama")
    graph, before = ramify.trace(model, inputs), copy.deepcopy(model.config.to_dict())
    with pytest.raises(RamifyError, match="holds no parameter of the model"):
        ramify.apply(
            graph,
            [Drop("model.layers.1"), Prune("model.layers.0.mlp.gate_proj", 1)],
            optimizer=torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1),
        )
    assert model.config.to_dict() == before
    assert numbers(model) == [0, 1, 2]
