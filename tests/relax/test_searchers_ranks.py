"""A search in two processes: one α, one u and one w everywhere, those of all samples together."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch

from tests.processes import on_each_rank
from tests.relax import searching_ranks
from tests.relax.searching_ranks import CASES, Found, R, Settings


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    on_each_rank(searching_ranks.run, str(folder), port, ranks=R)
    return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(R)]


@pytest.mark.parametrize("case", CASES)
def test_ranks_end_alike_and_as_one_process_with_all_samples(
    every: list[Found], case: Settings
) -> None:
    one, two = (found[str(case)] for found in every)
    alone = searching_ranks.searched(case, searching_ranks.whole())
    assert one.keys() == two.keys() == alone.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name
        if not case[1]:  # batch statistics are each rank's own
            assert torch.allclose(tensor, alone[name], rtol=1e-9, atol=1e-11), name
    parts = [searching_ranks.searched(case, searching_ranks.part(rank)) for rank in range(R)]
    assert not torch.allclose(parts[0]["model mix"], parts[1]["model mix"], rtol=1e-4)


def test_a_loss_that_fails_on_one_rank_stops_all(every: list[Found]) -> None:
    for found in every:
        assert "not finite" in found["failed"]


def test_a_loop_of_several_ranks_goes_on_to_the_same_numbers(every: list[Found]) -> None:
    wholes, agains = zip(*(found["looped"] for found in every), strict=True)
    for whole, again in zip(wholes, agains, strict=True):
        assert whole.keys() == again.keys()
        for name, value in whole.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(again[name])), name
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(wholes[0][name])), name
