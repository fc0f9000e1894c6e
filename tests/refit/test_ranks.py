"""Two ranks with half of the samples each find what one finds with all of them.

If something happens on one rank alone, both take the same steps.
"""

from __future__ import annotations

import copy
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

import ramify
from ramify.errors import OutOfReach
from ramify.refit import cut, selecting
from ramify.refit.at_chance import constant_loss
from tests.processes import on_each_rank
from tests.refit import trained


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
    chance = constant_loss(model, loss, batches)
    cut(graph, loss, batches, budget=budget)
    found = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return found | {"loss at chance": torch.tensor(chance)}


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
    on_each_rank(work, str(tmp_path))
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for name, tensor in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], tensor, rtol=1e-7, atol=1e-9)


def unlike_ranks(rank, folder):
    meeting = f"file://{folder}/meeting"
    patience = timedelta(seconds=60)  # for a rank that waits for a step that the other leaves out
    dist.init_process_group("gloo", init_method=meeting, timeout=patience, rank=rank, world_size=2)
    net, (x, y), _ = trained.task()
    order = y.argsort()
    x, y = x[order], y[order]
    mixed = torch.randperm(512, generator=torch.Generator().manual_seed(0))
    below = lambda model, batch: trained.loss(model, batch) - 0.001 * rank  # noqa: E731

    def unbounded(model, batch):
        """Infinite on rank 1 after some of the cuts, of which the first is not one."""
        return trained.loss(model, batch) / (rank == 0 or len(model[0].weight) not in (10, 13))

    def strict(model):
        """Rank 1 asks for more than rank 0 does."""
        return len(model[0].weight) >= 12 + 4 * rank

    to = lambda share: {"budget": {"macs": share}}  # noqa: E731
    cases = {
        # All samples of rank 1 have one class: its loss at chance is almost 0.
        "chance": (torch.arange(100) if rank else mixed[:256], trained.loss, to("60%")),
        "negative": (mixed[rank::2], below, to("25%")),
        "refused": (mixed[rank::2], trained.loss, to("25%")),
        "not finite": (mixed[rank::2], unbounded, to("25%")),
        "judged": (mixed[rank::2], trained.loss, {"accept": strict}),
    }
    states = {}
    with ramify.together():
        for case, (own, loss, options) in cases.items():
            model = copy.deepcopy(net)
            choose = selecting.choose_channels
            if case == "refused" and rank:
                selecting.choose_channels = trained.only_once(choose, OutOfReach("too slow"))
            sample = list(zip(x[own].split(64), y[own].split(64), strict=True))
            cut(ramify.trace(model, x[:1]), loss, sample, **options)
            selecting.choose_channels = choose
            states[case] = model.state_dict()
    assert 16 <= len(states["judged"]["0.weight"]) < 24
    torch.save(states, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_both_ranks_take_the_same_steps(tmp_path):
    on_each_rank(unlike_ranks, str(tmp_path))
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for case, state in first.items():
        for name, tensor in state.items():
            assert torch.equal(tensor, second[case][name]), (case, name)
