"""Growth with and without depth on CIFAR-10, from a ResNet with one block per stage.

    RAMIFY_DATA=FOLDER python -m benchmarks.grow_depth [--seeds 0 ...] [--starts 1] [--images 4000]
        [--total 14] [--every 2] [--budget 20000] [--width 4] [--method s2d] [--out FILE]

`widths` and `depth` grow the network to `--budget` parameters in `--total` epochs, with an edit
every `--every` epochs; `depth` may also insert blocks. Their shapes, and a uniformly wide network
with as many parameters, are then trained from scratch `--starts` times, each for as many epochs as
cost the MACs of training the `depth` network; its trials of blocks are reported separately.
Rows are kept in FILE, and growth in a checkpoint next to it, so that an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ramify
from benchmarks.rows import add_rows, mean_and_error, read_rows
from ramify.cost import model_cost
from ramify.data import load
from ramify.methods.registry import method_named
from ramify.models.resnet import build_staged
from ramify.store.model import recipe_of
from ramify.train.depth_rounds import STEPS
from ramify.train.epoch import Training, cross_entropy, evaluate
from ramify.train.fresh_networks import scratch, wide
from ramify.train.grow import grow
from ramify.train.loop import train

Batch = tuple[Tensor, Tensor]
Row = dict[str, Any]
SIZE, DECAY = 128, 5e-4
ARMS = ("depth", "widths", "depth-scratch", "widths-scratch", "wide")
SETTINGS: dict[str, dict[str, Any]] = {
    "gradmax": {"lr": 0.1},
    "s2d": {"step": 0.1, "unit": "kernel"},
    "random": {"step": 0.1, "unit": "kernel"},
}


class Images:
    """Some of the training images, and all test images."""

    def __init__(self, count: int) -> None:
        whole = load("cifar10")
        order = torch.randperm(len(whole.y_train), generator=torch.Generator().manual_seed(0))
        self.x, self.y = whole.x_train[order[:count]], whole.y_train[order[:count]]
        self.test = list(zip(whole.x_test.split(1000), whole.y_test.split(1000), strict=True))

    def epochs(self, seed: int) -> Callable[[int], Sequence[Batch]]:
        """The batches of an epoch, with half of the images mirrored."""

        def batches(epoch: int) -> list[Batch]:
            generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
            order = torch.randperm(len(self.y), generator=generator)
            turned = torch.randint(2, self.y.shape, generator=generator).bool()
            found = []
            for part in order.split(SIZE):
                x = self.x[part]
                x = torch.where(turned[part].view(-1, 1, 1, 1), x.flip(3), x)
                found.append((x, self.y[part]))
            return found

        return batches

    def score(self, model: nn.Module) -> Row:
        """Test accuracy in per cent, and test loss."""
        loss, accuracy = evaluate(model, self.test)
        return {"accuracy": 100 * accuracy, "loss": loss}


def grown(images: Images, arm: str, seed: int, options: argparse.Namespace) -> Row:
    """Grow a network, and return its scores and its recipe."""
    torch.manual_seed(seed)
    model = build_staged(width=options.width)
    done = grow(
        model,
        images.x[:1],
        cross_entropy,
        images.epochs(seed),
        method=method_named(options.method, seed=seed, settings=SETTINGS[options.method]),
        rule=ramify.TopFraction(options.fraction),
        training=Training(options.every, weight_decay=DECAY, span="run"),
        rounds=options.total // options.every - 1,
        budget={"params": options.budget},
        probe=list(images.epochs(seed)(-1))[:8],
        depth=arm == "depth",
        checkpoint=options.out.with_name(f"{arm}-{seed}.checkpoint"),
        log=lambda event: print(_line(arm, event), flush=True),
    )
    edits = [event for event in done.history if event["event"] == "edit"]
    macs = sum(event["macs"] for event in done.history if event["event"] == "epoch")
    # Of each trial, the network as it was with nothing, the widths or a block.
    weighed = [(edit["macs_before"], edit.get("blocks")) for edit in edits]
    runs = sum(macs * (2 + len(blocks["tried"])) for macs, blocks in weighed if blocks)
    return {
        "recipe": recipe_of(model),
        "macs_trained": macs,
        "macs_tried": runs * STEPS * SIZE / len(images.y),
        "seconds": done.history[-1]["t"],
        "weighed": [edit.get("blocks") for edit in edits],
        **_shape(model),
        **images.score(model),
    }


def _line(arm: str, event: Row) -> str:
    keys = ("round", "epoch", "train_loss", "params_after", "loss_before", "loss_after", "blocks")
    return f"{arm} {event['event']} " + str({key: event[key] for key in keys if key in event})


def fresh(images: Images, model: nn.Module, seed: int, macs_trained: float) -> Row:
    """The scores of a network trained from scratch at the same training cost."""
    epochs = max(1, round(macs_trained / model_cost(model, images.x[:1]).macs))
    training = Training(epochs, weight_decay=DECAY)
    done = train(model, images.x[:1], cross_entropy, images.epochs(seed), training=training)
    macs = sum(event["macs"] for event in done.history if event["event"] == "epoch")
    own = {"epochs": epochs, "macs_trained": macs, "seconds": done.history[-1]["t"]}
    return own | _shape(model) | images.score(model)


def _shape(model: nn.Module) -> Row:
    """Parameters, and the widths of each stage: its stream, then the insides of its blocks."""
    widths = {
        name: one.out_channels for name, one in model.named_modules() if isinstance(one, nn.Conv2d)
    }
    stages = []
    for stage in ("stage1", "stage2", "stage3"):
        own = {name: width for name, width in widths.items() if name.startswith(stage)}
        stages.append([width for name, width in own.items() if not name.endswith("conv2")])
    cost = model_cost(model, torch.zeros(1, 3, 32, 32))
    return {"params": cost.params, "macs": cost.macs, "stages": stages}


def run(images: Images, arm: str, seed: int, start: int, rows: Sequence[Row], options: Any) -> Row:
    """One arm with one seed; arms from scratch need the rows of `depth` and `widths`."""
    if arm in ("depth", "widths"):
        return grown(images, arm, seed, options)
    made = {row["arm"]: row for row in rows if (row["seed"], row["start"]) == (seed, 0)}
    torch.manual_seed(1000 * (1 + start) + seed)
    build = lambda: build_staged(width=options.width)  # noqa: E731
    if arm == "wide":
        model: nn.Module = wide(build, images.x[:1], options.budget)
    else:
        model = scratch(build, made[arm.removesuffix("-scratch")]["recipe"])
    return fresh(images, model, 1000 * start + seed, made["depth"]["macs_trained"])


def table(rows: Sequence[Row]) -> str:
    """Means and standard errors over seeds as Markdown."""
    heads = ["network", "runs", "test accuracy, %", "test loss", "parameters", "MACs"]
    heads += [
        "training, TMACs",
        "trials of blocks",
        "seconds",
        "stream and insides of the blocks, by stage",
    ]
    lines = [" | ".join(heads), " | ".join(["---"] * len(heads))]
    for arm in ARMS:
        own = [row for row in rows if row["arm"] == arm]
        if not own:
            continue
        mean = {key: statistics.mean(r[key] for r in own) for key in ("params", "macs", "seconds")}
        trained = statistics.mean(row["macs_trained"] * row["images"] for row in own)
        cells = [arm, str(len(own)), mean_and_error([row["accuracy"] for row in own])]
        cells += [f"{statistics.mean(row['loss'] for row in own):.3f}", f"{mean['params']:,.0f}"]
        tries = statistics.mean(row.get("macs_tried", 0) * row["images"] for row in own)
        cells += [f"{mean['macs'] / 1e6:.2f} M", f"{trained / 1e12:.3f}", f"{tries / 1e12:.3f}"]
        cells.append(f"{mean['seconds']:.0f}")
        cells.append("; ".join(dict.fromkeys(str(row["stages"]) for row in own)))
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


KEY = ("images", "total", "every", "budget", "width", "method", "fraction")


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--starts", type=int, default=1, help="from scratch")
    parser.add_argument("--images", type=int, default=4_000)
    parser.add_argument("--total", type=int, default=14, help="epochs in all")
    parser.add_argument("--every", type=int, default=2, help="epochs between edits")
    parser.add_argument("--budget", type=int, default=20_000, help="parameters")
    parser.add_argument("--width", type=int, default=4, help="of the first stage at first")
    parser.add_argument("--method", choices=SETTINGS, default="s2d")
    parser.add_argument("--fraction", type=float, default=0.25, help="of channels, in each edit")
    parser.add_argument("--out", type=Path, default=Path("runs/grow_depth/rows.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    images, key = Images(options.images), {name: getattr(options, name) for name in KEY}
    rows = [row for row in read_rows(options.out) if all(row[k] == key[k] for k in KEY)]
    for seed in options.seeds:
        jobs = [(arm, 0) for arm in ARMS]
        jobs += [(arm, start) for start in range(1, options.starts) for arm in ARMS[2:]]
        for arm, start in jobs:
            own = {"arm": arm, "seed": seed, "start": start, **key}
            if any(all(row[name] == value for name, value in own.items()) for row in rows):
                continue
            rows.append(own | run(images, arm, seed, start, rows, options))
            add_rows(options.out, rows[-1:])
    print(table(rows))


if __name__ == "__main__":
    main()
