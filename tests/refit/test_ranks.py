"""Two ranks with half of the samples each find what one finds with all of them."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn

import ramify
from ramify.refit import cut


def network():
    torch.manual_seed(0)
    return (
        nn.Sequential(
            nn.Conv2d(3, 12, 3),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.Conv2d(12, 8, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8 * 16, 5),
        )
        .double()
        .eval()
    )


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def sample():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(64, 3, 6, 6, generator=generator).double()
    return x, network()(x).argmax(1)


def cut_on(batches):
    model = network()
    graph = ramify.trace(model, batches[0][0][:1])
    budget = {"macs": 0.6 * ramify.cost.graph_cost(graph).macs}
    cut(graph, loss, batches, budget=budget)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def work(rank, folder):
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    x, y = sample()
    own = slice(rank * 32, rank * 32 + 32)
    with ramify.together():
        state = cut_on([(x[own][:16], y[own][:16]), (x[own][16:], y[own][16:])])
    torch.save(state, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_cut_as_one(tmp_path):
    x, y = sample()
    alone = cut_on([(x[i : i + 16], y[i : i + 16]) for i in (0, 16, 32, 48)])
    torch.multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for name, tensor in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], tensor, rtol=1e-7, atol=1e-9)
