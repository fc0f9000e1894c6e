"""The measured gain of widening each layer of a half-trained network, against predictions.

    RAMIFY_DATA=FOLDER python -m benchmarks.oracle [--data cifar10 mnist] [--seeds 0 1 2 ...]
        [--methods S2D Gauss-Newton GradMax random] [--repeats 3] [--warm 400] [--steps 200]
        [--share 0.5] [--out FILE]

A VGG of narrow layers is trained for `--warm` steps of 64 images. Then one layer at a time gets
the same number of new channels, a `--share` of those of the narrowest layer, by a method's best
edits for it, and the network trains for `--steps` further steps while its learning rate falls to 0.
The measured gain of the edits is the loss on 3,000 held-out images below that of the network
trained without widening on the same batches. A method's ranking of the layers is judged by
Spearman's rank correlation between its predictions, summed over the edits, and the measured gains;
beside them are the ranking of the layers by their widths, and that by the rise of the loss when a
channel is removed. The layers of `cifar10-uneven` have 2 to 16 channels, drawn for each seed.

Images are averaged over 2×2 pixels. Every training is a line of FILE, so that an interrupted run
resumes; the table shows means and standard errors over the seeds' networks, from all lines in it.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

import ramify
from benchmarks.growing_tasks import drawn, vgg
from benchmarks.rows import add_rows, mean_and_error, read_rows
from ramify.cost import CostModel
from ramify.data import load
from ramify.methods.registry import method_named
from ramify.probe.loss import mean_loss
from ramify.train.epoch import Training, cross_entropy, make_optimizer, train_epoch
from ramify.train.norm_statistics import recompute_statistics

Batch = tuple[Tensor, Tensor]
Row = dict[str, Any]
NETS: dict[str, tuple[str, tuple[int, ...] | None, tuple[int, ...]]] = {
    "cifar10": ("cifar10", (8, 8, 8, 8, 8, 8), (1, 3)),
    "cifar10-uneven": ("cifar10", None, (1, 3)),
    "mnist": ("mnist", (4, 6, 8, 6, 4), (0, 2)),
}
"""The data, the widths (drawn if None), and the layers after which images are halved."""
SIZE, TRAINED, HELD, PROBED = 64, 20_000, 3_000, 2_048
STEP = {"step": 0.1, "unit": "kernel"}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "S2D": ("s2d", STEP),
    "Gauss-Newton": ("gauss-newton", {"epochs": 6, "morphisms": ("split",), "curvature": "fisher"}),
    "GradMax": ("gradmax", {}),
    "auto": ("auto", {}),
    "random": ("random", STEP),
}
WARM, AFTER = (
    Training(lr=0.1, weight_decay=5e-4, schedule="constant"),
    Training(lr=0.1, weight_decay=5e-4),
)


class Images:
    """Images of a data set at half the size, in three parts."""

    def __init__(self, name: str) -> None:
        whole = load(name)
        order = torch.randperm(len(whole.y_train), generator=torch.Generator().manual_seed(0))
        order = order[: TRAINED + HELD]
        x, y = F.avg_pool2d(whole.x_train[order], 2), whole.y_train[order]
        self.x, self.y = x[:TRAINED], y[:TRAINED]
        self.held = list(zip(x[TRAINED:].split(500), y[TRAINED:].split(500), strict=True))
        self.probe = list(zip(x[:PROBED].split(256), y[:PROBED].split(256), strict=True))

    def batches(self, seed: int, count: int) -> list[Batch]:
        """Random batches of training images."""
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(0, len(self.x), (count, SIZE), generator=generator)
        return [(self.x[part], self.y[part]) for part in drawn]


class Network:
    """A network in the middle of its training, which can be resumed from there many times."""

    def __init__(self, data: str, seed: int, options: argparse.Namespace) -> None:
        name, widths, pools = NETS[data]
        self.images = images(name)
        self.widths = widths or drawn(seed)
        self.key: Row = {"data": data, "seed": seed}
        self.key |= {name: getattr(options, name) for name in ("warm", "steps", "share")}
        torch.manual_seed(seed)
        self._model = vgg(self.images.x.shape[1], self.widths, pools)
        optimizer = make_optimizer(self._model, WARM)
        first = self.images.batches(1000 + seed, options.warm)
        train_epoch(self._model, cross_entropy, first, optimizer, lambda step: 1.0)
        self._state: dict[str, Any] = optimizer.state_dict()
        self.graph = ramify.trace(self._model, self.images.x[:1])
        self.groups = [group for group in self.graph.groups if group.can_split]
        self.proposals = cache(self._proposals)

    def _proposals(self, title: str) -> list[ramify.Proposal]:
        name, settings = METHODS[title]
        method = method_named(name, seed=self.key["seed"], settings=settings)
        return method.propose(self.graph, cross_entropy, self.images.probe)

    def best(self, title: str, group: str) -> list[ramify.Proposal]:
        """A method's best proposals for the new channels in a group."""
        own = [one for one in self.proposals(title) if one.edit.group == group]
        return own[: round(self.key["share"] * min(self.widths))]

    def later(self, edits: Sequence[ramify.Edit], repeat: int) -> float:
        """The loss on held-out images after the edited network has been trained further."""
        model = copy.deepcopy(self._model)
        optimizer: Optimizer = make_optimizer(model, AFTER)
        optimizer.load_state_dict(copy.deepcopy(self._state))
        if edits:
            graph = ramify.trace(model, self.images.x[:1])
            ramify.apply(graph, edits, optimizer=optimizer)
        steps = self.key["steps"]
        drawn = self.images.batches(1_000_000 * (1 + repeat) + self.key["seed"], steps)
        factor = lambda step: AFTER.factor(step, steps)  # noqa: E731
        train_epoch(model, cross_entropy, drawn, optimizer, factor)
        recompute_statistics(model, cross_entropy, drawn[-20:])
        return mean_loss(model, cross_entropy, self.images.held)


