"""The zoo's own judgement: what is wrong is seen, and a page is written whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ramify
from benchmarks.zoo import comparing, examine, structures
from benchmarks.zoo.entries import Entry, noise
from benchmarks.zoo.table import page

SMALL = {entry.name: entry for entry in structures.entries()}


def row_of(entry: Entry) -> dict[str, Any]:
    return examine.examine(entry, lambda _: None)


@pytest.mark.parametrize("name", ["GatedChunks", "FunctionalWeights"])
def test_a_structure_passes_every_check(name: str) -> None:
    row = row_of(SMALL[name])
    assert examine.verdict(row) == ("pass", "")
    other = {row["checks"].pop(name) for name in ("pretrained", "generate")}
    assert other == {"its library has none", "it writes no text"}
    assert set(row["checks"].values()) == {"yes"}
    assert {"masked float32", "split float64", "save", "export"} <= set(row["checks"])


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.linalg.matrix_power(self.a(x).view(-1, 6, 1).expand(-1, 6, 6), 2)[:, 0])


def test_a_model_with_nothing_to_edit_is_frozen() -> None:
    status, why = examine.verdict(row_of(Entry("frozen", "structures", Frozen, noise(3, 4))))
    assert status == "frozen"
    assert why


def test_a_refusal_is_told_as_it_is() -> None:
    wrapped = Entry("wrapped", "structures", lambda: nn.DataParallel(nn.Linear(4, 3)), noise(3, 4))
    status, why = examine.verdict(row_of(wrapped))
    assert status == "refused"
    assert why.startswith("the model is wrapped in DataParallel")


def wrong(monkeypatch: pytest.MonkeyPatch, kind: type) -> str:
    """What is said where edits of one kind put noise into the weights."""
    real = ramify.apply

    def noisy(graph: Any, edits: Any, **more: Any) -> Any:
        edits = list(edits)
        found = real(graph, edits, **more)
        if isinstance(edits[0], kind):
            next(found.model.parameters()).data.mul_(1.01)
        return found

    monkeypatch.setattr(ramify, "apply", noisy)
    status, why = examine.verdict(row_of(SMALL["GatedChunks"]))
    assert status == "WRONG"
    return why


def test_a_prune_that_is_not_a_mask_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "the pruned model and the masked original differ" in wrong(monkeypatch, ramify.Prune)


def test_a_split_that_moves_the_output_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "the model before and after splits differ" in wrong(monkeypatch, ramify.Split)


def test_the_share_of_a_model_in_groups() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    graph = ramify.trace(net, torch.randn(3, 4))
    every = 4 * 8 + 8 + 8 * 2
    assert examine.share(graph, [graph["0"]]) == pytest.approx(every / (every + 2))
    assert examine.share(graph, []) == 0


def test_outputs_are_compared_where_they_are_finite() -> None:
    a, b = torch.tensor([1.0, float("-inf")]), torch.tensor([1.0, 0.0])
    comparing.same("they", [a], [a.clone()], 0.0)
    with pytest.raises(comparing.Wrong, match="not finite in other places"):
        comparing.same("they", [a], [b], 1.0)


def test_the_page_says_what_is_missing() -> None:
    passed = {"name": "one", "checks": {"split float32": "yes"}, "prunable": 3, "splittable": 3,
              "groups": 4, "share_prune": 0.9, "share_split": 0.5, "trace_s": 0.25,
              "frozen": {"it is an output of the model": 1}}  # fmt: skip
    failed = {"name": "two", "checks": {}, "status": "refused", "why": "no | such model"}
    text = page([passed, failed], 120, 60, 4)
    assert "Of 2 models and structures: 1 pass, 1 refused." in text
    assert "|one|pass|0|3/4|90%|50%|0.25|" in text
    assert "* two: refused; no / such model" in text
    assert "|1|1|it is an output of the model|" in text
