"""Budgets, floors and ceilings of a growing network, and the knapsack's rounds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import ramify
from ramify.errors import RamifyError
from ramify.select import BudgetKnapsack
from ramify.train.epoch import Training
from ramify.train.loop import Grown
from tests.train.growing import assert_same, data, net, reasons, run


def last_cost(grown: Grown) -> int:
    return ramify.cost.graph_cost(grown.graph).params


@dataclass(frozen=True)
class Prunes:
    """Prunes in the order of their weights, as a score; with a gain, if it is told to."""

    score: float | None = 1.0

    def propose(self, graph: Any, loss: Any, batches: Iterable[Any]) -> list[ramify.Proposal]:
        now = ramify.cost.graph_cost(graph)
        out = []
        for group in graph.groups:
            for channel in range(group.width if group.can_prune else 0):
                edit = ramify.Prune(group.name, channel)
                cost = ramify.cost.graph_cost(graph, [edit]) - now if group.width > 1 else now
                out.append(ramify.Proposal(edit, 0.1, cost, score=self.score, graph=graph))
        return out


class Swaps:
    """A split of every channel, and a prune of every third; all gain."""

    def propose(self, graph: Any, loss: Any, batches: Iterable[Any]) -> list[ramify.Proposal]:
        splits = ramify.RandomSplit(step=0.01).propose(graph, loss, batches)
        prunes = [p for p in Prunes(None).propose(graph, loss, batches) if p.edit.channel % 3 == 2]
        return [replace(split, gain=1.0, score=None) for split in splits] + prunes


class KeepOne:
    """Selects every proposal but the first of each group."""

    def select(self, proposals: Sequence[ramify.Proposal]) -> list[ramify.Proposal]:
        return [proposal for proposal in proposals if proposal.edit.channel > 0]


class TestBudget:
    def test_it_is_never_exceeded_and_ends_the_run(self) -> None:
        seen: list[int] = []
        for most in (26, 40, 55, 70, 100):
            budget = {"params": most, "macs": 3 * most}
            grown = run(net(), data(), rounds=20, budget=budget, training=Training(epochs=1))
            for event in grown.history:
                if event["event"] != "stop":
                    params = event.get("params", event.get("params_after"))
                    assert params <= most
                    assert event.get("macs", event.get("macs_after")) <= 3 * most
            assert reasons(grown) == ["budget"]
            assert grown.history[-1]["budget"] == budget
            seen.append(last_cost(grown))
        assert seen == sorted(seen)
        assert seen[-1] > seen[0]

    def test_a_cut_selection_is_the_last_of_a_method_that_only_splits(self) -> None:
        grown = run(net(), data(), rounds=20, budget={"params": 60})
        edits = [event for event in grown.history if event["event"] == "edit"]
        assert [edit["cut"] > 0 for edit in edits] == [False] * (len(edits) - 1) + [True]
        assert [event["event"] for event in grown.history[-4:]] == ["epoch"] * 3 + ["stop"]

    def test_a_method_that_splits_and_prunes_ends_where_growth_is_left_out(self) -> None:
        rule = ramify.TopFraction(1.0)
        grown = run(
            net(), data(), rounds=20, budget={"params": 60}, method=Swaps(), rule=rule, trial=False
        )
        edits = [event for event in grown.history if event["event"] == "edit"]
        assert any(min(row["copies"] for row in edit["proposals"]) == 0 for edit in edits)
        assert [edit["full"] for edit in edits] == [False] * (len(edits) - 1) + [True]
        assert reasons(grown) == ["budget"]
        assert [event["event"] for event in grown.history[-4:]] == ["epoch"] * 3 + ["stop"]

    @pytest.mark.parametrize("score", [1.0, None])
    def test_a_method_that_prunes_comes_within_it_and_no_further(self, score: float | None) -> None:
        settings = {"method": Prunes(score), "rule": KeepOne(), "training": Training(epochs=1)}
        before = sum(parameter.numel() for parameter in net().parameters())
        grown = run(net(), data(), rounds=5, budget={"params": before - 6}, **settings)
        assert reasons(grown) == ["budget"]
        assert before - 12 < last_cost(grown) <= before - 6
        assert all(p["copies"] == 0 for p in grown.history[1]["proposals"])
        still = run(net(), data(), rounds=5, budget={"params": before}, **settings)
        assert [event["event"] for event in still.history] == ["epoch", "stop"]
        assert reasons(still) == ["budget"]

    def test_no_room_from_the_start(self) -> None:
        grown = run(net(), data(), budget={"params": 26})
        assert [event["event"] for event in grown.history] == ["epoch"] * 3 + ["stop"]
        assert reasons(grown) == ["budget"]

    @pytest.mark.parametrize(
        ("budget", "words"),
        [
            ({"weights": 3}, "no budget of 'weights'; give params, macs, flops, energy, latency"),
            ({"params": 0}, "budget of params is 0; give a number above 0"),
            ({"params": "1e6"}, "budget of params is '1e6'"),
            ({"params": float("nan")}, "budget of params is nan"),
            ({"params": True}, "budget of params is True"),
        ],
    )
    def test_what_is_no_budget_is_refused(self, budget: dict[str, Any], words: str) -> None:
        with pytest.raises(RamifyError, match=words):
            run(net(), data(), budget=budget)

    def test_a_resume_with_more_room_goes_on(self, tmp_path: Path) -> None:
        file = tmp_path / "c"
        run(net(), data(), rounds=20, budget={"params": 60}, checkpoint=file)
        more = run(net(), data(), rounds=20, budget={"params": 90}, checkpoint=file)
        assert reasons(more) == ["budget"]
        assert 60 < last_cost(more) <= 90


def widths_of(grown: Grown) -> list[dict[str, int]]:
    return [event["widths_after"] for event in grown.history if event["event"] == "edit"]


class TestBounds:
    @pytest.mark.parametrize("rule", [ramify.TopFraction(0.9), ramify.TopFraction(0.9, True, 2)])
    def test_no_layer_grows_over_its_ceiling(self, rule: ramify.Rule) -> None:
        grown = run(net(), data(), rounds=4, rule=rule, ceiling={"0*": 7, "3": 5})
        free = run(net(), data(), rounds=4, rule=rule)
        assert max(widths["0"] for widths in widths_of(free)) > 7
        most = 6 if rule.multiple_of == 2 else 7  # type: ignore[attr-defined]
        assert grown.graph["0"].width == most
        assert grown.graph["3"].width <= 5
        assert all(widths["0"] <= 7 and widths["3"] <= 5 for widths in widths_of(grown))

    def test_where_all_are_at_their_ceilings_it_ends_and_goes_on_with_others(
        self, tmp_path: Path
    ) -> None:
        settings: dict[str, Any] = {"rule": ramify.TopFraction(1.0), "checkpoint": tmp_path / "c"}
        settings |= {"training": Training(epochs=1, span="run"), "rounds": 4}
        grown = run(net(), data(), ceiling=4, **settings)
        assert [widths["0"] for widths in widths_of(grown)] == [4]
        assert reasons(grown) == ["floors and ceilings"]
        assert [event["event"] for event in grown.history].count("epoch") == 5
        again = run(net(), data(), ceiling=4, **settings)
        assert again.history == grown.history
        more = run(net(), data(), ceiling={"*": 6}, **settings)
        assert more.graph["0"].width == 6

    def test_only_the_named_layers_change_and_a_run_goes_on_with_others(
        self, tmp_path: Path
    ) -> None:
        settings: dict[str, Any] = {"rule": ramify.TopFraction(1.0), "checkpoint": tmp_path / "c"}
        settings |= {"training": Training(epochs=1, span="run"), "rounds": 3}
        before = {group.name: group.width for group in ramify.trace(net(), data()[0][0]).groups}
        grown = run(net(), data(), groups=["0*"], ceiling=before["0"] + 1, **settings)
        assert widths_of(grown)[-1] == before | {"0": before["0"] + 1}
        edits = [event for event in grown.history if event["event"] == "edit"]
        assert {one["group"] for event in edits for one in event["proposals"]} == {"0"}
        assert reasons(grown) == ["floors and ceilings"]
        same = run(net(), data(), groups="0*", ceiling=before["0"] + 1, **settings)
        assert same.history == grown.history
        more = run(net(), data(), ceiling=before["0"] + 1, **settings)
        assert more.graph["3"].width == before["3"] + 1

    def test_no_layer_is_pruned_below_its_floor(self) -> None:
        settings: dict[str, Any] = {"method": Prunes(), "rule": ramify.TopFraction(1.0)}
        grown = run(net(), data(), keep={"0": 2}, trial=False, **settings)
        assert widths_of(grown)[0] == {"0": 2, "3": 1, "5": 1}
        kept = run(net(), data(), keep=3, trial=False, **settings)
        assert reasons(kept) == ["floors and ceilings"]

    def test_a_bound_of_no_group_is_refused_before_anything_is_trained(self) -> None:
        seen: list[Any] = []
        with pytest.raises(RamifyError, match="no group of channels matches 'layer"):
            run(net(), data(), ceiling={"layer*": 3}, log=seen.append)
        with pytest.raises(RamifyError, match="groups: no group of channels matches 'layer"):
            run(net(), data(), groups=["layer*"], log=seen.append)
        assert seen == []


class TestKnapsack:
    def test_every_round_takes_its_share_until_the_budget_is_used_up(self) -> None:
        method = ramify.SplittingDescent(step=0.1, signed=1.3, copies=(2, 3, 4), best_of_each=True)
        start, most = sum(p.numel() for p in net().parameters()), 120
        budget = {"params": float(most)}
        settings: dict[str, Any] = {"rule": BudgetKnapsack(budget), "method": method}
        grown = run(net(), data(), rounds=3, budget=budget, **settings, trial=False)
        costs = [e["params_after"] for e in grown.history if e["event"] == "edit"]
        now = start
        for left, cost in zip((3, 2, 1), costs, strict=True):
            assert now < cost <= now * (most / now) ** (1 / left)
            now = cost
        assert now > most - 20
        longer = run(net(), data(), rounds=9, budget=budget, **settings)
        assert reasons(longer) in (["budget"], ["rounds"])
        assert all(e["params_after"] <= most for e in longer.history if e["event"] == "edit")

    def test_where_nothing_more_fits_the_budget_is_used_up(self) -> None:
        budget = {"params": 27.0}
        grown = run(net(), data(), rule=BudgetKnapsack(budget), budget=budget)
        assert [event["event"] for event in grown.history] == ["epoch"] * 3 + ["stop"]
        assert reasons(grown) == ["budget"]

    def test_a_resume_is_exact(self, tmp_path: Path) -> None:
        budget = {"params": 100.0}
        settings: dict[str, Any] = {"rule": BudgetKnapsack(budget), "budget": budget, "rounds": 3}
        expected = run(net(), data(), **settings)

        def stop(event: dict[str, Any]) -> None:
            if event["event"] == "edit":
                raise KeyboardInterrupt

        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                run(net(), data(), checkpoint=tmp_path / "c", log=stop, **settings)
        assert_same(run(net(), data(), checkpoint=tmp_path / "c", **settings), expected)
