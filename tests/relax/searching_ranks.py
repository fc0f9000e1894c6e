"""What each of two processes does in the tests of a search; the tests compare what they found."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import ramify
from ramify.relax import Pairs
from tests.relax.searching import KINDS, Batch, batches, loss, network, searcher

R = 2
"""Processes."""
STEPS, SAMPLES = 4, (5, 3)
"""Steps of a search, and the samples that each rank has of a batch."""
Settings = tuple[str, bool]
CASES: list[Settings] = [*((kind, False) for kind in KINDS), ("rarts", True)]
Found = dict[str, Any]


def whole() -> list[Batch]:
    return batches(2 * STEPS, sum(SAMPLES))


def part(rank: int) -> list[Batch]:
    mine = slice(sum(SAMPLES[:rank]), sum(SAMPLES[: rank + 1]))
    return [(x[mine], y[mine]) for x, y in whole()]


def searched(case: Settings, data: list[Batch]) -> Found:
    """Every tensor after some steps."""
    kind, norm = case
    made = searcher(kind, network(norm=norm), clip=0.5)
    with ramify.together():
        for k in range(STEPS):
            made.step(data[2 * k], data[2 * k + 1])
        made.share_buffers()
    parts = made.state_dict()["tensors"]
    return {f"{part} {name}": t.clone() for part, held in parts.items() for name, t in held.items()}


def failed(rank: int) -> str:
    def bad(model: nn.Module, batch: Batch) -> Tensor:
        return loss(model, batch) * (torch.nan if rank == 1 else 1.0)

    a, p, *_ = part(rank)
    try:
        with ramify.together():
            searcher("rarts", loss=bad).step(a, p)
    except ramify.RamifyError as error:
        return str(error)
    return ""


def looped(rank: int, file: Path) -> list[Found]:
    """A search with dropout of each rank's own, whole, and broken off and begun again."""
    out, data = [], part(rank)
    pairs = Pairs(data[:STEPS], data[STEPS:])
    for epochs in ((3,), (2, 3)):
        for until in epochs:
            made = searcher("rarts", network(norm=True, dropout=0.5))
            torch.manual_seed(rank if until == epochs[0] else 77)
            path = file.with_suffix(f".{len(out)}")
            history = ramify.search(made, pairs, epochs=until, checkpoint=path)
        last = {key: history[-1][key] for key in ("step", "loss_a", "loss_p")}
        out.append(last | {n: t.clone() for n, t in made.model.state_dict().items()})
    return out


def run(rank: int, folder: str, port: int) -> None:
    """The work of one process."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=R, timeout=timedelta(seconds=60))
    try:
        found: Found = {str(case): searched(case, part(rank)) for case in CASES}
        found["failed"] = failed(rank)
        found["looped"] = looped(rank, Path(folder) / "loop")
        torch.save(found, Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()
