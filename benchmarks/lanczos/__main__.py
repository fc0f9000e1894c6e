"""Passes over the sample against the error of λ_min and λ_max: Lanczos and the published scheme.

The error of a channel is the larger error of its two extreme eigenvalues, divided by its spectral
radius; the reference is Lanczos in float64, run until its residuals are 1e-9.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import ramify
from benchmarks.lanczos.networks import EPOCHS, NETWORKS, sample, trained
from benchmarks.lanczos.schemes import Point, lanczos, rayleigh
from ramify.data import load
from ramify.probe.lanczos import lanczos_extremes
from ramify.probe.splitting_matrix import mean_product, splitting_operators
from ramify.probe.targets import vector_shapes
from ramify.tracing.recorder import tensors_of

BETA = 3.0  # of the surrogate, as in `SplittingDescent`
AIM = 1e-3  # the target error of every channel
ORACLE = 128  # most passes of the reference
MARKS = (4, 8, 10, 12, 14, 16, 20, 24)
Batch = tuple[Tensor, Tensor]


def losses(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of each sample, (S,)."""
    return cross_entropy(model(batch[0]), batch[1], reduction="none")


def truth(model: nn.Module, batches: Sequence[Batch]) -> list[tuple[Tensor, Tensor]]:
    """λ_min and λ_max of every channel, in float64."""
    model = model.double()
    exact = [(x.double(), y) for x, y in batches]
    graph = ramify.trace(model, exact[0][0][:2])
    found, operators = splitting_operators(graph, losses, exact, BETA)
    pairs = lanczos_extremes(
        lambda vectors: mean_product(operators, vectors),
        vector_shapes(found, tensors_of(model)),
        exact[0][0],
        tolerance=1e-9,
        most=ORACLE,
        seed=1,
    )
    return [(pair.low, pair.high) for pair in pairs]


def errors(point: Point, true: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The error of every channel of every group, relative to its spectral radius."""
    out = []
    for (low, high), (least, most) in zip(point.ends, true, strict=True):
        radius = torch.maximum(least.abs(), most.abs()).clamp_min(1e-30)
        out.append(torch.maximum((low - least).abs(), (high - most).abs()) / radius)
    return torch.cat(out)


def row(scheme: str, point: Point, true: Sequence[tuple[Tensor, Tensor]]) -> str:
    """One line of the table."""
    wrong = errors(point, true)
    shares = [float(wrong.median()), float(wrong.quantile(0.99)), float(wrong.max())]
    numbers = " | ".join(f"{value:.1e}" for value in shares)
    over = int((wrong > AIM).sum())
    return (
        f"| {scheme} | {point.passes} | {numbers} | {over} of {len(wrong)} | {point.seconds:.1f} |"
    )


def report(name: str, model: nn.Module, batches: Sequence[Batch], passes: int) -> None:
    """Print the table of one network."""
    graph = ramify.trace(model, batches[0][0][:2])
    found, operators = splitting_operators(graph, losses, batches, BETA)
    shapes = vector_shapes(found, tensors_of(model))
    marks = [2**n for n in range(3, passes.bit_length())]
    ours = lanczos(operators, shapes, batches[0][0], MARKS)
    theirs = list(rayleigh(operators, shapes, batches[0][0], marks))
    del operators
    true = truth(model, batches)
    print(
        f"\n### {name}: {sum(w for w, _ in shapes)} channels, D up to {max(d for _, d in shapes)}\n"
    )
    print(f"| scheme | passes | median | 99th percentile | worst | above {AIM:g} | seconds |")
    print("|---|---|---|---|---|---|---|")
    for scheme, points in (("Lanczos", ours), ("RMSprop", theirs)):
        for point in points:
            print(row(scheme, point, true))
    for label, measure in (("worst", torch.max), ("median", torch.median)):
        last = float(measure(errors(theirs[-1], true)))
        same = next(p for p in ours if float(measure(errors(p, true))) <= last)
        print(
            f"\nThe {label} error of RMSprop after {theirs[-1].passes} passes, {last:.1e}, Lanczos "
            f"is below after {same.passes}: {theirs[-1].seconds / same.seconds:.0f} times faster.",
            flush=True,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train missing networks, and print a table for each network."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lanczos", description=__doc__)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), help="of the table")
    parser.add_argument("--images", type=int, default=128, help="of the fixed sample")
    parser.add_argument("--train", type=int, default=5000, help="images to train on")
    parser.add_argument("--passes", type=int, default=128, help="of RMSprop, a power of 2")
    parser.add_argument("--out", type=Path, default=Path("runs/lanczos"), help="keeps the weights")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    data = load("cifar10")
    for name in chosen.networks:
        torch.manual_seed(0)
        model = trained(name, data, chosen.train, EPOCHS[name], chosen.out)
        report(name, model, sample(data, chosen.images), chosen.passes)


if __name__ == "__main__":
    main()
