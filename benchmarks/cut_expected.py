"""The predictions of `ramify.cut` compared with measurements on independent samples.

    python -m benchmarks.cut_expected [--seeds 3] [--shares 0.7 ...] [--weights WEIGHTS --data DATA]

Without files: small networks trained on half of scikit-learn's digits, cut with 256 other digits
and measured on the rest. With WEIGHTS and DATA as in `benchmarks.cut`: EfficientNet-Lite0,
cut with 256 training images and measured on all test images.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import ramify
from ramify.cost import graph_cost
from ramify.refit import CutReport, cut

Batches = list[tuple[Tensor, Tensor]]


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy, one number per sample."""
    return cross_entropy(model(batch[0]), batch[1], reduction="none")


def perceptron() -> nn.Module:
    """Two hidden layers."""
    layers = [nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)]
    return nn.Sequential(nn.Flatten(), *layers)


def convolutions() -> nn.Module:
    """Three convolutions with norms."""
    layers: list[nn.Module] = []
    for before, after in ((1, 24), (24, 32), (32, 48)):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(48, 10))


class Residual(nn.Module):
    """Two residual blocks on one stream."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.blocks = nn.ModuleList(self._block(width) for _ in range(2))
        self.head = nn.Linear(width, 10)

    def _block(self, width: int) -> nn.Module:
        first, second = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        norms = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        return nn.Sequential(first, norms[0], nn.ReLU(), second, norms[1])

    def forward(self, x: Tensor) -> Tensor:
        """The classes of images (S, 1, 8, 8)."""
        x = torch.relu(self.stem(x))
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return self.head(x.mean((2, 3)))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "perceptron": perceptron,
    "convolutions": convolutions,
    "residual": Residual,
}


def trained(build: Callable[[], nn.Module], x: Tensor, y: Tensor, seed: int) -> nn.Module:
    """A network of a seed, after 30 epochs."""
    torch.manual_seed(seed)
    net = build()
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3)
    for _ in range(30):
        for part in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            loss(net, (x[part], y[part])).mean().backward()
            optimizer.step()
    return net.eval()


def digits(seeds: int) -> Iterator[tuple[str, nn.Module, Batches, Batches]]:
    """(name, network, calibration batches, test batches)."""
    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(found.images, dtype=torch.float32)[order, None] / 8 - 1
    y = torch.tensor(found.target)[order]
    half = len(x) // 2
    for name, build in NETWORKS.items():
        for seed in range(seeds):
            net = trained(build, x[:half], y[:half], seed)
            others = torch.randperm(len(x) - half, generator=torch.Generator().manual_seed(seed))
            sample, rest = others[:256] + half, others[256:] + half
            pairs = [[(x[part], y[part]) for part in chosen.split(64)] for chosen in (sample, rest)]
            yield f"{name}, {seed}", net, pairs[0], pairs[1]


def pretrained(
    weights: Path, data: Path, seeds: int
) -> Iterator[tuple[str, nn.Module, Batches, Batches]]:
    """The same for EfficientNet-Lite0."""
    from benchmarks.cut.network import images, network

    x, y = images(data / "train")
    test_x, test_y = images(data / "test")
    held = list(zip(test_x.split(32), test_y.split(32), strict=True))
    for seed in range(seeds):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:256]
        sample = [(x[part], y[part]) for part in order.split(32)]
        yield f"EfficientNet-Lite0, {seed}", network(weights, int(y.max()) + 1), sample, held


def rows(
    cases: Iterable[tuple[str, nn.Module, Batches, Batches]], shares: Sequence[float]
) -> Iterator[str]:
    """A row of the table for each network and share of the MACs."""
    for name, net, batches, held in cases:
        for share in shares:
            seen: list[CutReport] = []
            graph = ramify.trace(copy.deepcopy(net), batches[0][0][:1])
            budget = {"macs": share * graph_cost(graph).macs}
            cut(graph, loss, batches, budget=budget, held=held, log=seen.append)
            [report] = seen
            rise = report.loss_after - report.loss_before
            numbers = f"{report.predicted:.4f} | {rise:.4f} | {report.predicted / rise:.2f}"
            yield f"| {name} | {share:.0%} | {numbers} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.7, 0.5, 0.3, 0.2])
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    files = options.weights is not None and options.data is not None
    cases = (
        pretrained(options.weights, options.data, options.seeds) if files else digits(options.seeds)
    )
    print("| network, seed | MACs left | expected rise | measured rise | ratio |")
    print("|---|---|---|---|---|")
    for row in rows(cases, options.shares):
        print(row, flush=True)


if __name__ == "__main__":
    main()
