"""What each of two processes does; the tests compare what they found."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import ramify

R = 2
"""Processes."""
STEPS, SAMPLES = 3, (5, 3)
"""Batches of an epoch, and the samples that each rank has of one."""
PAGE = Path(__file__).parents[2] / "docs" / "deploy.md"
METHODS: dict[str, Any] = {
    "s2d": ramify.SplittingDescent(),
    "s3d": ramify.SplittingDescent(signed=3.0, copies=(2, 3, 4), eigen="exact"),
    "gauss-newton": ramify.GaussNewton(epochs=2),
    "taylor": ramify.Taylor(),
    "line search": ramify.LineSearch(channels=(0,), points=3, rounds=1),
    "expansion": ramify.Expansion(channels=(0,), steps=3),
    "boosting": ramify.Boosting(),
    "gradmax": ramify.GradMax(),
    "auto": ramify.Auto(),
    "random": ramify.RandomSplit(),
}

Batch = tuple[Tensor, Tensor]
Found = dict[str, Any]


class Net(nn.Module):
    """Smooth, with a layer that has running statistics where that is asked for."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(3) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.tanh(self.norm(self.b(torch.tanh(self.a(x))))))


class Block(nn.Module):
    """One that takes copies."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 2), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(torch.tanh(self.a(x)))


def deep() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 3), Block(), nn.Tanh(), nn.Linear(3, 2)).double()


def network(norm: bool = False) -> nn.Module:
    torch.manual_seed(3)
    return Net(norm).double()


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return cross_entropy(model(batch[0]), batch[1], reduction="none")


def whole() -> list[Batch]:
    """The batches that one process would have."""
    generator = torch.Generator().manual_seed(5)
    count = sum(SAMPLES)
    x = torch.randn(STEPS * count, 4, generator=generator, dtype=torch.float64)
    y = (x[:, 0] * x[:, 1] > 0).long()
    return list(zip(x.split(count), y.split(count), strict=True))


def part(rank: int) -> list[Batch]:
    """This rank's samples of each: not as many as the other's."""
    mine = slice(sum(SAMPLES[:rank]), sum(SAMPLES[: rank + 1]))
    return [(x[mine], y[mine]) for x, y in whole()]


def proposals(method: Any, batches: Iterable[Batch]) -> Found:
    """What a method proposes, by channel and kind of edit."""
    found = method.propose(ramify.trace(network(), torch.randn(2, 4).double()), loss, batches)
    return {
        f"{p.edit.group} {p.edit.channel} {type(p.edit).__name__}": (
            p.value,
            p.gain,
            dict(getattr(p.edit, "offsets", {})),
        )
        for p in found
    }


def grown(
    batches: Sequence[Batch], norm: bool, own: nn.Module | None = None, **given: Any
) -> Found:
    """`ramify.grow` over two rounds."""
    model, lines = own or network(norm), []
    result = ramify.grow(
        model,
        whole()[0][0][:2],
        loss,
        batches,
        method=ramify.SplittingDescent(step=0.1),
        rule=ramify.TopFraction(0.35),
        training=ramify.Training(epochs=2, lr=0.2),
        log=lines.append,
        **{"rounds": 2} | given,
    )
    history = [{k: v for k, v in event.items() if k != "t"} for event in result.history]
    return {"state": model.state_dict(), "history": history, "lines": len(lines)}


def refusal(call: Any, *given: Any, **named: Any) -> str:
    """What the error says."""
    try:
        call(*given, **named)
    except ramify.RamifyError as error:
        return str(error)
    return "no error"


# ------------------------------------------------------------------------- of each process


def run(rank: int, folder: str, port: int) -> None:
    """Everything that two processes do together; what each found goes to a file."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(R)}
    found: Found = {"page": page()}
    meeting = {"init_method": f"file://{folder}/meeting", "rank": rank, "world_size": R}
    dist.init_process_group("gloo", timeout=timedelta(seconds=60), **meeting)
    for task in (propose, grow, wrap, differ):
        found[task.__name__] = task(rank, Path(folder))
    dist.destroy_process_group()
    torch.save(found, f"{folder}/{rank}.pt")


