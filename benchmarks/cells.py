"""The cost of a step of a cell search: CPU time, peak memory, and a profile.

    OMP_NUM_THREADS=1 python -m benchmarks.cells
    OMP_NUM_THREADS=1 python -m benchmarks.cells "DARTS C8 L5" --profile

A first-order step (one update of the weights, one of the mixing logits) and a step of RARTS are
timed in turn on the same random 32×32 images. The result is the median CPU time, since on a shared
machine wall time depends on other processes. Two references are timed in turn with them:

- `one by one`: the same first-order step with a separate module for each candidate, as in public
  implementations: `none` multiplies by zero, every edge has its own ReLU and pools, and the memory
  layout is channels first.
- `floor`: only the convolutions of `one by one`, each run separately on random data as often as in
  a step: two forward passes, two gradients for the input, and one for the weights.

Peak memory is that of a separate process, with PyTorch and its optimizers loaded.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from ramify.cells import DARTS, NATS, Space, Supernet
from ramify.cells.supernet import MixedCell
from ramify.relax import DARTS as FirstOrder
from ramify.relax import RARTS

Batch = tuple[Tensor, Tensor]
NETS: dict[str, tuple[Space, int, int]] = {
    "DARTS C8 L5": (DARTS, 8, 5),
    "NATS C8 N1": (NATS, 8, 1),
    "NATS C16 N5": (NATS, 16, 5),
}
PUBLISHED = {  # ms and MB of public code on a processor of somebody else's
    "DARTS C8 L5": (2010, 1046),
    "NATS C8 N1": (127, 420),
    "NATS C16 N5": (1097, 1223),
}


class OneByOne(nn.Module):
    """A supernet's stack with a module for every candidate on every edge.

    Args:
        supernet: what to copy; the weights are new.
    """

    def __init__(self, supernet: Supernet) -> None:
        super().__init__()
        self.space = supernet.space
        self.stack = self.space.supernet(channels=supernet.plan.channels, cells=supernet.plan.cells)
        self.candidates = nn.ModuleList()
        self.number: dict[nn.Module, int] = {}
        for plan, cell in self.stack.cells():
            self.number[cell] = len(self.candidates)
            strides = [plan.stride if s < self.space.inputs else 1 for s, _ in self.space.edges]
            self.candidates.append(
                nn.ModuleList(
                    nn.ModuleList(
                        build(plan.channels, stride, True)
                        for build in self.space.operations.values()
                    )
                    for stride in strides
                )
            )
            assert isinstance(cell, MixedCell)
            cell.mixtures = nn.ModuleList()

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        mixing = self.stack.mixing()

        def run(cell: nn.Module, inputs: list[Tensor]) -> Tensor:
            assert isinstance(cell, MixedCell)
            states = [prepare(x) for prepare, x in zip(cell.prepare, inputs, strict=True)]
            edges = self.candidates[self.number[cell]].children()
            for row, ((source, target), edge) in enumerate(
                zip(self.space.edges, edges, strict=True)
            ):
                weights = mixing[cell.kind][row]
                found = sum(
                    weight * operation(states[source])
                    for weight, operation in zip(weights, edge.children(), strict=True)
                )
                if target == len(states):
                    states.append(found)
                else:
                    states[target] = states[target] + found
            made = states[self.space.inputs :]
            return torch.cat(made, dim=1) if self.space.concat else made[-1]

        *_, last = self.stack.outputs(x, run)
        return self.stack.head(last)


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy, one number per sample."""
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def batch(count: int) -> Batch:
    """Random images and labels."""
    return torch.randn(count, 3, 32, 32), torch.randint(0, 10, (count,))


def searcher(make: Callable[..., FirstOrder | RARTS], model: nn.Module) -> FirstOrder | RARTS:
    """A searcher with the optimizers of DARTS."""
    arch = [alpha for name, alpha in model.named_parameters() if "alpha_" in name]
    return make(
        model,
        arch=arch,
        loss=loss,
        weight_optimizer=partial(torch.optim.SGD, lr=0.025, momentum=0.9, weight_decay=3e-4),
        arch_optimizer=partial(torch.optim.Adam, lr=3e-4, betas=(0.5, 0.999), weight_decay=1e-3),
    )


