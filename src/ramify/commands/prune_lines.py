"""The lines that ``ramify prune`` prints about its phases while it runs."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ramify.commands.prune_accept import allows
from ramify.commands.prune_settings import PruneSettings
from ramify.data import Metric
from ramify.data.metric import LOSS
from ramify.errors import in_digits

PHASES = {"baseline": "full network", "scored": "search", "pruned": "fine-tuning"}
CHOOSING = "cut: choosing channels and refitting the layers that read them"
HARM = 0.01  # a loss in fine-tuning that is reported: absolute for shares, else relative
# Reports name Python settings; on the command line these are options.
OPTIONS = {
    "keep=": "--keep",
    "refit=True": "--refit",
    "several cuts": "several --rounds",
    "depth=True": "--depth",
}


def epoch_line(event: Mapping[str, Any], settings: PruneSettings) -> str:
    """The progress of a phase, and the metric of its network."""
    arm = event["arm"]
    epochs = {
        "baseline": settings.pretrain_epochs,
        "scored": settings.search_epochs,
        "pruned": settings.epochs,
    }
    place = f"{_phase(PHASES[arm], event, settings)}: epoch {event['epoch'] + 1} of {epochs[arm]}"
    if "loss_p" in event:
        return (
            f"{place}, losses on the two halves {event['loss_a']:#.4g} and {event['loss_p']:#.4g}"
        )
    return f"{place}, {_worth(event)}"


def edit_lines(event: Mapping[str, Any], settings: PruneSettings) -> list[str]:
    """The effect of a cut, its prediction, and warnings for the user."""
    head = _phase("cut", event, settings)
    gone = sum(proposal["selected"] for proposal in event["proposals"])
    groups = {proposal["group"] for proposal in event["proposals"]}
    channels = sum(event["widths_before"][group] for group in groups)
    lines = [
        f"{head}: pruned {gone} of {channels} channels, "
        f"{event['params_before']:,} -> {event['params_after']:,} parameters, "
        f"{event['macs_before']:,} -> {event['macs_after']:,} MACs, {_milliseconds(event)}"
        f"test {Metric.of(event).words} "
        f"{_change(event, 'test')} before fine-tuning",
        f"{head}: {_loss(event)}",
    ]
    if drops := event.get("drops"):
        lines.append(f"{head}: dropped {len(drops)} blocks, {', '.join(drops)}")
    if allowed := event.get("accept"):
        lines.append(f"{head}: {_judged(event, allowed)}")
    for sentence in event.get("warnings", ()):
        for word, option in OPTIONS.items():
            sentence = sentence.replace(word, option)
        lines.append(f"warning: {sentence}.")
    return lines


def result_lines(event: Mapping[str, Any], settings: PruneSettings) -> list[str]:
    """The result of a phase."""
    name = {**PHASES, "pruned": "small network"}[event["arm"]]
    return [
        f"{_phase(name, event, settings)}: finished, {_worth(event)}, {event['steps']:,} steps in "
        f"{event['seconds']:.0f} s"
    ]


def harm(cut: Mapping[str, Any], result: Mapping[str, Any], tuning_lr: float) -> str | None:
    """Advice if fine-tuning left a network clearly worse than it was after its last cut.

    Args:
        cut: The event of the last edit of the network.
        result: The final result of the network.
        tuning_lr: The learning rate of the fine-tuning.

    Returns:
        A sentence without its full stop; None if fine-tuning did no harm, or this is not known.
    """
    metric = Metric.of(result)
    name = f"test_{metric.key}"
    before, after = cut.get(f"{name}_after"), result.get(name)
    if before is None or after is None or not result["steps"]:
        return None
    slack = HARM if metric.percent else HARM * abs(before)
    if metric.worth(before) - metric.worth(after) <= slack:
        return None
    return (
        f"fine-tuning made the network worse than it was right after the cut, test {metric.words} "
        f"{metric.change(before, after)}: {_gentler(tuning_lr)}"
    )


def _gentler(tuning_lr: float) -> str:
    """What to do if fine-tuning does harm."""
    return (
        f"give a --tuning-lr below {tuning_lr:g}, more --epochs, or --epochs 0 to keep the network "
        "as it was right after the cut"
    )


def harm_lines(
    event: Mapping[str, Any],
    cut: Mapping[str, Any] | None,
    settings: PruneSettings,
    tuning_lr: float,
) -> list[str]:
    """A warning if the network that just finished was better before its fine-tuning."""
    if event["event"] != "result" or event["arm"] != "pruned" or settings.from_scratch or not cut:
        return []
    told = harm(cut, event, tuning_lr)
    return [f"warning: {_phase('small network', event, settings)}: {told}."] if told else []


def stop_lines(event: Mapping[str, Any], settings: PruneSettings) -> list[str]:
    """The final metric of the small network on the samples that judged the cuts."""
    metric = Metric.of(event)
    if f"held_{metric.key}" not in event:
        return []
    return [
        f"{_phase('small network', event, settings)}: {metric.words} on the held-out "
        f"samples {metric.text(event[f'held_{metric.key}'])}, loss {event['held_loss']:#.3g}"
    ]


def allowance_lines(
    event: Mapping[str, Any],
    cut: Mapping[str, Any] | None,
    settings: PruneSettings,
    tuning_lr: float,
) -> list[str]:
    """A warning if fine-tuning left the small network with more loss than `--accept` allows."""
    metric, broken = Metric.of(event), list[str]()
    tuned = event["event"] == "stop" and event["arm"] == "pruned" and settings.epochs > 0
    if not (tuned and cut and cut.get("accept") and settings.rounds == 1):
        return []
    for one in dict.fromkeys((metric, LOSS)):
        name, allowed = f"held_{one.key}", cut["accept"].get(one.key)
        if allowed is None or name not in event or f"{name}_before" not in cut:
            continue
        before, after = cut[f"{name}_before"], event[name]
        if not allows(allowed, one, before, after):
            broken.append(f"{one.words} {one.change(before, after)} ({allowed:+g} allowed)")
    if not broken:
        return []
    return [
        f"warning: {_phase('small network', event, settings)}: after fine-tuning it is worse on "
        f"the held-out samples than --accept allows, {'; '.join(broken)}: "
        f"{_gentler(tuning_lr)}."
    ]


def found_rates(events: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The learning rate of fine-tuning that trials found for each job, the last one of several."""
    return {event["job"]: event["lr"] for event in events if event["event"] == "rate"}


