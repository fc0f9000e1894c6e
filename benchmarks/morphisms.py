"""The cost of a step of learning all morphisms, relative to a training step of the same network.

    python -m benchmarks.morphisms
    python -m benchmarks.morphisms VGG-19-16 "ResNet-20, twice as wide"
    python -m benchmarks.morphisms VGG-6-16 VGG-6-32 "VGG-6-16, no norms" --batch 64

All kinds of step are taken in turn in one process, on the same batch; each ratio is the median over
the rounds of that round's processor times, so that what else the machine does meets both.
`convolutions` is the MACs of all convolutions in a step, forward and backward, relative to those of
the training step. `floor` is the minimum for equation (1): the forward pass and the gradient for
the activations, as in training, one convolution of every producer with the displaced kernels
forward and one for their gradient backward, and two of every depthwise convolution on a path, each
way. Memory is the peak of a separate process above its memory before the step, relative to the same
for training.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import ramify
from ramify.methods.gauss_newton import Morphisms
from ramify.models.registry import build
from ramify.train.epoch import cross_entropy

MAIN = ("VGG-19-16", "VGG-19-32", "ResNet-20", "MobileNetV1-32")
Steps = dict[str, Callable[[], object]]
Shape = tuple[int, ...]
IMAGES = (3, 32, 32)


def registered(
    name: str, width: int, shape: Shape = IMAGES
) -> tuple[Callable[[], nn.Module], Shape]:
    """A network of the registry."""
    return partial(build, name, dataset_shape=shape, classes=10, width=width), shape


def vgg(width: int, norms: bool = True, pools: Sequence[int] = (1, 3)) -> nn.Module:
    """Six convolutions of one width, and max-pools behind some of them."""
    layers: list[nn.Module] = []
    for number in range(6):
        channels = width if number else 3
        layers.append(nn.Conv2d(channels, width, 3, padding=1, bias=not norms))
        layers += [nn.BatchNorm2d(width), nn.ReLU()] if norms else [nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if number in pools else []
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def perceptron() -> nn.Module:
    """Two hidden layers of 128."""
    layers = [nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)]
    return nn.Sequential(*layers)


class Transformer(nn.Module):
    """Two blocks of width 64, with four heads and a perceptron of 256, on 64 tokens of 48."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(48, 64)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(64, 4, 256, 0.0, nn.functional.gelu, batch_first=True)
            for _ in range(2)
        )
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (S, 10) of tokens (S, 64, 48)."""
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


NETS: dict[str, tuple[Callable[[], nn.Module], Shape]] = {
    "VGG-19-16": registered("vgg19", 16),
    "VGG-19-32": registered("vgg19", 32),
    "ResNet-20": registered("resnet20", 16),
    "MobileNetV1-32": registered("mobilenet_v1", 32),
    "ResNet-20, twice as wide": registered("resnet20", 32),
    "MobileNetV1-64": registered("mobilenet_v1", 64),
    "VGG-6-16": (partial(vgg, 16), IMAGES),
    "VGG-6-16, no norms": (partial(vgg, 16, norms=False), IMAGES),
    "VGG-6-16, five pools": (partial(vgg, 16, pools=range(5)), IMAGES),
    "VGG-6-32": (partial(vgg, 32), IMAGES),
    "digits net": registered("digits_net", 16, (1, 8, 8)),
    "perceptron": (perceptron, (64,)),
    "transformer": (Transformer, (64, 48)),
}


class Convolutions(TorchDispatchMode):
    """Counts the multiply-accumulates of convolutions, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the operation; count it where it is a convolution."""
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            self.macs += out[0].numel() * len(out) * args[1][0].numel()
        elif func is torch.ops.aten.convolution_backward.default:
            each = args[0].numel() * args[2][0].numel()
            self.macs += each * sum(args[-1][:2])
        return out


def floor(model: nn.Module, x: Tensor) -> float:
    """The least convolutions of a morphism step over those of training, of which there are some."""
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    sizes: dict[nn.Module, int] = {}
    handles = [
        m.register_forward_hook(
            lambda m, _, out: sizes.__setitem__(m, out.numel() * m.weight[0].numel())
        )
        for m in layers
    ]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    plain = 3 * sum(sizes.values()) - sizes[layers[0]]  # no gradient to the images
    depthwise = sum(size for m, size in sizes.items() if isinstance(m, nn.Conv2d) and m.groups > 1)
    own = 2 * sum(sizes.values()) - sizes[layers[0]]
    return (own + 2 * (sum(sizes.values()) - depthwise) + 4 * depthwise) / plain


def steps(title: str, batch: int) -> tuple[nn.Module, Tensor, Steps]:
    """A network, a batch, and all kinds of step on them."""
    torch.manual_seed(0)
    make, shape = NETS[title]
    model = make().train()
    x, y = torch.randn(batch, *shape), torch.randint(0, 10, (batch,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)

    def train() -> None:
        model.train()
        optimizer.zero_grad()
        cross_entropy(model, (x, y)).mean().backward()
        optimizer.step()

    learners = {
        kinds: Morphisms(ramify.trace(model, x[:1]), ramify.GaussNewton(morphisms=kinds))
        for kinds in (("split",), ("split", "prune"))
    }
    found: Steps = {"training": train}
    for kinds, learner in learners.items():
        found[" and ".join(kinds)] = lambda learner=learner: learner.step(  # type: ignore[misc]
            cross_entropy, (x, y), 0.5
        )
    return model, x, found


def timed(each: Steps, rounds: int) -> dict[str, list[float]]:
    """The seconds of processor time of each kind of step in each round, taken in turn."""
    seconds: dict[str, list[float]] = {kind: [] for kind in each}
    for number in range(rounds + 2):
        for kind, step in each.items():
            start = time.process_time()
            step()
            if number >= 2:  # the first ones find their memory and their labels
                seconds[kind].append(time.process_time() - start)
    return seconds


def peak(title: str, batch: int, kind: str) -> int:
    """Kilobytes above the start that a process of its own needs for a kind of step."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (title, batch, kind))


