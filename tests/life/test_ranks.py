"""Two processes, each with its own share of the data, end with one network, or say so."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ramify
from tests.life import workers
from tests.life.workers import METHODS, Found, R
from tests.processes import on_each_rank


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """What each rank found."""
    if not torch.distributed.is_available():
        pytest.skip("this PyTorch has no torch.distributed")
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    on_each_rank(workers.run, str(folder), port, ranks=R)
    return [torch.load(folder / f"{rank}.pt") for rank in range(R)]


def same(one: Any, other: Any) -> bool:
    """Equal to the last bit."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def close(one: Found, other: Found) -> bool:
    """Equal to rounding, displacements up to the sign that no eigenvector has."""
    assert one.keys() == other.keys()
    for name, (value, gain, offsets) in one.items():
        assert (value, gain) == pytest.approx(other[name][:2], rel=1e-6, abs=1e-12), name
        for key, offset in offsets.items():
            theirs = other[name][2][key]
            gap = min(float((offset - sign * theirs).abs().max()) for sign in (1, -1))
            assert gap <= 1e-5 * float(offset.abs().max()) + 1e-12, name
    return True


@pytest.mark.parametrize("name", METHODS)
def test_every_method_proposes_what_one_process_would(found: list[Found], name: str) -> None:
    every = [each["propose"][name] for each in found]
    assert every[0]
    assert close(every[0], every[1])
    assert close(every[0], workers.proposals(METHODS[name], workers.whole()))


def test_apart_each_rank_proposes_its_own(found: list[Found]) -> None:
    every = [each["propose"]["alone"] for each in found]
    assert not same(every[0], every[1])
    assert same(every[1], workers.proposals(METHODS["s2d"], workers.part(1)))


def test_growing_on_two_ranks_is_growing_on_one(found: list[Found]) -> None:
    """Without a norm over the batch: gradients are means over all samples, as many as each has."""
    alone = workers.grown(workers.whole(), False)
    for each in found:
        state = each["grow"]["plain"]["state"]
        assert state["a.weight"].shape != (3, 4)
        torch.testing.assert_close(state, alone["state"], rtol=1e-8, atol=1e-10)
        losses = [e["train_loss"] for e in each["grow"]["plain"]["history"] if "train_loss" in e]
        expected = [e["train_loss"] for e in alone["history"] if "train_loss" in e]
        assert losses == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("run", ["plain", "latency", "depth", "straight", "resumed"])
def test_every_rank_ends_with_the_same_network_and_history(found: list[Found], run: str) -> None:
    """Also with running statistics, and with a budget that each rank measures for itself."""
    one, other = (each["grow"][run] for each in found)
    assert same(one["state"], other["state"])
    assert same(one["history"], other["history"])
    assert sum(event["event"] == "edit" for event in one["history"]) == 2


def test_blocks_are_weighed_on_two_ranks_as_on_one(found: list[Found]) -> None:
    alone = workers.grown(workers.whole(), False, workers.deep(), depth=True)
    [each, *_] = [one["grow"]["depth"] for one in found]
    tried = [
        [edit["blocks"]["tried"] for edit in run["history"] if edit["event"] == "edit"]
        for run in (each, alone)
    ]
    for one, other in zip(*tried, strict=True):
        assert [row["behind"] for row in one] == [row["behind"] for row in other] != []
        for ours, theirs in zip(one, other, strict=True):
            assert ours["gain"] == pytest.approx(theirs["gain"], rel=1e-6)


def test_rank_0_alone_writes_and_reports(found: list[Found]) -> None:
    one, other = (each["grow"]["first"] for each in found)
    assert one["files"] == ["checkpoint.safetensors"]
    assert one["lines"] == len(one["history"])
    assert other["lines"] == 0


def test_a_resume_on_every_rank_is_exact(found: list[Found]) -> None:
    for each in found:
        assert same(each["grow"]["resumed"]["state"], each["grow"]["straight"]["state"])


def test_a_checkpoint_that_one_rank_does_not_see_is_named(found: list[Found]) -> None:
    said = {each["grow"]["lost"] for each in found}
    assert len(said) == 1
    assert "do not hold the same network" in said.pop()


def test_shares_of_unlike_length_are_refused_before_training(found: list[Found]) -> None:
    for each in found:
        assert each["grow"]["uneven"] == (
            "batches of an epoch: 3 on rank 0 and 2 on rank 1; give every rank as many."
        )
        assert each["propose"]["uneven"].startswith("batches of a pass: 3 on rank 0 and 2 on rank")


# ----------------------------------------------------------------------- a loop of one's own


def test_ddp_before_and_after_an_edit(found: list[Found]) -> None:
    one, other = (each["wrap"] for each in found)
    assert "trace its `.module`, and wrap it again after an edit" in one["trace"]
    assert one["count"] == other["count"] == 1  # rank 1 would have taken two
    assert one["graph"]
    assert other["graph"]
    assert "norm.running_mean" in one["statistics"] == other["statistics"]
    assert "share buffers by ramify.share_buffers" in one["statistics"]
    assert one["check"] == "no error"
    for key in ("state", "moments", "gradient 0", "gradient 1"):
        assert same(one[key], other[key]), key
    assert one["gradient 1"].shape == one["state"]["a.weight"].shape
    widths = [one["state"][name].shape[0] for name in ("a.weight", "b.weight")]
    assert sorted(widths) == [3, 4]


def test_the_example_of_the_documentation(found: list[Found]) -> None:
    (one, printed), (other, silent) = (each["page"] for each in found)
    assert same(one, other)
    assert int(printed) == one["0.weight"].shape[0] > 6
    assert silent == ""


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("values", "'norm.running_mean' has shape (3,) of torch.float64 on both, with other val"),
        ("shapes", "'b.weight' has shape (3, 3) of torch.float64 on rank 0 and shape (4, 3) of to"),
        ("names", "'extra' has nothing on rank 0 and shape (1,) of torch.float32 on rank 1; seed"),
        ("start", "'c.bias' has shape (2,) of torch.float64 on both, with other values on rank 1"),
    ],
)
def test_networks_that_differ_are_named_on_every_rank(
    found: list[Found], kind: str, words: str
) -> None:
    said = {each["differ"][kind] for each in found}
    assert len(said) == 1
    assert words in said.pop()


def test_alone_nothing_is_compared_or_shared() -> None:
    model, batches = workers.network(), workers.whole()
    graph = ramify.trace(model, batches[0][0])
    with ramify.together():
        proposals = METHODS["s2d"].propose(graph, workers.loss, batches)
    assert ramify.agree(graph, proposals) == proposals
    ramify.check_ranks(nn.Linear(2, 2))
    ramify.share_buffers(nn.BatchNorm1d(2))