def page() -> Any:
    """The example of the documentation: the grown network."""
    [block] = re.findall(r"```py\n(# torchrun .*?)```", PAGE.read_text(), flags=re.DOTALL)
    names: Found = {"__name__": "page"}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(block, str(PAGE), "exec"), names)
    return names["model"].state_dict(), printed.getvalue()


def propose(rank: int, _: Path) -> Found:
    with ramify.together():
        found: Found = {name: proposals(method, part(rank)) for name, method in METHODS.items()}
        short = part(rank)[rank:]
        found["uneven"] = refusal(proposals, METHODS["gauss-newton"], short)
    found["alone"] = proposals(METHODS["s2d"], part(rank))
    return found


def grow(rank: int, folder: Path) -> Found:
    file = folder / "checkpoint.safetensors"
    first = grown(part(rank), True, checkpoint=file, rounds=1)
    first["files"] = sorted(path.name for path in folder.glob("*.safetensors"))
    other = folder / f"only-on-{rank}.safetensors"
    if rank == 0:
        other.write_bytes(file.read_bytes())
    return {
        "plain": grown(part(rank), False),
        "latency": grown(part(rank), False, budget={"latency": 1e3}),
        "depth": grown(part(rank), False, deep(), depth=True),
        "first": first,
        "resumed": grown(part(rank), True, checkpoint=file),
        "straight": grown(part(rank), True),
        "uneven": refusal(grown, part(rank)[rank:], False),
        "lost": refusal(grown, part(rank), True, checkpoint=other),
    }


def wrap(rank: int, _: Path) -> Found:
    """DDP, two steps, an edit of its module, DDP again, two steps more."""
    model, batches = network(True), part(rank)
    optimizer = torch.optim.Adam(model.parameters())
    found: Found = {}
    for stage in range(2):
        net = DistributedDataParallel(model)
        for batch in batches[:2]:
            optimizer.zero_grad()
            loss(net, batch).mean().backward()
            optimizer.step()
        found[f"gradient {stage}"] = net.module.a.weight.grad.clone()
        if stage == 0:
            found["trace"] = refusal(ramify.trace, net, batches[0][0])
            graph = ramify.trace(net.module, batches[0][0])
            found["statistics"] = refusal(ramify.check_ranks, model)
            ramify.share_buffers(model)
            own = METHODS["s2d"].propose(graph, loss, batches)[: rank + 1]  # each its own
            chosen = ramify.agree(graph, own)
            found["graph"] = all(proposal.graph is graph for proposal in chosen)
            found["count"] = len(chosen)
            edits = [proposal.edit for proposal in chosen]
            ramify.apply(graph, edits, optimizer=optimizer)
            ramify.check_ranks(model)
    ramify.share_buffers(model)
    found["check"] = refusal(ramify.check_ranks, model)
    found["state"] = model.state_dict()
    found["moments"] = [optimizer.state[p]["exp_avg"] for p in model.parameters()]
    return found


def differ(rank: int, _: Path) -> Found:
    """What is said of networks that are not the same."""
    values, shapes, names, start = network(True), network(), network(), network()
    if rank == 1:
        values.norm.running_mean[1] += 1e-12
        graph = ramify.trace(shapes, torch.randn(2, 4).double())
        ramify.apply(graph, [ramify.Split("b", 0)])
        names.extra = nn.Parameter(torch.zeros(1))
        start.c.bias.data.zero_()
    training = {"method": METHODS["s2d"], "rule": ramify.TopFraction(0.5), "rounds": 1}
    return {
        "values": refusal(ramify.check_ranks, values),
        "shapes": refusal(ramify.check_ranks, shapes),
        "names": refusal(ramify.check_ranks, names),
        "start": refusal(
            ramify.grow,
            start,
            part(rank)[0][0],
            loss,
            part(rank),
            training=ramify.Training(epochs=1),
            **training,
        ),
    }
