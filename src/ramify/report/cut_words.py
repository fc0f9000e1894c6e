"""Texts and numbers on the page of a run of ``ramify prune``."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ramify.commands.prune_lines import found_rates, harm
from ramify.data import Metric
from ramify.errors import in_digits
from ramify.report.cut_events import Layer, arm_of, refitted_layers
from ramify.report.events import Event, measured_gain, metric_of, of_kind, value_of
from ramify.report.headline import Tile, counted
from ramify.report.tables import short, statistic

_WHEN = ("before", "after")


def cut_tiles(seeds: Mapping[int, Sequence[Event]], fresh: bool) -> list[Tile]:
    """The headline numbers of a run that cuts.

    Args:
        seeds: the events of each seed.
        fresh: whether the cut shape was trained from scratch, so that there are no measurements
            right after the cut.

    Returns:
        The numbers that the events contain.
    """
    cuts = [own for events in seeds.values() if (own := of_kind(events, "edit"))]
    found = [_tuned(seeds), None if fresh else _right_after(cuts)]
    found += [_left(cuts, "params", "parameters"), _left(cuts, "macs", "MACs")]
    found += [_timed(cuts), None if fresh else _loss(cuts)]
    return [tile for tile in found if tile is not None]


def _tuned(seeds: Mapping[int, Sequence[Event]]) -> Tile | None:
    """The final metric, compared with that of the full network."""
    now, full = list[float](), list[float]()
    for events in seeds.values():
        own = {arm: [e for e in events if arm_of(e) == arm] for arm in ("baseline", "pruned")}
        done, cuts = of_kind(own["pruned"], "result"), of_kind(events, "edit")
        before = [value_of(e) for e in of_kind(own["baseline"], "result")]
        before += [value for e in cuts if (value := _around(e, "before")) is not None]
        if done and of_kind(own["pruned"], "epoch"):
            now.append(value_of(done[-1]))
            full += before[:1]
    metric = metric_of(event for events in seeds.values() for event in events)
    return _against(now, full, metric, "after fine-tuning") if now else None


def _right_after(cuts: Sequence[Sequence[Event]]) -> Tile | None:
    """The metric right after the last cut, compared with that just before it."""
    last = [own[-1] for own in cuts if _around(own[-1], "after") is not None]
    if not last:
        return None
    which = "the cut" if max(map(len, cuts)) == 1 else "the last cut"
    now, before = ([_around(cut, when) for cut in last] for when in ("after", "before"))
    return _against(now, before, metric_of(last), f"right after {which}")


def _around(cut: Event, when: str) -> Any:
    """The metric before or after a cut; None if it was not measured."""
    return cut.get(f"test_{Metric.of(cut).key}_{when}")


def _against(now: Sequence[float], before: Sequence[float], metric: Metric, when: str) -> Tile:
    stat, name = statistic(now), f"test {metric.words} {when}"
    value = metric.text(stat["mean"], stat["sd"])
    if len(before) != len(now):
        return Tile(value, name, "")
    old = statistic(before)
    change = metric.difference(stat["mean"], old["mean"])
    was = metric.text(old["mean"], old["sd"])
    # No line break between a number and its unit.
    return Tile(value, name, f"{change}, from {was}".replace(" %", "\xa0%"))


def _left(cuts: Sequence[Sequence[Event]], unit: str, name: str) -> Tile | None:
    """The remaining share of a resource."""
    own = [(cut[0], cut[-1]) for cut in cuts if cut[0].get(f"{unit}_before")]
    if not own:
        return None
    before = statistic([first[f"{unit}_before"] for first, _ in own])["mean"]
    after = statistic([last[f"{unit}_after"] for _, last in own])["mean"]
    share = f"{100 * after / before:.3g} %"
    return Tile(share, f"of the {name}", f"{short(before)} → {short(after)}")


def _timed(cuts: Sequence[Sequence[Event]]) -> Tile | None:
    """The remaining latency, if latency was the budget."""
    own = [(cut[0], cut[-1]) for cut in cuts if "latency_before" in cut[0]]
    if not own:
        return None
    before = statistic([first["latency_before"] for first, _ in own])["mean"]
    after = statistic([last["latency_after"] for _, last in own])["mean"]
    note = f"{in_digits(before)} → {in_digits(after)} ms, measured"
    return Tile(f"{100 * after / before:.3g} %", "of the latency", note)


def _loss(cuts: Sequence[Sequence[Event]]) -> Tile | None:
    """The loss before and after the last cut."""
    last = [own[-1] for own in cuts if None not in (own[-1]["loss_before"], own[-1]["loss_after"])]
    if not last:
        return None
    before, after = (statistic([cut[f"loss_{when}"] for cut in last])["mean"] for when in _WHEN)
    rise, note = _signed(after - before), ""
    expected = [cut["predicted_gain"] for cut in last]
    if None not in expected:
        note = f", {_signed(-statistic(expected)['mean'])} predicted"
    which = "the cut" if max(map(len, cuts)) == 1 else "the last cut"
    return Tile(f"{before:.3g} → {after:.3g}", f"loss at {which}", f"{rise} measured{note}")


# ------------------------------------------------------------------ the cuts


def distinct_warnings(
    seeds: Mapping[int, Sequence[Event]], tuning_lr: float | None = None
) -> list[str]:
    """The warnings of cuts and fine-tuning, each once, with the networks that it concerns.

    Args:
        seeds: the events of each seed.
        tuning_lr: the learning rate of the fine-tuning; None if it was found by trials, is not
            known, or if the network was trained from scratch.

    Returns:
        Whole sentences.
    """
    found: dict[str, dict[str, None]] = {}
    for events in seeds.values():
        for cut in of_kind(events, "edit"):
            for warning in cut.get("warnings", []):
                found.setdefault(_sentence(warning), {})[str(cut["job"])] = None
        rates = found_rates(events)
        for done in of_kind(events, "result"):
            cuts = [cut for cut in of_kind(events, "edit") if cut["job"] == done["job"]]
            rate = rates.get(done["job"], tuning_lr)
            told = harm(cuts[-1], done, rate) if cuts and rate else None
            if told:
                found.setdefault(_sentence(told.replace("->", "→")), {})[str(done["job"])] = None
    one = len(seeds) == 1
    return [text if one else f"{', '.join(jobs)}: {text}" for text, jobs in found.items()]


def _sentence(text: str) -> str:
    """A text with an initial capital and a final full stop."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def outcome(cuts: Sequence[Event]) -> str:
    """The predicted and measured effect of the cuts, in a sentence or two.

    Args:
        cuts: the edits of the run, of all seeds.

    Returns:
        The sentences; empty if no loss was measured.
    """
    rises = [(cut, cut["loss_after"] - cut["loss_before"]) for cut in cuts if _measured(cut)]
    if not rises:
        return ""
    ratios = [gain / cut["predicted_gain"] for cut in cuts if (gain := _ratio_gain(cut))]
    held = all(cut.get("held", False) for cut, _ in rises)
    if len(rises) == 1:
        [(cut, rise)] = rises
        way = "rose" if rise >= 0 else "fell"
        text = f"The loss {way} by {abs(rise):.3g} at the cut, from {cut['loss_before']:.3g} to "
        text += f"{cut['loss_after']:.3g}"
        if cut["predicted_gain"] is not None:
            text += f"; a rise of {-cut['predicted_gain']:.3g} was predicted"
    else:
        low, high = min(rise for _, rise in rises), max(rise for _, rise in rises)
        text = f"At the {len(rises)} cuts the loss rose by {low:.3g} to {high:.3g}"
        if ratios:
            text += f", {min(ratios):.2g} to {max(ratios):.2g} times as much as was predicted"
    where = "samples not used for the cut" if held else "the samples used for the cut"
    return f"{text}. It was measured on {where}, right after the cut and before any fine-tuning."


