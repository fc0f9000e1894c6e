"""Torch's own attention layer, edited: what is cut equals what is masked, however it is called."""

from __future__ import annotations

import copy
import itertools
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ramify
from ramify import Prune, RamifyError, Split
from ramify.tracing.attention.multihead import ResizedMultiheadAttention, convert
from tests.checks import distance, mask
from tests.structures.base import scatter

N, L, S, E, H = 3, 5, 4, 12, 4


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def layer(**settings: Any) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    made = nn.MultiheadAttention(E, H, **settings).double().eval()
    scatter(made)
    return made


def arranged(x: Tensor, batch_first: bool) -> Tensor:
    return x if batch_first else x.transpose(0, 1)


CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no weights": {"need_weights": False},
    "each head's weights": {"average_attn_weights": False},
    "bool mask": {"attn_mask": torch.ones(L, S).triu(1).bool(), "need_weights": False},
    "float mask": {"attn_mask": numbers(L, S)},
    "mask of each head": {"attn_mask": numbers(N * H, L, S), "need_weights": False},
    "padding": {"key_padding_mask": torch.arange(S) >= torch.tensor([[4], [2], [3]])},
    "both": {
        "key_padding_mask": numbers(N, S),
        "attn_mask": numbers(L, S),
        "need_weights": False,
    },
    "causal": {
        "attn_mask": torch.ones(L, S).triu(1).bool(),
        "is_causal": True,
        "need_weights": False,
    },
    "causal, padded": {
        "attn_mask": torch.ones(L, S).triu(1).bool(),
        "key_padding_mask": torch.arange(S) >= torch.tensor([[4], [2], [3]]),
        "is_causal": True,
    },
}
LAYERS: dict[str, dict[str, Any]] = {
    "packed": {},
    "batch first": {"batch_first": True},
    "no bias": {"bias": False, "batch_first": True},
    "own widths": {"kdim": 6, "vdim": 3},
    "appended": {"add_bias_kv": True, "add_zero_attn": True, "batch_first": True},
}


def inputs_of(settings: dict[str, Any], queries: int = L) -> tuple[Tensor, Tensor, Tensor]:
    first = bool(settings.get("batch_first"))
    widths = E, settings.get("kdim", E), settings.get("vdim", E)
    torch.manual_seed(1)
    parts = zip((queries, S, S), widths, strict=True)
    query, key, value = (arranged(numbers(N, length, n), first) for length, n in parts)
    return query, key, value


