"""Numbers and sentences of a run that cuts are those of its events."""

import math

from ramify.report.cut_events import by_seed, layers_of
from ramify.report.cut_words import (
    cut_tiles,
    distinct_warnings,
    layer_table,
    layers_sentence,
    outcome,
    outcome_table,
    refit_sentence,
)
from tests.report.cut_runs import FULL, SMALL, Events, cut_event, cut_run


def tiles(events: Events, fresh: bool = False) -> dict[str, tuple[str, str]]:
    return {tile.name: (tile.value, tile.note) for tile in cut_tiles(by_seed(events), fresh)}


def test_tiles_say_what_is_left_and_what_it_cost() -> None:
    assert tiles(cut_run()) == {
        "test accuracy after fine-tuning": ("93.00 %", "−2.00 points, from 95.00\xa0%"),
        "test accuracy right after the cut": ("90.00 %", "−5.00 points, from 95.00\xa0%"),
        "of the parameters": ("76.7 %", "3,000 → 2,300"),
        "of the MACs": ("76.7 %", "192 k → 147 k"),
        "loss at the cut": ("0.1 → 0.14", "+0.04 measured, +0.05 predicted"),
    }


def test_a_cut_to_milliseconds_says_how_many_are_left() -> None:
    events = cut_run()
    cut = next(event for event in events if event["event"] == "edit")
    assert "of the latency" not in tiles(events)
    cut |= {"latency_before": 0.68, "latency_after": 0.34}
    assert tiles(events)["of the latency"] == ("50 %", "0.68 → 0.34 ms, measured")


def test_tiles_of_several_networks_are_means() -> None:
    second = cut_run(1)
    second[-1]["test_accuracy"] = 0.91
    shown = tiles([*cut_run(0), *second])
    value, note = shown["test accuracy after fine-tuning"]
    assert value == "92.00 ± 1.41 %"
    assert note == "−3.00 points, from 95.00 ± 0.00\xa0%"


def test_tiles_of_several_cuts_speak_of_the_last() -> None:
    shown = tiles(cut_run(rounds=2))
    assert {"test accuracy right after the last cut", "loss at the last cut"} < set(shown)
    assert shown["of the parameters"] == ("70 %", "3,000 → 2,100")


def test_tiles_of_a_run_under_way() -> None:
    assert tiles([]) == {}
    assert tiles(cut_run()[:4]) == {}  # the full network alone
    assert "test accuracy after fine-tuning" not in tiles(cut_run()[:6])
    assert "test accuracy right after the cut" in tiles(cut_run()[:6])


def test_a_network_that_was_not_tuned_has_no_accuracy_after_it() -> None:
    events = [e for e in cut_run() if not (e["arm"] == "pruned" and e["event"] == "epoch")]
    assert "test accuracy after fine-tuning" not in tiles(events)


def test_nothing_is_said_of_a_cut_that_was_trained_from_fresh_weights() -> None:
    names = {"test accuracy after fine-tuning", "of the parameters", "of the MACs"}
    assert set(tiles(cut_run(), fresh=True)) == names


def test_tiles_of_an_earlier_version() -> None:
    assert tiles(cut_run(search=True, old=True)) == tiles(cut_run(search=True))


def test_warnings_are_sentences_said_once() -> None:
    first, second = cut_run(0, rounds=2), cut_run(1)
    for event in first:
        if event["event"] == "edit":
            event["warnings"] = ["'conv1' lost nearly all: raise keep="]
    told = "'conv1' lost nearly all: raise keep=."
    assert distinct_warnings(by_seed(first)) == [told]
    assert distinct_warnings(by_seed([*first, *second])) == [f"pruned-0: {told}"]
    for event in second:
        if event["event"] == "edit":
            event["warnings"] = ["the cut network is at chance. Cut less."]
    assert "pruned-1: The cut network is at chance. Cut less." in distinct_warnings(
        by_seed(second) | {9: []}
    )


def test_outcome_of_one_cut() -> None:
    cut = cut_event(FULL, SMALL[0])
    text = "The loss rose by 0.04 at the cut, from 0.1 to 0.14; a rise of 0.05 was predicted."
    where = " It was measured on {}, right after the cut and before any fine-tuning."
    assert outcome([cut]) == text + where.format("samples not used for the cut")
    told = outcome([{**cut, "predicted_gain": None, "held": False, "loss_after": 0.05}])
    assert told.startswith("The loss fell by 0.05 at the cut, from 0.1 to 0.05. It was")
    assert told == told.split(" It was")[0] + where.format("the samples used for the cut")
    assert outcome([{**cut, "loss_before": None}]) == ""
    assert outcome([]) == ""


def test_outcome_of_several_cuts() -> None:
    cut = cut_event(FULL, SMALL[0])
    told = outcome([cut, {**cut, "loss_after": 0.25}])
    assert told.startswith(
        "At the 2 cuts the loss rose by 0.04 to 0.15, 0.8 to 3 times as much as was predicted."
    )