def steps(title: str, count: int) -> dict[str, Callable[[], object]]:
    """The kinds of step, by name."""
    torch.manual_seed(0)
    space, channels, cells = NETS[title]
    nets: Mapping[str, nn.Module] = {
        "first order": space.supernet(channels=channels, cells=cells),
        "RARTS": space.supernet(channels=channels, cells=cells),
        "one by one": OneByOne(space.supernet(channels=channels, cells=cells)),
    }
    one, two = batch(count), batch(count)
    found: dict[str, Callable[[], object]] = {}
    for kind, net in nets.items():
        made = searcher(RARTS if kind == "RARTS" else FirstOrder, net)
        found[kind] = partial(made.step, one, two)
    found["floor"] = convolutions(nets["one by one"], one[0])
    return found


def convolutions(model: nn.Module, x: Tensor) -> Callable[[], None]:
    """A function that runs every convolution as often as a first-order step does."""
    calls: list[tuple[nn.Conv2d, tuple[int, ...]]] = []
    handles = [
        module.register_forward_hook(
            lambda module, inputs, _: calls.append((module, inputs[0].shape))
        )
        for module in model.modules()
        if isinstance(module, nn.Conv2d)
    ]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    data = {shape: torch.randn(shape, requires_grad=True) for _, shape in calls}

    def run() -> None:
        for module, shape in calls:
            for wanted in ([data[shape]], [data[shape], module.weight]):
                y = module(data[shape])
                torch.autograd.grad(y, wanted, torch.ones_like(y))

    return run


def timed(each: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The median milliseconds of processor time of each kind of step, taken in turn."""
    found: dict[str, list[float]] = {kind: [] for kind in each}
    for number in range(rounds + 1):
        for kind, step in each.items():
            start = time.process_time()
            step()
            if number:  # the first ones also allocate memory
                found[kind].append(1e3 * (time.process_time() - start))
    return {kind: statistics.median(values) for kind, values in found.items()}


def peak(title: str, kind: str, count: int) -> int:
    """The peak memory of a separate process in steps of one kind, in megabytes."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (title, kind, count))


def _peak(title: str, kind: str, count: int) -> int:
    torch.set_num_threads(1)
    step = steps(title, count)[kind] if kind != "floor" else None
    for _ in range(3):
        if step is not None:
            step()
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def row(title: str, count: int, rounds: int) -> str:
    """A line of the table."""
    ms = timed(steps(title, count), rounds)
    first, slow = ms["first order"], ms["one by one"]
    memory = {kind: peak(title, kind, count) for kind in ("first order", "RARTS", "one by one")}
    published = "{} / {}".format(*PUBLISHED[title])
    return (
        f"| {title} | {first:.0f} / {memory['first order']} | {slow:.0f} / {memory['one by one']} "
        f"| {slow / first:.2f} | {ms['floor']:.0f} | {ms['RARTS']:.0f} / {memory['RARTS']} "
        f"| {ms['RARTS'] / first:.2f} | {published} |"
    )


def explain(title: str, count: int) -> None:
    """Print a profile of a first-order step."""
    step = steps(title, count)["first order"]
    step()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        step()
    table = found.key_averages()
    total = sum(event.self_cpu_time_total for event in table)
    print(f"\n{title}: share of the processor time of a first-order step\n")
    for event in sorted(table, key=lambda event: -event.self_cpu_time_total)[:10]:
        print(f"- {event.key}: {event.self_cpu_time_total / total:.1%} in {event.count} calls")


def network(title: str) -> str:
    """A network's name, checked."""
    if title not in NETS:
        raise argparse.ArgumentTypeError(f"'{title}' is none of {', '.join(map(repr, NETS))}")
    return title


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cells", description=__doc__)
    parser.add_argument(
        "networks", nargs="*", type=network, default=tuple(NETS), help=f"some of {', '.join(NETS)}"
    )
    parser.add_argument("--batch", type=int, default=16, help="images a step")
    parser.add_argument("--rounds", type=int, default=5, help="steps of each kind")
    parser.add_argument("--profile", action="store_true", help="say where the time goes")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| network | first order | one by one | ratio | floor | RARTS | over first order "
        "| published |\n|---|---|---|---|---|---|---|---|"
    )
    for title in chosen.networks:
        print(row(title, chosen.batch, chosen.rounds), flush=True)
    if chosen.profile:
        for title in chosen.networks:
            explain(title, chosen.batch)


if __name__ == "__main__":
    main()