@cache
def images(data: str) -> Images:
    """Images, read once."""
    return Images(data)


def said(network: Network) -> Row:
    """Every method's prediction for each layer: its gains summed over the edits, and jointly."""
    found: Row = {"groups": [group.name for group in network.groups], "said": {}, "at once": {}}
    found["widths"] = network.widths
    worths = ramify.Bottlenecks().worths(network.graph, cross_entropy, network.images.probe)
    found["worth"] = [worths[group.name] for group in network.groups]
    trial = ramify.Trial(network.graph, cross_entropy, network.images.held)
    prices = CostModel(network.graph)
    for title in METHODS:
        best = [network.best(title, group.name) for group in network.groups]
        found["said"][title] = [sum(one.value for one in own) for own in best]
        edits = [[one.edit for one in own] for own in best]
        found["at once"][title] = [trial.decrease(own) for own in edits]
        costs = [prices.added(own) for own in edits]
        found["params"] = [cost.params for cost in costs]
        found["macs"] = [cost.macs for cost in costs]
    return found


def missing(
    network: Network, methods: Sequence[str], repeats: int, rows: Sequence[Row]
) -> Iterator[Row]:
    """The missing lines of a network, each as soon as it is known."""
    own = [row for row in rows if all(row[name] == value for name, value in network.key.items())]
    done = {(row["what"], row.get("group"), row.get("repeat")) for row in own}
    if ("said", None, None) not in done:
        yield network.key | {"what": "said"} | said(network)
    for repeat in range(repeats):
        if ("nothing", None, repeat) not in done:
            held = network.later([], repeat)
            yield network.key | {"what": "nothing", "repeat": repeat, "held": held}
        for title in methods:
            for group in network.groups:
                if (title, group.name, repeat) in done:
                    continue
                edits = [one.edit for one in network.best(title, group.name)]
                line = {"what": title, "group": group.name, "repeat": repeat}
                yield network.key | line | {"held": network.later(edits, repeat)}


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """The correlation of two rankings, or NaN if one ranks nothing."""
    if len(set(one)) == 1 or len(set(other)) == 1:
        return math.nan
    return float(spearmanr(one, other).statistic)


