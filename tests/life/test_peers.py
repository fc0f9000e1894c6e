"""Where one rank ends, the others end with its reason."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import ramify
from ramify import distributed
from ramify.peers import said_elsewhere
from tests.life import workers
from tests.processes import clean_processes


def failing_loss(rank: int, _: Path) -> None:
    """The user's own function fails on one rank, in the middle of a run."""
    seen = [0]

    def loss(model: torch.nn.Module, batch: workers.Batch) -> torch.Tensor:
        seen[0] += 1
        if rank == 1 and seen[0] == 5:
            raise KeyError("label 7")
        return workers.loss(model, batch)

    ramify.grow(
        workers.network(),
        workers.whole()[0][0][:2],
        loss,
        workers.part(rank),
        method=ramify.SplittingDescent(),
        rule=ramify.TopFraction(0.5),
        rounds=1,
        training=ramify.Training(epochs=2, lr=0.1),
    )


def full_disk(rank: int, folder: Path) -> None:
    """Only rank 0 writes the checkpoint."""
    (folder / "checkpoint").mkdir(exist_ok=True)
    given = {"checkpoint": folder / "checkpoint"} if rank == 0 else {}
    workers.grown(workers.part(rank), False, **given)


def killed(rank: int, _: Path) -> None:
    with ramify.together():
        distributed.all_gather(rank)
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        distributed.all_gather(rank)


def stuck(rank: int, _: Path) -> None:
    """The rank that fails does not end its process, so that no connection is closed."""
    try:
        with ramify.together():
            if rank == 1:
                raise ramify.RamifyError("label 7 is none.")
            distributed.broadcast(rank)
    finally:
        time.sleep(rank)


def alike(rank: int, _: Path) -> None:
    """Every rank sees the same mistake."""
    with ramify.together():
        raise ramify.RamifyError(f"net.pt is missing on all {distributed.world_size()}.")


def late(rank: int, _: Path) -> None:
    """One rank does not come in time."""
    with ramify.together(dist.new_group(timeout=timedelta(seconds=1))):
        if rank == 0:
            distributed.all_gather(rank)
        time.sleep(3 * rank)


def built_otherwise(rank: int, _: Path) -> None:
    """The tensors are the same, and the networks are not."""
    model = workers.network()
    if rank == 1:
        model.norm = torch.nn.Dropout(0.5)
    with ramify.together():
        ramify.check_ranks(model)


def begin(case: Callable[[int, Path], None], rank: int, folder: Path) -> None:
    """One rank; what it ends with goes to a file."""
    torch.set_num_threads(1)
    meeting = {"init_method": f"file://{folder}/meeting", "rank": rank, "world_size": 2}
    dist.init_process_group("gloo", timeout=timedelta(seconds=60), **meeting)
    said = "no error"
    try:
        case(rank, folder)
    except Exception as error:
        said = f"{type(error).__name__}: {error}" + " (elsewhere)" * said_elsewhere(error)
    (folder / f"said-{rank}").write_text(said)
    os._exit(0)


CASES: dict[Callable[[int, Path], None], tuple[str, str]] = {
    failing_loss: (
        r"RamifyError: rank 1 ended: .*loss\(model, batch\) failed .*\(KeyError: 'label 7'\): .*; "
        r"this rank ends with it: start all.*\(elsewhere\)$",
        r"RamifyError: .*loss\(model, batch\) failed .*\(KeyError: 'label 7'\): ",
    ),
    full_disk: (
        "RamifyError: .*checkpoint cannot be opened|RamifyError: .*checkpoint is ",
        "RamifyError: rank 0 ended: .*checkpoint .*; this rank ends with it: start all",
    ),
    killed: ("RamifyError: another rank ended without a word, such as by a kill", ""),
    late: ("RamifyError: another rank did not come within the time limit of torch", "no error"),
    stuck: ("RamifyError: rank 1 ended: label 7 is none; this rank", "RamifyError: label 7 is"),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What each rank of each case said; all cases run at the same time."""
    if not dist.is_available():
        pytest.skip("this PyTorch has no torch.distributed")
    context, running = clean_processes(), []
    folders = {case.__name__: tmp_path_factory.mktemp(case.__name__) for case in (*CASES, *SAME)}
    for case in (*CASES, *SAME):
        for rank in range(2):
            arguments = (case, rank, folders[case.__name__])
            running.append(context.Process(target=begin, args=arguments))
            running[-1].start()
    for process in running:
        process.join(200)
        assert process.exitcode is not None
    texts = {}
    for name, folder in folders.items():
        files = [folder / f"said-{rank}" for rank in range(2)]
        texts[name] = [file.read_text() if file.exists() else "" for file in files]
    return texts


SAME = {
    alike: "RamifyError: net.pt is missing on all 2.",
    built_otherwise: (
        "RamifyError: the ranks do not hold the same network: module 'norm' is Identity on rank 0 "
        "and Dropout on rank 1; build it alike on every rank"
    ),
}


@pytest.mark.parametrize("case", SAME, ids=lambda case: case.__name__)
def test_what_every_rank_sees_one_of_them_says(
    found: dict[str, list[str]], case: Callable[[int, Path], None]
) -> None:
    assert sorted(found[case.__name__]) == [SAME[case], SAME[case] + " (elsewhere)"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_every_rank_ends_with_the_reason(
    found: dict[str, list[str]], case: Callable[[int, Path], None]
) -> None:
    for said, wanted in zip(found[case.__name__], CASES[case], strict=True):
        assert re.match(wanted, said), said


def test_a_model_that_is_spread_over_ranks_is_named(tmp_path: Path) -> None:
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    mesh = pytest.importorskip("torch.distributed.device_mesh")
    meeting = {"init_method": f"file://{tmp_path}/meeting", "rank": 0, "world_size": 1}
    dist.init_process_group("gloo", **meeting)
    try:
        model, x = workers.network().float(), torch.randn(2, 4)
        graph = ramify.trace(model, x)
        fsdp.fully_shard(model.b, mesh=mesh.init_device_mesh("cpu", (1,)))
        words = "'b.weight' of module 'b' is a DTensor, as of fully_shard, and each rank has a part"
        for call in (
            lambda: ramify.trace(model, x),
            lambda: ramify.apply(graph, [ramify.Split("a", 0)]),
            lambda: ramify.save(model, tmp_path / "net"),
            lambda: ramify.check_ranks(model),
        ):
            with pytest.raises(ramify.RamifyError, match=words):
                call()
    finally:
        dist.destroy_process_group()