def same(one: Any, other: Any, slack: float = 1e-12) -> None:
    for a, b in zip(one, other, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert a.dtype == b.dtype
            assert a.shape == b.shape
            assert torch.equal(a.isnan(), b.isnan())
            assert float((a - b).detach().nan_to_num().abs().max()) <= slack


# ------------------------------------------------------------------ as it was, by other means


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("training", [False, True])
def test_the_layer_computes_what_torchs_own_does(name: str, training: bool) -> None:
    own = layer(**LAYERS[name]).train(training)
    other = copy.deepcopy(own)
    convert(other, resized=True)
    assert type(other) is ResizedMultiheadAttention
    assert other.state_dict().keys() == own.state_dict().keys()
    query, key, value = inputs_of(LAYERS[name])
    for call in CALLS.values():
        if LAYERS[name].get("add_bias_kv") and call.get("is_causal"):
            continue  # torch's own causal hint leaves out the appended keys
        same(own(query, key, value, **call), other(query, key, value, **call))


@pytest.mark.parametrize("batch_first", [False, True])
def test_self_attention_dropout_and_one_sample(batch_first: bool) -> None:
    own = layer(batch_first=batch_first, dropout=0.4)
    other = copy.deepcopy(own)
    convert(other, resized=True)
    x, one = numbers(N, L, E), numbers(L, E)
    for training, weights in itertools.product((False, True), (False, True)):
        found = []
        for each in (own.train(training), other.train(training)):
            torch.manual_seed(3)
            found.append((*each(x, x, x, need_weights=weights), *each(one, one, one)))
        same(*found)
    hide = torch.where(torch.arange(L) > 2, float("-inf"), 0.0).double()
    with torch.no_grad():  # torch's own takes its fused kernel here, where it can
        same(own.eval()(x, x, x), other.eval()(x, x, x))
        called = {"key_padding_mask": hide, "attn_mask": numbers(H, L, L)}
        same(own(one, one, one, **called), other(one, one, one, **called))


def test_autocast_and_gradients() -> None:
    own = layer(batch_first=True).float()
    other = copy.deepcopy(own)
    convert(other, resized=True)
    x = torch.randn(N, L, E)
    for weights in (False, True):
        with torch.autocast("cpu", torch.bfloat16):
            found = [each(x, x, x, need_weights=weights) for each in (own, other)]
        assert found[1][0].dtype == torch.bfloat16
        same(*found, slack=0.03)
    for each in (own, other):
        each(x, x, x)[0].square().sum().backward()
    pairs = zip(own.parameters(), other.parameters(), strict=True)
    assert all(torch.allclose(a.grad, b.grad, atol=1e-5) for a, b in pairs if a.grad is not None)


def test_what_it_refuses() -> None:
    made = layer(batch_first=True)
    convert(made, resized=True)
    x = numbers(N, L, E)
    with pytest.raises(RamifyError, match="give the causal attn_mask"):
        made(x, x, x, is_causal=True)
    nested = torch.nested.nested_tensor([x[0], x[1, :3]])
    with pytest.raises(RamifyError, match="takes no nested tensors"):
        made(nested, nested, nested)


# ------------------------------------------------------------------------- what an edit leaves


class Between(nn.Module):
    """An attention layer between linear layers, so that every size of it is free."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.q, self.k = (
            nn.Linear(E, E),
            nn.Linear(settings.get("kdim", E), settings.get("kdim", E)),
        )
        self.v = nn.Linear(settings.get("vdim", E), settings.get("vdim", E))
        self.att = nn.MultiheadAttention(E, H, **settings)
        self.out = nn.Linear(E, 2)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **call: Any) -> list[Tensor]:
        found, _ = self.att(self.q(query), self.k(key), self.v(value), **call)
        return [self.out(found)]


EDITS = {"att:0": [1], "att:1": [0], "att:2": [1], "q": [2, 7], "att.out_proj": [0, 5]}


def between(name: str) -> tuple[Between, tuple[Tensor, Tensor, Tensor]]:
    torch.manual_seed(0)
    model = Between(**LAYERS[name]).double().eval()
    scatter(model)
    return model, inputs_of(LAYERS[name])


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_cut_equals_what_is_masked(name: str) -> None:
    model, (query, key, value) = between(name)
    masked = copy.deepcopy(model)
    traced = {"query": query, "key": key, "value": value, "need_weights": False}
    graph = ramify.trace(masked, traced)
    for group, channels in EDITS.items():
        assert graph[group].prune_exact
        mask(graph, graph[group], channels)
    graph = ramify.trace(model, traced)
    keys = list(model.state_dict())
    edits = [Prune(group, channel) for group, some in EDITS.items() for channel in some]
    graph = ramify.apply(graph, edits)
    att = model.att
    assert isinstance(att, ResizedMultiheadAttention)
    assert list(model.state_dict()) == keys
    assert (att.embed_dim, att.num_heads, att.head_dim) == (E - 2, H - 1, E // H - 1)
    assert (att.kdim, att.vdim) == tuple(LAYERS[name].get(k, E - 2) for k in ("kdim", "vdim"))
    assert att.out_proj.in_features == 6
    for called, call in CALLS.items():
        if called == "mask of each head":
            gone = call["attn_mask"].unflatten(0, (N, H))
            less = {**call, "attn_mask": gone[:, [0, 2, 3]].flatten(0, 1)}
        else:
            less = call
        for training in (False, True):
            if LAYERS[name].get("add_bias_kv") and call.get("is_causal"):
                continue
            expected = masked.train(training)(query, key, value, **call)
            found = model.train(training)(query, key, value, **less)
            assert distance(expected, found) <= 1e-12
    # And it goes on: another edit of the edited layer.
    again = copy.deepcopy(model).eval()
    mask(graph, graph["att:0"], [2])
    expected = model.eval()(query, key, value)
    graph = ramify.apply(ramify.trace(again, traced), [Prune("att:0", 2)])
    assert distance(expected, again(query, key, value)) <= 1e-12


@pytest.mark.parametrize("name", ["packed", "own widths"])
def test_splits_keep_what_it_computes(name: str) -> None:
    model, (query, key, value) = between(name)
    traced = {"query": query, "key": key, "value": value, "need_weights": False}
    before = model(query, key, value)
    followed = copy.deepcopy(model)
    splits = [Split(group, 0, (0.3, 0.7)) for group in EDITS]
    ramify.apply(ramify.trace(model, traced), splits, followers=followed)
    assert (model.att.num_heads, model.att.head_dim) == (H + 1, E // H + 1)
    assert distance(before, model(query, key, value)) <= 1e-12
    assert distance(before, followed(query, key, value)) <= 1e-12


def test_a_stream_through_an_encoder_on_its_fast_path() -> None:
    torch.manual_seed(0)
    one = nn.TransformerEncoderLayer(E, H, 12, batch_first=True)
    model = nn.Sequential(nn.Linear(3, E), nn.TransformerEncoder(one, 2), nn.Linear(E, 2)).double()
    scatter(model.eval())
    x, hide = numbers(N, L, 3), torch.arange(L) >= torch.tensor([[5], [2], [3]])
    masked = copy.deepcopy(model)
    graph = ramify.trace(masked, x)
    heads, units = "1.layers.0.self_attn:0", "1.layers.1.linear1"
    for group in (heads, units):
        mask(graph, graph[group], [1])
    graph = ramify.apply(ramify.trace(model, x), [Prune(heads, 1), Prune(units, 1)])
    assert type(model[1].layers[0].self_attn) is ResizedMultiheadAttention
    assert type(model[1].layers[1].self_attn) is nn.MultiheadAttention  # untouched

    def run(of: nn.Sequential) -> list[Tensor]:
        plain = of(x)
        hidden = of[2](of[1](of[0](x), src_key_padding_mask=hide))
        return [plain, hidden[~hide]]

    expected = run(masked)
    assert distance(expected, run(model)) <= 1e-12
    with torch.no_grad():
        assert distance(run(masked), run(model)) <= 1e-12
    graph = ramify.apply(graph, [Prune("0", 4)])
    assert [m.embed_dim for m in model.modules() if isinstance(m, nn.MultiheadAttention)] == [
        11,
        11,
    ]
    model(x).sum().backward()
    with torch.no_grad():
        run(model)


# --------------------------------------------------------------------------------- its own life


def edited() -> tuple[nn.MultiheadAttention, Tensor]:
    made, x = layer(batch_first=True), numbers(N, L, E)
    graph = ramify.trace(made, {"query": x, "key": x, "value": x, "need_weights": False})
    ramify.apply(graph, [Prune(graph.groups[0].name, 1), Prune(graph.groups[2].name, 0)])
    return made, x


def test_it_is_copied_pickled_saved_loaded_and_exported(tmp_path: Path) -> None:
    made, x = edited()
    expected = made(x, x, x)
    same(expected, copy.deepcopy(made)(x, x, x))
    same(expected, pickle.loads(pickle.dumps(made))(x, x, x))
    path = ramify.save(made, tmp_path / "attention")
    for build in (layer, lambda **own: nn.MultiheadAttention(E, 2, **own)):
        again = ramify.load(path, lambda build=build: build(batch_first=True)).eval()
        assert isinstance(again, ResizedMultiheadAttention)
        same(expected, again(x, x, x))
    program = torch.export.export(made, (x, x, x), strict=False)
    same(expected, program.module()(x, x, x))


def test_a_recipe_of_torchs_own_layer_makes_one_again() -> None:
    made, x = edited()
    plain = layer(batch_first=True)
    again = ramify.reshape(made, ramify.recipe_of(plain))
    again.load_state_dict(plain.state_dict())
    assert type(again) is nn.MultiheadAttention
    same(plain(x, x, x), again(x, x, x))


def test_a_trace_and_an_edit_that_fails_leave_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (query, key, value) = between("packed")
    held, before = dict(vars(model.att)), model(query, key, value)
    graph = ramify.trace(model, {"query": query, "key": key, "value": value})
    assert type(model.att) is nn.MultiheadAttention
    assert dict(vars(model.att)) == held
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(RamifyError, match="holds no parameter of the model"):
        ramify.apply(graph, [Prune("att:1", 0)], optimizer=optimizer)
    monkeypatch.setattr("ramify.edit.apply._follow", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ramify.apply(graph, [Prune("att:1", 0)])
    assert type(model.att) is nn.MultiheadAttention
    assert dict(vars(model.att)) == held
    assert distance(before, model(query, key, value)) == 0.0


class Loud(nn.MultiheadAttention):
    """A forward of somebody's own, which nothing else may stand in for."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out, weights = super().forward(*args, **kwargs)
        return 2 * out, weights


def test_a_subclass_keeps_its_own_forward() -> None:
    model, (query, key, value) = between("packed")
    model.att = Loud(E, H).double().eval()
    masked = copy.deepcopy(model)
    traced = {"query": query, "key": key, "value": value, "need_weights": False}
    graph = ramify.trace(masked, traced)
    assert graph["q:0"].width == H  # of the stream too, as torch's own forward asserts
    mask(graph, graph["q:0"], [1])
    ramify.apply(ramify.trace(model, traced), [Prune("q:0", 1)])
    assert type(model.att) is Loud
    assert (model.att.num_heads, model.att.embed_dim) == (H - 1, E - E // H)
    assert distance(masked(query, key, value), model(query, key, value)) <= 1e-12