def rate_lines(event: Mapping[str, Any], settings: PruneSettings) -> list[str]:
    """The learning rate that was found for fine-tuning, and the trials."""
    tried = ", ".join(
        f"{'not finite' if loss is None else format(loss, '#.3g')} at {lr:g}"
        for lr, loss in event["trials"]
    )
    return [
        f"{_phase('fine-tuning', event, settings)}: learning rate {event['lr']:g}, found by trials "
        f"of {event['trial_steps']} steps: loss {event['loss']:#.3g} -> {tried}"
    ]


def sensitivity_lines(event: Mapping[str, Any], settings: PruneSettings) -> list[str]:
    """The groups whose loss rises least and most when half of only that group is removed."""
    rises = {
        name: min(rows, key=lambda row: abs(row[0] - 0.5))[1] - event["loss"]
        for name, rows in event["groups"].items()
        if rows
    }
    if not rises:
        return []
    low, high = min(rises, key=rises.__getitem__), max(rises, key=rises.__getitem__)
    return [
        f"sensitivity: removing half of '{low}' alone raises the loss by {rises[low]:#.3g}, "
        f"half of '{high}' by {rises[high]:#.3g}; the report shows all {len(rises)} groups"
    ]


LINES: dict[str, Callable[[Mapping[str, Any], PruneSettings], list[str]]] = {
    "edit": edit_lines,
    "rate": rate_lines,
    "sensitivity": sensitivity_lines,
    "stop": stop_lines,
    "result": result_lines,
}


def is_cut_next(event: Mapping[str, Any], settings: PruneSettings) -> bool:
    """Whether a cut follows an event."""
    if event["event"] == "result":
        return settings.arms()[-2:] == (event["arm"], "pruned")
    ended = event["event"] == "epoch" and event["arm"] == "pruned"
    last = ended and event["epoch"] + 1 == settings.epochs
    return bool(last and event["round"] + 1 < settings.rounds)


def _phase(name: str, event: Mapping[str, Any], settings: PruneSettings) -> str:
    """The name of a phase, with the round and the seed if there are several."""
    rounds = settings.rounds
    place = (
        f" {event['round'] + 1} of {rounds}"
        if rounds > 1 and name in ("cut", "fine-tuning")
        else ""
    )
    return f"{name}{place}" + (f", seed {event['seed']}" if settings.seeds > 1 else "")


def _worth(event: Mapping[str, Any]) -> str:
    metric = Metric.of(event)
    return (
        f"test {metric.words} {metric.text(event[f'test_{metric.key}'])}, {event['params']:,} "
        f"parameters, {event['macs']:,} MACs"
    )


def _milliseconds(event: Mapping[str, Any]) -> str:
    """The latency before and after a cut to a latency budget; empty for other budgets."""
    if "latency_before" not in event:
        return ""
    before, after = in_digits(event["latency_before"]), in_digits(event["latency_after"])
    return f"{before} -> {after} ms, "


def _change(event: Mapping[str, Any], which: str) -> str:
    """The metric before and after a cut, on the test samples or the held-out samples."""
    metric = Metric.of(event)
    name = f"{which}_{metric.key}"
    return metric.change(event[f"{name}_before"], event[f"{name}_after"])


def _loss(event: Mapping[str, Any]) -> str:
    """The rise of the loss, as predicted and as measured."""
    before, after, gain = event["loss_before"], event["loss_after"], event["predicted_gain"]
    predicted = "" if gain is None else f"predicted {-gain:+.3g}, "
    number = event.get("held_samples")
    count = "" if number is None else f"{number:,} "
    samples = "sample" if number == 1 else "samples"
    which = (
        f"{count}{samples} not used for the cut"
        if event["held"]
        else "the samples used for the cut"
    )
    return (
        f"loss {predicted}measured {after - before:+.3g} ({before:#.3g} -> {after:#.3g}) on {which}"
    )


def _judged(event: Mapping[str, Any], allowed: Mapping[str, float]) -> str:
    """The allowance of a cut, and the measured change."""
    words, metric = [], Metric.of(event)
    if metric.key in allowed and metric != LOSS:
        words.append(f"{metric.words} {_change(event, 'held')} ({allowed[metric.key]:g} allowed)")
    if "loss" in allowed:
        words.append(
            f"loss {event['held_loss_before']:#.3g} -> {event['held_loss_after']:#.3g} "
            f"({allowed['loss']:+g} allowed)"
        )
    return (
        f"{'; '.join(words)}, on {event['held_samples']:,} samples that this run does not train on"
    )