def decreases(own: Sequence[Row], title: str, repeats: Sequence[int]) -> list[float]:
    """The measured gain of widening each layer by a method's edits, averaged over repeats."""
    groups = next(row["groups"] for row in own if row["what"] == "said")
    held = {
        (row["what"], row.get("group"), row.get("repeat")): row.get("held", math.nan) for row in own
    }
    return [
        statistics.mean(held["nothing", None, n] - held[title, group, n] for n in repeats)
        for group in groups
    ]


KEY = ("data", "seed", "warm", "steps", "share")
"""The entries that identify a network and its training."""
RANKINGS = (
    "gain",
    "gain a parameter",
    "gain a MAC",
    "at once",
    "narrowest first",
    "worth of a channel",
)


def rankings(said: Row, title: str) -> list[list[float]]:
    """The layers' values by each of `RANKINGS`."""
    gain = said["said"][title]
    found = [gain]
    for cost in ("params", "macs"):
        found.append([one / price for one, price in zip(gain, said[cost], strict=True)])
    return [*found, said["at once"][title], [-width for width in said["widths"]], said["worth"]]


def correlations(own: Sequence[Row], title: str, repeats: int) -> list[float]:
    """By each ranking, with the decrease a unit of cost where it is by cost; then the noise."""
    said = next(row for row in own if row["what"] == "said")
    true = decreases(own, title, range(repeats))
    found = []
    for name, values in zip(RANKINGS, rankings(said, title), strict=True):
        cost = {"gain a parameter": said["params"], "gain a MAC": said["macs"]}.get(name)
        worth = true if cost is None else [t / c for t, c in zip(true, cost, strict=True)]
        found.append(spearman(values, worth))
    halves = [decreases(own, title, part) for part in (range(1), range(1, repeats))]
    return [*found, spearman(*halves)]


def table(rows: Sequence[Row], repeats: int) -> str:
    """Mean rank correlations as Markdown, over networks whose trainings are all known."""
    heads = [
        "data",
        "wider by",
        "edits by",
        "networks",
        "mean decrease",
        *RANKINGS,
        "one repeat by the others",
    ]
    lines = [" | ".join(heads), " | ".join(["---"] * len(heads))]
    keys = sorted({tuple(row[name] for name in KEY) for row in rows})
    nets = [[row for row in rows if tuple(row[name] for name in KEY) == key] for key in keys]
    for data, share in dict.fromkeys((own[0]["data"], own[0]["share"]) for own in nets):
        same = [own for own in nets if (own[0]["data"], own[0]["share"]) == (data, share)]
        for title in METHODS:
            part = [own for own in same if _is_whole(own, title, repeats)]
            if not part:
                continue
            worth = [statistics.mean(decreases(own, title, range(repeats))) for own in part]
            columns = zip(*(correlations(own, title, repeats) for own in part), strict=True)
            cells = [
                data,
                f"{100 * share:.0f} %",
                title,
                str(len(part)),
                f"{statistics.mean(worth):.4f}",
            ]
            lines.append(" | ".join([*cells, *map(mean_and_error, columns)]))
    return "\n".join(f"| {line} |" for line in lines)


def _is_whole(own: Sequence[Row], title: str, repeats: int) -> bool:
    """Whether all trainings with a method's edits, and without edits, are known."""
    said = [row for row in own if row["what"] == "said"]
    done = [row for row in own if row["what"] in ("nothing", title) and row["repeat"] < repeats]
    return bool(said) and len(done) == repeats * (1 + len(said[0]["groups"]))


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", nargs="+", choices=NETS, default=["cifar10"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--repeats", type=int, default=3, help="trainings of each edit")
    parser.add_argument("--warm", type=int, default=400, help="steps before the edit")
    parser.add_argument("--steps", type=int, default=200, help="steps behind it")
    parser.add_argument("--share", type=float, default=0.5, help="new channels, at most 1")
    parser.add_argument("--out", type=Path, default=Path("runs/oracle.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = read_rows(options.out)
    for data in options.data:
        for seed in options.seeds:
            for row in missing(
                Network(data, seed, options), options.methods, options.repeats, [*rows]
            ):
                add_rows(options.out, [row])
                rows.append(row)
    print(table(rows, options.repeats))


if __name__ == "__main__":
    main()
