"""The cost of a step of each searcher, relative to a step of joint training of the same network.

    OMP_NUM_THREADS=1 python -m benchmarks.search_step
    OMP_NUM_THREADS=1 python -m benchmarks.search_step gates --width 16 --batch 64

`gates` are width gates on every channel of PreResNet-20, `cell` the mixing logits of a supernet of
NATS-Bench. All searchers take their steps in turn in one process, on the same two batches. Their
median CPU times are compared, since on a shared machine wall time depends on other processes.
Forward passes are counted by a hook on the network, backward passes by calls of the autograd
engine. `convolutions` is their MACs, forward and backward, relative to joint training, and memory
is the peak of a separate process above its memory before the step.

The last lines time the two independent passes of RARTS, of u and of w, one after another and as a
single pass over stacked weights with `torch.func.vmap`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.optim import SGD

import ramify
from benchmarks.morphisms import Convolutions, Steps, highest, timed
from ramify.models import build
from ramify.relax import DARTS, RARTS, Joint, MiLeNAS
from ramify.train.epoch import cross_entropy

KINDS: dict[str, Callable[..., Any]] = {
    "Joint": Joint,
    "DARTS, first order": DARTS,
    "MiLeNAS": MiLeNAS,
    "RARTS": RARTS,
    "DARTS, difference": partial(DARTS, order=2),
    "DARTS, exact": partial(DARTS, order=2, exact=True),
}
Batch = tuple[Tensor, Tensor]


def network(kind: str, width: int) -> tuple[nn.Module, list[nn.Parameter]]:
    """A network and its architecture parameters."""
    torch.manual_seed(0)
    if kind == "cell":
        net = ramify.cells.NATS.supernet(channels=width, cells=1, classes=10)
        return net.train(), list(net.arch_parameters())
    model = build("preresnet20", dataset_shape=(3, 32, 32), classes=10, width=width)
    gates = ramify.gate(ramify.trace(model, torch.randn(2, 3, 32, 32)))
    return model.train(), list(gates)


def batches(size: int) -> list[Batch]:
    """A batch of each half."""
    return [(torch.randn(size, 3, 32, 32), torch.randint(0, 10, (size,))) for _ in range(2)]


def steps(kind: str, width: int, size: int) -> tuple[Steps, dict[str, nn.Module]]:
    """A step of every searcher, each on its own network."""
    found: Steps = {}
    models = {}
    pair = batches(size)
    for name, searcher in KINDS.items():
        model, arch = network(kind, width)
        made = searcher(
            model,
            arch=arch,
            loss=cross_entropy,
            weight_optimizer=partial(SGD, lr=0.01, momentum=0.9),
            arch_optimizer=partial(SGD, lr=0.01),
        )
        found[name], models[name] = partial(made.step, *pair), model
    return found, models


def passes(step: Callable[[], object], model: nn.Module) -> tuple[int, int]:
    """Forward and backward passes of a step."""
    forward = 0

    def count(*_: object) -> None:
        nonlocal forward
        forward += 1

    handle = model.register_forward_hook(count)
    try:
        with mock.patch("torch.autograd.grad", wraps=torch.autograd.grad) as backward:
            step()
    finally:
        handle.remove()
    return forward, backward.call_count


def peak(kind: str, width: int, size: int, name: str) -> int:
    """The peak memory of a separate process in a searcher's steps above its start, in kilobytes."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (kind, width, size, name))


def _peak(kind: str, width: int, size: int, name: str) -> int:
    torch.set_num_threads(1)
    for small in steps(kind, width, 2)[0].values():
        small()  # what is imported and made once
    step = steps(kind, width, size)[0][name]
    before = highest()
    for _ in range(3):
        step()
    return highest() - before


def table(kind: str, width: int, size: int, rounds: int) -> Iterator[str]:
    """A line for each searcher."""
    each, models = steps(kind, width, size)
    counted, macs = {}, {}
    for name, step in each.items():
        counted[name] = passes(step, models[name])
        with Convolutions() as counter:
            step()
        macs[name] = counter.macs
    seconds = {name: statistics.median(one) for name, one in timed(each, rounds).items()}
    memory = {name: peak(kind, width, size, name) for name in each}
    for name, (forward, backward) in counted.items():
        ratio = seconds[name] / seconds["Joint"]
        yield (
            f"| {kind} | {name} | {forward} | {backward} | {1e3 * seconds[name]:.0f} | {ratio:.2f} "
            f"| {ratio / (forward / 2):.2f} | {macs[name] / macs['Joint']:.2f} "
            f"| {memory[name] / 1024:.0f} | {memory[name] / memory['Joint']:.2f} |"
        )


def batched(width: int, size: int, rounds: int) -> Iterator[str]:
    """Two passes one after the other, and as one: of the gradients to the weights, and to α."""
    model, arch = network("gates", width)
    ids, pair = {id(alpha) for alpha in arch}, batches(size)
    weights = {n: p for n, p in model.named_parameters() if id(p) not in ids}
    copies = [{n: p.detach().clone().requires_grad_() for n, p in weights.items()} for _ in pair]
    buffers = [{n: b.clone() for n, b in model.named_buffers()} for _ in pair]

    def loss(tensors: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(model, tensors, (x,)), y)

    def in_turn(of: str) -> None:
        for copy, held, (x, y) in zip(copies, buffers, pair, strict=True):
            wanted = arch if of == "α" else list(copy.values())
            torch.autograd.grad(loss(copy | held, x, y), wanted)

    def at_once(of: str) -> None:
        both = {n: torch.stack([c[n].detach() for c in copies]).requires_grad_() for n in weights}
        held = {n: torch.stack([b[n] for b in buffers]) for n in buffers[0]}
        x, y = (torch.stack(part) for part in zip(*pair, strict=True))
        value = vmap(loss, randomness="different")(both | held, x, y).sum()
        torch.autograd.grad(value, arch if of == "α" else list(both.values()))

    for of in ("w and u", "α"):
        seconds = timed({"in turn": partial(in_turn, of), "at once": partial(at_once, of)}, rounds)
        medians = (f"{1e3 * statistics.median(each):.0f}" for each in seconds.values())
        yield f"| {of} | " + " | ".join(medians) + " |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search_step", description=__doc__)
    parser.add_argument("kinds", nargs="*", default=["gates", "cell"], help="gates, cell or both")
    parser.add_argument("--width", type=int, default=8, help="channels of the first layer")
    parser.add_argument("--batch", type=int, default=32, help="images of a batch")
    parser.add_argument("--rounds", type=int, default=9, help="steps of each searcher")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| network | searcher | forward | backward | ms | over Joint | for each pass "
        "| convolutions | MB | over Joint |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for kind in chosen.kinds:
        for line in table(kind, chosen.width, chosen.batch, chosen.rounds):
            print(line, flush=True)
    print("\n| gradients to | ms, in turn | ms, at once |\n|---|---|---|")
    for line in batched(chosen.width, chosen.batch, chosen.rounds):
        print(line, flush=True)


if __name__ == "__main__":
    main()
