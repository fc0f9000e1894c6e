"""The events of a run of `ramify prune`, made up without training anything."""

from collections.abc import Mapping
from typing import Any

FULL = {"conv1": 8, "conv2": 12, "head": 10}
SMALL = ({"conv1": 4, "conv2": 9, "head": 10}, {"conv1": 2, "conv2": 9, "head": 10})
STEPS = 10

Events = list[dict[str, Any]]


def params(widths: Mapping[str, int]) -> int:
    return 100 * sum(widths.values())


def price(group: str, channel: int) -> float:
    """What a channel costs: in conv2 twice as much as in conv1, the first channel least."""
    return 0.001 * (channel + 1) * (2 if group == "conv2" else 1)


def cut_event(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, Any]:
    """A cut of the first channels of each layer; of the head none can go."""
    proposals = [
        {
            "group": group,
            "channel": channel,
            "copies": 0,
            "index": None,
            "score": -price(group, channel),
            "gain": -price(group, channel),
            "selected": channel < before[group] - after[group],
        }
        for group in ("conv1", "conv2")
        for channel in range(before[group] - 1)
    ]
    refitted = [
        {"name": "conv1.weight", "strength": None, "before": -1e-6, "after": -1e-6},
        {"name": "conv2.weight", "strength": 0.01, "before": 0.4, "after": 0.02},
        {"name": "head.weight", "strength": 0.1, "before": 0.1, "after": 0.05},
    ]
    return {
        "event": "edit",
        "widths_before": dict(before),
        "widths_after": dict(after),
        "params_before": params(before),
        "params_after": params(after),
        "macs_before": 64 * params(before),
        "macs_after": 64 * params(after),
        "test_accuracy_before": 0.95,
        "test_accuracy_after": 0.9,
        "loss_before": 0.1,
        "loss_after": 0.14,
        "predicted_gain": -0.05,
        "proposals": proposals,
        "origin": {name: list(range(before[name] - n, before[name])) for name, n in after.items()},
        "held": True,
        "warnings": [],
        "refitted": refitted,
        "floors": {"conv1": 2, "conv2": 2, "head": 1},
    }


def cut_run(
    seed: int = 0, *, rounds: int = 1, search: bool = False, given: bool = False, old: bool = False
) -> Events:
    """The events of one seed.

    `search`: it scored its channels in training; `given`: the full network was not trained here;
    `old`: as earlier versions wrote it, the cut at the end of the search.
    """
    events: Events = []

    def tell(arm: str, event: dict[str, Any], step: int) -> None:
        tags = {"job": f"{arm}-{seed}", "arm": arm, "seed": seed, "t": float(len(events))}
        events.append({**tags, "round": 0, "step": step, **event})

    def train(arm: str, accuracy: float, widths: Mapping[str, int], step: int) -> int:
        for epoch in range(2):
            step += STEPS
            event = {"event": "epoch", "epoch": epoch, "test_accuracy": accuracy}
            tell(arm, event | {"params": params(widths), "macs": 64 * params(widths)}, step)
        return step

    def finish(arm: str, accuracy: float, widths: Mapping[str, int], step: int) -> None:
        tell(arm, {"event": "stop", "reason": "rounds", "budget": None}, step)
        sizes = {"params": params(widths), "macs": 64 * params(widths), "steps": step}
        result = {"event": "result", "test_accuracy": accuracy, "test_loss": 0.2, "seconds": 1.0}
        tell(arm, result | sizes, step)
        del events[-1]["step"]  # as a run writes it

    step = 0 if given else train("baseline", 0.95, FULL, 0)
    finish("baseline", 0.95, FULL, step)
    if search:
        step = train("scored", 0.94, FULL, 0)
        if old:
            new = ("held", "warnings", "refitted", "floors")
            edit = {k: v for k, v in cut_event(FULL, SMALL[0]).items() if k not in new}
            tell("scored", edit, step)
        finish("scored", 0.94, FULL, step)
    before, step = FULL, 0
    for after in SMALL[:rounds]:
        if not old:
            tell("pruned", cut_event(before, after), step)
        before, step = after, train("pruned", 0.92, after, step)
    finish("pruned", 0.93, before, step)
    return events


def sensitivity_event(seed: int = 0) -> dict[str, Any]:
    """The loss against the share cut of two layers."""
    groups = {"conv1": [[0.25, 0.2], [0.5, 0.4]], "conv2": [[0.25, 0.1], [0.5, 9.0]]}
    tags = {"job": f"pruned-{seed}", "arm": "pruned", "seed": seed}
    return {"event": "sensitivity", **tags, "loss": 0.1, "groups": groups}
