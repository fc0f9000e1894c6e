"""The cost of `ramify.cut`: CPU time, memory, and how both scale.

    python -m benchmarks.cut_cost [--widths 0.25 0.5] [--batches 8 16] [--images 64] [--size 64]
    python -m benchmarks.cut_cost --widths 1 --batches 16 --size 224    # ResNet-50 as it is known
    python -m benchmarks.cut_cost --weights WEIGHTS --data DATA         # EfficientNet-Lite0

A ResNet-50 with random weights, its widths multiplied by each of `--widths`, is cut to half its
MACs twice: without and with a report, which refits on each half of the sample to predict the effect
on other samples. Memory is the peak of the process in the second cut above its memory before
(Linux). The table also shows the memory of one forward pass of a batch with gradients, and the
bytes of all Gram matrices, which are accumulated at the same time. The files are those of
`benchmarks.cut`, of which 256 images in batches of 32 are used.
"""

from __future__ import annotations

import argparse
import copy
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ramify
from ramify.cost import graph_cost
from ramify.refit import cut
from ramify.refit.curvature import FOLDS
from ramify.refit.readers import course_of
from ramify.tracing.recorder import record

Batches = list[tuple[Tensor, Tensor]]


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions added to a stream."""

    def __init__(self, before: int, inside: int, stride: int) -> None:
        super().__init__()
        after = 4 * inside
        self.convs = nn.Sequential(
            nn.Conv2d(before, inside, 1, bias=False),
            nn.BatchNorm2d(inside),
            nn.ReLU(inplace=True),
            nn.Conv2d(inside, inside, 3, stride, 1, bias=False),
            nn.BatchNorm2d(inside),
            nn.ReLU(inplace=True),
            nn.Conv2d(inside, after, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.short: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            self.short = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        """The stream after the block."""
        return torch.relu_(self.convs(x) + self.short(x))


def resnet50(width: float, classes: int = 100) -> nn.Module:
    """ResNet-50 with its widths multiplied."""
    inside = round(64 * width)
    layers: list[nn.Module] = [
        nn.Conv2d(3, inside, 7, 2, 3, bias=False),
        nn.BatchNorm2d(inside),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
    ]
    before = inside
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            own = inside * 2**stage
            layers.append(Bottleneck(before, own, 2 if stage and not block else 1))
            before = 4 * own
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes)]
    return nn.Sequential(*layers, *head)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy, one number per sample."""
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def peak_of(work: Callable[[], Any]) -> float:
    """The peak memory of the process during some work, above its present memory, in megabytes."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that from here on
    before = _status("VmRSS")
    work()
    return (_status("VmHWM") - before) / 1024


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def gram_megabytes(model: nn.Module, batch: tuple[Tensor, Tensor]) -> float:
    """The memory of the score's sums: for each reader (F, F) per fold, and (O, O)."""
    course = course_of(record(model, lambda: loss(model, batch), batch))
    sizes = [reader.entries.shape for reader in course.readers]
    return sum(8 * g * (FOLDS * f * f + o * o) for g, f, o in sizes) / 2**20


def row(name: str, model: nn.Module, batches: Batches) -> str:
    """The table's row of one network."""
    one = batches[0]
    forward = peak_of(lambda: loss(model, one).mean())
    grams = gram_megabytes(model, one)
    copied = copy.deepcopy(model)
    graph = ramify.trace(model, one[0][:1])
    budget = {"macs": 0.5 * graph_cost(graph).macs}
    plain, _ = taken(lambda: cut(graph, loss, batches, budget=budget))
    graph = ramify.trace(copied, one[0][:1])
    reported, peak = taken(lambda: cut(graph, loss, batches, budget=budget, log=list[Any]().append))
    images = sum(len(y) for _, y in batches)
    numbers = f"{plain:.0f} | {reported:.0f} | {peak:.0f} | {forward:.0f} | {grams:.0f}"
    return f"| {name} | {images} of {one[0].shape[-1]}² in {len(one[1])} | {numbers} |"


def taken(work: Callable[[], Any]) -> tuple[float, float]:
    """The CPU time of some work in seconds, and its peak memory in megabytes."""
    began = time.process_time()
    peak = peak_of(work)
    return time.process_time() - began, peak


def drawn(width: float, batch: int, images: int, size: int) -> tuple[nn.Module, Batches]:
    """A ResNet-50 whose norms have seen data, and random images."""
    torch.manual_seed(0)
    model = resnet50(width)
    x, y = torch.randn(images, 3, size, size), torch.randint(0, 100, (images,))
    with torch.no_grad():
        for part in x.split(batch)[:2]:
            model(part)
    return model.eval(), list(zip(x.split(batch), y.split(batch), strict=True))


def pretrained(weights: Path, data: Path) -> tuple[nn.Module, Batches]:
    """EfficientNet-Lite0 and 256 of its images."""
    from benchmarks.cut.network import images, network

    x, y = images(data / "train")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:256]
    return network(weights, int(y.max()) + 1), [(x[part], y[part]) for part in order.split(32)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--widths", type=float, nargs="+", default=[0.25, 0.5])
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| network | images | seconds | with a report | peak MB | forward MB | Gram matrices MB |"
    )
    print("|---|---|---|---|---|---|---|")
    if options.weights is not None and options.data is not None:
        print(row("EfficientNet-Lite0", *pretrained(options.weights, options.data)), flush=True)
        return
    for width in options.widths:
        for batch in options.batches:
            case = drawn(width, batch, options.images, options.size)
            print(row(f"ResNet-50, widths × {width:g}", *case), flush=True)


if __name__ == "__main__":
    main()