def _measured(cut: Event) -> bool:
    return None not in (cut["loss_before"], cut["loss_after"])


def _ratio_gain(cut: Event) -> float | None:
    """The measured gain, if it can be divided by the predicted one."""
    return measured_gain(cut) if cut["predicted_gain"] else None


def outcome_table(
    seeds: Mapping[int, Sequence[Event]], tuning_lr: float | None = None
) -> tuple[list[str], list[list[str]]]:
    """The predicted and measured effect of each cut, and the learning rate of fine-tuning after it.

    Args:
        seeds: the events of each seed.
        tuning_lr: as in `distinct_warnings`.

    Returns:
        The column heads, and a row for each cut; empty columns are left out.
    """
    heads = ["network", "loss before", "loss after", "rise measured", "rise predicted", "ratio"]
    metric = metric_of(event for events in seeds.values() for event in events)
    heads += [f"{metric.words} before", f"{metric.words} after", "learning rate"]
    rows = []
    for events in seeds.values():
        cuts = of_kind(events, "edit")
        for number, cut in enumerate(cuts, start=1):
            name = cut["job"] if len(cuts) == 1 else f"{cut['job']}, cut {number}"
            gain, expected = _ratio_gain(cut), cut["predicted_gain"]
            row = [name, *(_brief(cut[f"loss_{when}"]) for when in _WHEN)]
            row.append(_signed(cut["loss_after"] - cut["loss_before"]) if _measured(cut) else "")
            row.append("" if expected is None else _signed(-expected))
            row.append("" if gain is None else f"× {_brief(gain / expected, '.2g')}")
            values = [_around(cut, when) for when in _WHEN]
            row += ["" if value is None else metric.text(value) for value in values]
            later = [event for event in events if event["job"] == cut["job"]]
            found = [rate for rate in of_kind(later, "rate") if rate["step"] == cut["step"]]
            given = tuning_lr if of_kind(later, "epoch") else None
            row.append(_brief(found_rates(found).get(cut["job"], given), "g"))
            rows.append(row)
    return _known(heads, rows)