def test_every_cut_has_a_row() -> None:
    heads, rows = outcome_table(by_seed(cut_run(rounds=2)))
    assert [row[0] for row in rows] == ["pruned-0, cut 1", "pruned-0, cut 2"]
    assert dict(zip(heads[1:], rows[0][1:], strict=True)) == {
        "loss before": "0.1",
        "loss after": "0.14",
        "rise measured": "+0.04",
        "rise predicted": "+0.05",
        "ratio": "× 0.8",
        "accuracy before": "95.00 %",
        "accuracy after": "90.00 %",
    }
    events = cut_run()
    for event in events:
        if event["event"] == "edit":
            event["predicted_gain"] = None
    heads, rows = outcome_table(by_seed(events))
    assert heads[3:5] == ["rise measured", "accuracy before"]
    assert rows[0][0] == "pruned-0"


def test_every_cut_has_the_learning_rate_of_its_fine_tuning() -> None:
    events = cut_run(rounds=2)
    untuned = [event for event in events if event["event"] != "epoch"]
    found = []
    for cut, rate in zip([e for e in events if e["event"] == "edit"], (0.03, 0.01), strict=True):
        found.append({"event": "rate", "job": cut["job"], "step": cut["step"], "lr": rate})

    def rates(events: Events, tuning_lr: float | None = None) -> list[str]:
        heads, rows = outcome_table(by_seed(events), tuning_lr)
        return [row[-1] for row in rows] if heads[-1] == "learning rate" else []

    assert rates([*events, *found]) == ["0.03", "0.01"]
    assert rates([*untuned, *found[:1]]) == ["0.03", ""]  # trained no epoch yet
    assert rates(events, 0.02) == ["0.02", "0.02"]
    assert rates(events) == rates(untuned, 0.02) == []


def test_a_cut_that_did_the_opposite_has_a_ratio_with_a_minus() -> None:
    events = cut_run()
    cut = next(event for event in events if event["event"] == "edit")
    cut |= {"loss_before": 0.1, "loss_after": 0.08, "predicted_gain": -0.05}
    heads, [row] = outcome_table({0: events})
    assert row[heads.index("ratio")] == "× −0.4"


def test_layers_in_numbers() -> None:
    cuts = [cut_event(FULL, SMALL[0]), cut_event(*SMALL)]
    heads, rows = layer_table(layers_of(cuts))
    assert heads == ["layer", "channels", "left", "floor", "last removed", "next to be removed"]
    assert rows == [
        ["conv1", "8 → 2", "25 %", "2, reached", "0.002", "0.003"],
        ["conv2", "12 → 9", "75 %", "2", "", "0.002"],
    ]
    assert layers_sentence(cuts, layers_of(cuts)) == (
        "9 channels of 20 removed in 2 cuts. At the floor: conv1. "
        "Not shown: 1 layer that cannot be cut."
    )
    del cuts[1]["floors"]
    assert "floor" not in layer_table(layers_of(cuts))[0]


def test_a_layer_that_lost_nothing_is_counted() -> None:
    cut = cut_event(FULL, {**FULL, "conv1": 4})
    assert "4 channels of 20 removed in 1 cut. 1 layer unchanged." in layers_sentence(
        [cut], layers_of([cut])
    )
    dropped = [{**cut, "drops": ["layer1.1"]}]
    assert " in 1 cut. 1 block removed: layer1.1. " in layers_sentence(dropped, layers_of(dropped))


def test_refits_in_a_sentence() -> None:
    before, after = math.sqrt(0.4 * 0.1), math.sqrt(0.02 * 0.05)
    assert refit_sentence([cut_event(FULL, SMALL[0])]) == (
        f"2 layers refitted: the geometric mean of the error fell from "
        f"{100 * before:.3g} % to {100 * after:.3g} %. 1 layer needed no refit."
    )
    assert refit_sentence([{**cut_event(FULL, SMALL[0]), "refitted": []}]) == ""


def test_a_tuning_that_did_harm_is_told() -> None:
    events = cut_run()
    assert distinct_warnings({0: events}, 0.05) == []
    after = next(event for event in events if event["event"] == "edit")["test_accuracy_after"]
    done = next(
        event for event in events if event["event"] == "result" and event["arm"] == "pruned"
    )
    done["test_accuracy"] = after - 0.2
    [told] = distinct_warnings({0: events}, 0.05)
    assert told == (
        f"Fine-tuning made the network worse than it was right after the cut, test accuracy "
        f"{100 * after:.2f} → {100 * (after - 0.2):.2f} %: give a --tuning-lr below 0.05, "
        "more --epochs, or --epochs 0 to keep the network as it was right after the cut."
    )
    assert distinct_warnings({0: events}) == []  # trained from fresh weights
    found = {"event": "rate", "job": done["job"], "lr": 0.003}
    [told] = distinct_warnings({0: [*events, found]})
    assert "give a --tuning-lr below 0.003, " in told
    done["test_accuracy"] = after - 0.005
    assert distinct_warnings({0: events}, 0.05) == []
