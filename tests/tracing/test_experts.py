"""Mixtures of experts: what goes is what a mask takes away, also for tokens never traced."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import ramify
from ramify import ChannelGraph, ChannelGroup, Proposal, Prune, RamifyError, Split
from tests.checks import distance, mask, of_copy, outputs
from tests.structures import STRUCTURES

STACKS = ("NumberedExperts", "VisitedExperts", "SwitchedExperts", "MaskedExperts", "DenseExperts")


class Without(TorchFunctionMode):
    """What a router says of some experts is minus infinity, whatever it computes."""

    def __init__(self, rows: dict[int, list[int]]) -> None:
        super().__init__()
        self._rows = rows

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        weight = args[1] if getattr(func, "__name__", "") == "linear" else None
        if id(weight) in self._rows:
            result[..., self._rows[id(weight)]] = -torch.inf
        return result


@contextmanager
def without(model: nn.Module, gone: dict[str, list[int]]) -> Iterator[None]:
    """The model with some experts never chosen: router weight -> their numbers."""
    with Without({id(model.get_parameter(name)): rows for name, rows in gone.items()}):
        yield


def routers(graph: ChannelGraph) -> list[ChannelGroup]:
    """The groups of whole experts."""
    return [group for group in graph.groups if group.atom.ranked and group.can_prune]


def units(graph: ChannelGraph) -> list[ChannelGroup]:
    """The groups of the hidden units of experts."""
    return [g for g in graph.groups if ".experts" in g.name and g.prune_exact]


@pytest.mark.parametrize("name", STACKS)
def test_an_expert_goes_as_if_it_were_never_chosen(name: str) -> None:
    model, x = STRUCTURES[name].make()
    whole = copy.deepcopy(model)
    graph = ramify.trace(model, x)
    graph = ramify.apply(graph, [Prune("router", 2)])
    assert graph.origin["router"] == [0, 1, 3]
    assert model.get_parameter("inner").shape == (3, 8, 7)
    for seed in range(3):
        torch.manual_seed(seed)
        other = 3 * torch.randn(40, 6, dtype=x.dtype)
        with without(whole, {"router.weight": [2]}):
            expected = outputs(whole, other)
        assert distance(expected, outputs(model, other)) < 1e-12


@pytest.mark.parametrize("name", STACKS)
def test_units_of_stacked_experts_go_and_are_copied(name: str) -> None:
    model, x = STRUCTURES[name].make()
    whole = copy.deepcopy(model)
    other = 3 * torch.randn(40, 6, dtype=x.dtype)
    ramify.apply(ramify.trace(model, x), [Split("inner", 1, (0.3, 0.7))])
    assert distance(outputs(whole, other), outputs(model, other)) < 1e-12
    model = copy.deepcopy(whole)
    ramify.apply(ramify.trace(model, x), [Prune("inner", c) for c in (0, 5)])
    with torch.no_grad():
        whole.get_parameter("outer")[:, [0, 5]] = 0
    assert distance(outputs(whole, other), outputs(model, other)) < 1e-12


def test_as_many_experts_stay_as_a_token_is_given() -> None:
    model, x = STRUCTURES["NumberedExperts"].make()
    graph = ramify.trace(model, x)
    assert graph["router"].least == 2
    with pytest.raises(RamifyError, match="takes the 2 largest of them: keep at least 2"):
        ramify.apply(graph, [Prune("router", c) for c in range(3)])
    free = ramify.cost.Cost(0, 0)
    proposals = [Proposal(Prune("router", c), float(c), free, graph=graph) for c in range(4)]
    assert [p.edit.channel for p in ramify.TopFraction(0.9).select(proposals)] == [3, 2]
    graph = ramify.apply(graph, [Prune("router", c) for c in range(2)])
    assert not graph["router"].can_prune
    assert graph["router"].reason


def test_experts_that_got_no_row_are_edited_like_the_others() -> None:
    model, x = STRUCTURES["ListedExperts"].make()
    whole = copy.deepcopy(model)
    graph = ramify.trace(model, x)
    seen = whole.get_submodule("router")(whole.get_submodule("stem")(x).tanh()).topk(2).indices
    idle = next(n for n in range(5) if n not in seen)
    readers = set(graph["stem"].consumers)
    assert f"experts.{idle}.0.weight" in readers
    assert graph[f"experts.{idle}.0"].can_prune
    graph = ramify.apply(graph, [Prune("stem", 3), Prune(f"experts.{idle}.0", 1)])
    as_it_was = ramify.trace(whole, x)
    mask(as_it_was, as_it_was["stem"], [3])
    with torch.no_grad():
        whole.get_parameter(f"experts.{idle}.2.weight")[:, 1] = 0
    other = 3 * torch.randn(40, 6, dtype=x.dtype)
    assert distance(outputs(whole, other), outputs(model, other)) < 1e-12


# Models of transformers ----------------------------------------------------------------------

SIZES = {
    "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "intermediate_size": 12, "max_position_embeddings": 24,
    "use_cache": False, "pad_token_id": 0, "num_experts_per_tok": 2,
}  # fmt: skip
QWEN = {
    **SIZES, "num_experts": 6, "moe_intermediate_size": 12, "shared_expert_intermediate_size": 8,
}  # fmt: skip
LATENT = {
    **SIZES, "n_routed_experts": 6, "n_shared_experts": 1, "moe_intermediate_size": 12,
    "first_k_dense_replace": 0, "kv_lora_rank": 6, "q_lora_rank": 6, "qk_nope_head_dim": 4,
    "qk_rope_head_dim": 4, "v_head_dim": 4, "num_key_value_heads": 2, "n_group": 1,
    "topk_group": 1,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "Mixtral": {**SIZES, "num_local_experts": 4},
    "Qwen2Moe": QWEN,
    "Qwen3Moe": {**QWEN, "head_dim": 8},
    "GptOss": {**SIZES, "num_local_experts": 4, "head_dim": 8},
    "DeepseekV2": LATENT,
    "DeepseekV3": LATENT,
    "Jamba": {
        **SIZES, "num_hidden_layers": 2, "num_experts": 4, "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 1, "expert_layer_offset": 0, "mamba_d_state": 4,
        "mamba_dt_rank": 3,
    },
}  # fmt: skip
WAYS = ("eager", "batched_mm", "grouped_mm")
CASES = [
    *(("Mixtral", way) for way in WAYS),
    ("Qwen2Moe", "grouped_mm"), ("Qwen3Moe", "eager"), ("GptOss", "eager"),
    ("GptOss", "grouped_mm"), ("DeepseekV2", "batched_mm"), ("DeepseekV3", "eager"),
    ("DeepseekV3", "grouped_mm"), ("Jamba", "batched_mm"),
]  # fmt: skip


def tokens(seed: int = 0, length: int = 7) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"input_ids": torch.randint(3, 40, (2, length), generator=generator)}


def built(family: str, way: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**FAMILIES[family])
    kind = getattr(transformers, f"{family}ForCausalLM")
    model: nn.Module = kind._from_config(config, experts_implementation=way).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.dim() < 2:
                tensor.add_(0.6 * torch.rand_like(tensor) - 0.2)
            elif "A_log" not in name:
                tensor.copy_(torch.randn_like(tensor) / tensor.shape[-1] ** 0.5)
    # Grouped products are float32, and a router that casts its weight is masked where that is.
    return model if way == "grouped_mm" or family == "DeepseekV2" else model.double()


def far(model: nn.Module) -> float:
    """How far outputs may lie apart: grouped products, and some routers, are float32 always."""
    return 1e-4 if next(model.parameters()).dtype == torch.float32 else 1e-6


@pytest.mark.parametrize(("family", "way"), CASES)
def test_units_of_experts_go_and_are_copied(family: str, way: str) -> None:
    model = built(family, way)
    whole = copy.deepcopy(model)
    graph = ramify.trace(model, tokens())
    found = units(graph)
    assert len(found) == model.config.num_hidden_layers
    assert all(group.can_split and group.width == 12 for group in found)
    # Four gone and four copied: grouped products take widths in multiples of four.
    edits = [Prune(g.name, c) for g in found for c in (0, 3, 4, 11)]
    ramify.apply(graph, [*edits, *(Split(g.name, c) for g in found for c in (5, 6, 7, 8))])
    for group in found:
        mask(of_copy(graph, whole), group, [0, 3, 4, 11])
    for seed in range(3):
        other = tokens(seed, 11)
        assert distance(outputs(whole, other), outputs(model, other)) < far(model)


@pytest.mark.parametrize(("family", "way"), CASES)
def test_experts_of_language_models_go_as_if_never_chosen(
    family: str, way: str, tmp_path: Path
) -> None:
    """The configuration follows, so that transformers alone loads what is left."""
    model: Any = built(family, way)
    whole = copy.deepcopy(model)
    graph = ramify.trace(model, tokens())
    found = routers(graph)
    assert len(found) == model.config.num_hidden_layers
    assert all(not group.can_split and group.least == 2 for group in found)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ramify.apply(graph, [Prune(group.name, c) for group in found for c in (1, 3)])
    gone = {next(n for n in g.producers if n.endswith("weight")): [1, 3] for g in found}
    for name, buffer in whole.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer[[1, 3]] = -torch.inf
    for seed in range(3):
        other = tokens(seed, 11)
        with without(whole, gone):
            expected = outputs(whole, other)
        kept = outputs(model, other)
        assert distance(expected[:1], kept[:1]) < far(model)
    model.float().save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, experts_implementation=way).eval()
    assert torch.equal(outputs(again, tokens(3, 11))[0], outputs(model, tokens(3, 11))[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_all_else_of_such_models_stays_editable(family: str) -> None:
    """The stream, attention, shared experts and state space layers."""
    graph = ramify.trace(built(family, "grouped_mm"), tokens())
    able = {group.name for group in graph.groups if group.can_prune}
    assert "model.embed_tokens" in able
    assert any("attn" in name for name in able)
    if family in ("Qwen2Moe", "DeepseekV2", "DeepseekV3"):
        assert any("shared_expert" in name for name in able)
    if family == "Jamba":
        assert any("mamba" in name for name in able)


def test_groups_of_experts_stay_whole() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.DeepseekV3Config(**{**LATENT, "n_group": 2})
    graph = ramify.trace(transformers.DeepseekV3ForCausalLM(config).eval(), tokens())
    reasons = [group.reason for group in graph.groups if ".mlp.gate" in group.name]
    assert len(reasons) == 2
    assert all("group by group" in reason for reason in reasons)


def test_widths_that_grouped_products_refuse_are_computed_one_by_one(tmp_path: Path) -> None:
    model: Any = built("Mixtral", "grouped_mm")
    whole = copy.deepcopy(model)
    graph = ramify.trace(model, tokens())
    first = units(graph)[0]
    with pytest.warns(UserWarning, match="experts_implementation='eager'"):
        ramify.apply(graph, [Prune(first.name, 2)])
    assert model.config._experts_implementation == "eager"
    mask(of_copy(graph, whole), first, [2])
    for seed in range(3):
        other = tokens(seed, 11)
        assert distance(outputs(whole, other), outputs(model, other)) < far(model)
    assert whole.config._experts_implementation == "grouped_mm"
    path = ramify.save(model, tmp_path / "net")
    again = ramify.load(path, build=lambda: built("Mixtral", "grouped_mm"))
    assert again.config._experts_implementation == "eager"
    assert torch.equal(*(net(**tokens()).logits for net in (model, again.eval())))