def layer_table(layers: Iterable[Layer]) -> tuple[list[str], list[list[str]]]:
    """The channels that each layer kept, and the costs of its last removed channel and the next.

    Args:
        layers: the layers of one network.

    Returns:
        The column heads, and a row for each layer.
    """
    heads = ["layer", "channels", "left", "floor", "last removed", "next to be removed"]
    rows = []
    for layer in layers:
        floor = "" if layer.floor is None else f"{layer.floor}"
        floor += ", reached" if layer.floor is not None and layer.after <= layer.floor else ""
        share = f"{100 * layer.after / layer.before:.3g} %"
        costs = [_brief(layer.taken), _brief(layer.left)]
        rows.append([layer.group, f"{layer.before} → {layer.after}", share, floor, *costs])
    return _known(heads, rows)


def _known(heads: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """A table without its empty columns."""
    kept = [k for k in range(len(heads)) if any(row[k] for row in rows)]
    return [heads[k] for k in kept], [[row[k] for k in kept] for row in rows]


def layers_sentence(cuts: Sequence[Event], layers: Sequence[Layer]) -> str:
    """The number of removed channels, the removed blocks, and the layers that stand out."""
    gone = sum(layer.before - layer.after for layer in layers)
    text = f"{counted(gone, 'channel')} of {sum(layer.before for layer in layers):,} removed"
    text += f" in {counted(len(cuts), 'cut')}."
    dropped = [str(block) for cut in cuts for block in cut.get("drops", ())]
    if dropped:
        text += f" {counted(len(dropped), 'block')} removed: {', '.join(dropped)}."
    whole = sum(layer.before == layer.after for layer in layers)
    text += f" {counted(whole, 'layer')} unchanged." if whole else ""
    bound = [x.group for x in layers if x.floor is not None and x.after <= x.floor < x.before]
    if bound:
        named = f"{', '.join(bound[:6])}{' and others' if len(bound) > 6 else ''}"
        text += f" At the floor: {named}."
    fixed = len(cuts[0]["widths_before"]) - len(layers)
    text += f" Not shown: {counted(fixed, 'layer')} that cannot be cut." if fixed else ""
    return text


def refit_sentence(cuts: Sequence[Event]) -> str:
    """How much of the layers' output error the refit removed; empty without a refit."""
    readers = [reader for cut in cuts for reader in refitted_layers(cut)]
    if not readers:
        return ""
    before, after = (
        math.exp(statistic([math.log(max(getattr(one, when), 1e-9)) for one in readers])["mean"])
        for when in _WHEN
    )
    untouched = sum(len(cut.get("refitted", [])) for cut in cuts) - len(readers)
    text = f"{counted(len(readers), 'layer')} refitted: the geometric mean of the error fell from "
    text += f"{100 * before:.3g} % to {100 * after:.3g} %."
    text += f" {counted(untouched, 'layer')} needed no refit." if untouched else ""
    return text


def _signed(value: float, form: str = ".3g") -> str:
    """A number with its sign, such as '+0.0331' or '−1.39'."""
    return f"{value:+{form}}".replace("-", "−")


def _brief(value: float | None, form: str = ".3g") -> str:
    return "" if value is None else f"{value:{form}}".replace("-", "−")