def _peak(title: str, batch: int, kind: str) -> int:
    torch.set_num_threads(1)
    for small in steps(title, 2)[2].values():
        small()  # what is imported and made once
    step = steps(title, batch)[2][kind]
    before = highest()
    for _ in range(3):
        step()
    return highest() - before


def highest() -> int:
    """The most kilobytes that this process has held; Linux says it of the process alone."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def row(title: str, batch: int, rounds: int) -> str:
    """A network's line of the table."""
    model, x, each = steps(title, batch)
    counted = {}
    for kind, step in each.items():
        with Convolutions() as counter:
            step()
        counted[kind] = counter.macs
    seconds = timed(each, rounds)
    channels = sum(g.width for g in ramify.trace(model, x[:1]).groups if g.can_split)
    cells = [title, str(channels), f"{1e3 * statistics.median(seconds['training']):.1f}"]
    for kind in ("split", "split and prune"):
        ratios = [one / base for one, base in zip(seconds[kind], seconds["training"], strict=True)]
        cells.append(f"{statistics.median(ratios):.2f}")
    base = counted["training"]
    cells += [f"{counted['split'] / base:.2f}", f"{floor(model, x):.2f}"] if base else ["–", "–"]
    used = [peak(title, batch, kind) for kind in ("split and prune", "training")]
    cells.append(f"{used[0] / used[1]:.2f}" if used[1] > 1000 else "–")
    return f"| {' | '.join(cells)} |"


def network(title: str) -> str:
    """A network's name, checked."""
    if title not in NETS:
        raise argparse.ArgumentTypeError(f"'{title}' is none of {', '.join(map(repr, NETS))}")
    return title


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.morphisms", description=__doc__)
    parser.add_argument(
        "networks", nargs="*", type=network, default=MAIN, help=f"some of {', '.join(NETS)}"
    )
    parser.add_argument("--batch", type=int, default=128, help="images a step")
    parser.add_argument("--rounds", type=int, default=7, help="steps of each kind")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    print(
        "| network | channels | training, ms | split | and prune | convolutions | floor | memory |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for title in chosen.networks:
        print(row(title, chosen.batch, chosen.rounds), flush=True)


if __name__ == "__main__":
    main()
