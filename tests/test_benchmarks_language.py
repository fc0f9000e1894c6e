"""A cut language model is read by a process without Ramify."""

from __future__ import annotations

import pytest
import torch

import ramify

pytest.importorskip("transformers")

from benchmarks import trace
from benchmarks.language import next_token, read_elsewhere

SMALL = {"hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 2}


@pytest.mark.parametrize("kind", ["Llama", "Qwen2"])
def test_a_cut_model_needs_nothing_of_ramify(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(trace.LANGUAGE, "small", SMALL)
    torch.manual_seed(0)
    model, inputs = trace.language(kind, "small", torch.float32, length=6)
    tokens = inputs["input_ids"]
    graph = ramify.trace(model, inputs)
    before = sum(p.numel() for name, p in model.named_parameters() if ".mlp." in name)
    whole = sum(p.numel() for p in model.parameters())
    ramify.cut(
        graph,
        next_token,
        [tokens],
        budget={"params": whole - 0.25 * before},
        method=ramify.L1(),
        refit=False,
        balance=False,
        groups=["*.mlp.*"],
        alike="*.mlp.*",
    )
    assert model.config.intermediate_size == 72
    assert {layer.mlp.gate_proj.out_features for layer in model.model.layers} == {72}
    assert read_elsewhere(model, kind, tokens) == 0.0
