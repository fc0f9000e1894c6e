"""Vocabularies cut to some tokens: the logits of these are what they were."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ramify
from ramify import RamifyError

KEPT = [0, 2, 3, 7, 11, 19]


class Language(nn.Module):
    """Tokens in, logits out; positions have a table of their own, of as many rows."""

    def __init__(self, tied: bool, rows: int = 20) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(20, 6, padding_idx=2), nn.Embedding(rows, 6)
        self.inner, self.head = nn.Linear(6, 8), nn.Linear(8, 6)
        self.out = nn.Linear(6, 20)
        self.vocab_size = 20
        if tied:
            self.out.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        logits: Tensor = self.out(self.head(torch.tanh(self.inner(x))))
        return logits


def ids(*shape: int) -> Tensor:
    return torch.randint(0, 20, shape or (3, 5))


@pytest.mark.parametrize("tied", [True, False])
def test_kept_tokens_have_the_logits_that_they_had(tied: bool) -> None:
    torch.manual_seed(0)
    model = Language(tied).double()
    whole = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters())
    model(ids()).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    whole.load_state_dict(model.state_dict())
    average = copy.deepcopy(model)
    graph = ramify.trace(model, ids())
    graph = ramify.keep_tokens(graph, reversed(KEPT), optimizer=optimizer, followers=average)
    assert model.tokens.num_embeddings == model.out.out_features == model.vocab_size == 6
    assert model.tokens.padding_idx == 1
    assert model.places.num_embeddings == 20
    assert optimizer.state[model.tokens.weight]["exp_avg"].shape == (6, 6)
    assert int(graph.inputs.max()) < 6
    for seed in range(3):
        torch.manual_seed(seed)
        new = torch.randint(0, 6, (4, 9))
        expected = whole(torch.tensor(KEPT)[new])[..., KEPT]
        assert torch.allclose(model(new), expected, atol=1e-12)
        assert torch.allclose(average(new), expected, atol=1e-12)
    ramify.apply(graph, [ramify.Prune("inner", 0)])  # the graph goes on


def test_what_cannot_be_is_said_and_changes_nothing() -> None:
    model = Language(tied=False)
    graph = ramify.trace(model, ids())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(RamifyError, match="token 2 is the `padding_idx` of a Embedding: keep it"):
        ramify.keep_tokens(graph, [0, 1])
    with pytest.raises(RamifyError, match="has tokens 0 to 19, and one of those to keep is 20"):
        ramify.keep_tokens(graph, [2, 20])
    with pytest.raises(RamifyError, match="no token would be left"):
        ramify.keep_tokens(graph, [])
    assert model.tokens.padding_idx == 2
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    numbers = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    with pytest.raises(RamifyError, match="no embedding of Sequential looks up"):
        ramify.keep_tokens(ramify.trace(numbers, torch.randn(2, 4)), [0])


class ByNumber(Language):
    """Does something with the number of a token itself."""

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids) + (ids % 5).unsqueeze(-1)


def test_numbers_that_the_forward_uses_are_noticed() -> None:
    torch.manual_seed(0)
    model = ByNumber(tied=True)
    weight = model.tokens.weight.detach().clone()
    with pytest.raises(RamifyError, match="uses the numbers of tokens in a way"):
        ramify.keep_tokens(ramify.trace(model, ids()), KEPT)
    assert torch.equal(model.tokens.weight, weight)
    assert model.tokens.padding_idx == 2


@pytest.mark.parametrize("tied", [True, False])
def test_the_configuration_of_a_language_model_follows(tied: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=20, hidden_size=8, intermediate_size=12, num_hidden_layers=1,
        num_attention_heads=2, pad_token_id=2, bos_token_id=7, eos_token_id=11,
        tie_word_embeddings=tied,
    )  # fmt: skip
    model: Any = transformers.LlamaForCausalLM(config).eval()
    whole = copy.deepcopy(model)
    ramify.keep_tokens(ramify.trace(model, {"input_ids": ids()}), KEPT)
    told = model.config
    assert (told.vocab_size, told.pad_token_id, told.bos_token_id, told.eos_token_id) == (
        6,
        1,
        3,
        4,
    )
    new = torch.randint(0, 6, (4, 9))
    logits = model(new).logits
    assert torch.allclose(logits, whole(torch.tensor(KEPT)[new]).logits[..., KEPT], atol=1e-5)
    model.save_pretrained(tmp_path)
    assert torch.equal(type(model).from_pretrained(tmp_path).eval()(new).logits, logits)
