"""A restored run goes on bit for bit: weights, optimizer, random state, for any optimizer."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

from ramify.errors import RamifyError
from ramify.store.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from ramify.store.files import read_tensors, write_tensors
from ramify.store.model import recipe_of, reshape, save
from ramify.store.state import NetworkInTraining, random_states, set_random_states

Make = Callable[[Iterable[Tensor]], optim.Optimizer]


def build(width: int = 4) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(3, width), nn.BatchNorm1d(width), nn.Dropout(0.3), nn.Tanh(), nn.Linear(width, 1)
    )


def keep(
    path: Path, model: nn.Module, optimizer: optim.Optimizer, history: Sequence[Any] = ()
) -> None:
    state = NetworkInTraining(model, optimizer).state_dict()
    write_checkpoint(path, Checkpoint("training", state, [random_states()], list(history)))


def restore(checkpoint: Checkpoint, model: nn.Module, optimizer: optim.Optimizer) -> None:
    NetworkInTraining(model, optimizer).load_state_dict(checkpoint.state)
    set_random_states(checkpoint.random[0])


def train(model: nn.Module, optimizer: optim.Optimizer, steps: int) -> list[float]:
    """Steps whose batches come from torch's random state, as the dropout does."""
    seen = []
    for _ in range(steps):
        x = torch.randn(8, 3)

        def closure(x: Tensor = x) -> Tensor:
            optimizer.zero_grad()
            loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
            loss.backward()
            return loss

        seen.append(optimizer.step(closure).item())
    return seen


@pytest.mark.parametrize(
    "make",
    [
        lambda p: optim.SGD(p, lr=0.05),
        lambda p: optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
        lambda p: optim.Adam(p, lr=0.01, amsgrad=True),
        lambda p: optim.AdamW(p, lr=0.01, betas=(0.8, 0.95)),
        lambda p: optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
        lambda p: optim.Adagrad(p, lr=0.01),
        lambda p: optim.NAdam(p, lr=0.01),
        lambda p: optim.LBFGS(p, lr=0.05, max_iter=3),
    ],
)
def test_training_goes_on_bit_for_bit(tmp_path: Path, make: Make) -> None:
    torch.manual_seed(0)
    model = reshape(build(), recipe_of(build(7)))
    optimizer = make(model.parameters())
    train(model, optimizer, 5)
    keep(tmp_path / "c", model, optimizer, [{"step": 5, "seen": [0.1, None]}])
    expected = train(model, optimizer, 5)

    torch.manual_seed(99)
    other = build()
    follower = make(other.parameters())
    checkpoint = read_checkpoint(tmp_path / "c")
    restore(checkpoint, other, follower)
    assert checkpoint.history == [{"step": 5, "seen": [0.1, None]}]
    assert train(other, follower, 5) == expected
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    assert all(torch.equal(left, right) for left, right in pairs)


def test_groups_keep_their_settings_and_absent_parameters_stay_absent(tmp_path: Path) -> None:
    def make(model: nn.Sequential) -> optim.Optimizer:
        groups = [
            {"params": [model[4].bias], "lr": 0.5},
            {"params": [model[0].weight], "momentum": 0.2},
        ]
        return optim.SGD(groups, lr=0.1, momentum=0.9)

    model = build()
    optimizer = make(model)
    train(model, optimizer, 2)
    optimizer.param_groups[1]["lr"] = 0.025
    keep(tmp_path / "c", model, optimizer)
    other = build()
    follower = make(other)
    restore(read_checkpoint(tmp_path / "c"), other, follower)
    assert [group["lr"] for group in follower.param_groups] == [0.5, 0.025]
    assert [group["momentum"] for group in follower.param_groups] == [0.9, 0.2]
    assert set(follower.state) == {other[4].bias, other[0].weight}
    own = follower.state[other[0].weight]["momentum_buffer"]
    assert torch.equal(own, optimizer.state[model[0].weight]["momentum_buffer"])


def write(path: Path) -> Path:
    model = build()
    keep(path, model, optim.SGD(model.parameters(), lr=0.1))
    return path


def test_another_optimizer_is_refused(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(write(tmp_path / "c"))
    model = build()
    with pytest.raises(RamifyError, match=r"state of SGD over 6 .* is Adam over 6; resume with"):
        restore(checkpoint, model, optim.Adam(model.parameters()))
    with pytest.raises(RamifyError, match=r"SGD over 6 parameters, the optimizer is SGD over 1"):
        restore(checkpoint, model, optim.SGD([model[0].weight], lr=0.1))


def test_a_parameter_of_another_model_is_refused(tmp_path: Path) -> None:
    model = build()
    optimizer = optim.SGD([*model.parameters(), nn.Parameter(torch.zeros(2, 3))], lr=0.1)
    with pytest.raises(RamifyError, match=r"shape \(2, 3\) that is not the model's"):
        keep(tmp_path / "c", model, optimizer)


def test_state_that_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    model = build()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    optimizer.state[model[0].weight]["when"] = object()
    with pytest.raises(RamifyError, match="state/optimizer/state/0.weight/when is a object"):
        keep(tmp_path / "c", model, optimizer)


@pytest.mark.parametrize("keep", [0, 4, 200, -10])
def test_a_torn_file_is_one_clear_sentence(tmp_path: Path, keep: int) -> None:
    path = write(tmp_path / "c")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RamifyError, match="c is not a readable safetensors file .*delete it"):
        read_checkpoint(path)


def test_a_missing_or_other_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RamifyError, match="c is missing; restore it"):
        read_checkpoint(tmp_path / "c")
    with pytest.raises(RamifyError, match="net.safetensors is not a ramify-checkpoint-4 file"):
        read_checkpoint(save(build(), tmp_path / "net"))


def test_a_missing_tensor_is_damage(tmp_path: Path) -> None:
    path = write(tmp_path / "c")
    tensors, metadata = read_tensors(path, "")
    del tensors["random/0/torch/0"]
    write_tensors(path, tensors, metadata)
    with pytest.raises(RamifyError, match="c is damaged .*random/0/torch/0"):
        read_checkpoint(path)


@pytest.mark.parametrize("older", ["ramify-checkpoint-3", "ramify-state-1"])
def test_a_file_of_an_older_version_is_refused(tmp_path: Path, older: str) -> None:
    path = write(tmp_path / "c")
    tensors, metadata = read_tensors(path, "")
    write_tensors(path, tensors, metadata | {"format": older})
    with pytest.raises(
        RamifyError, match=f"c is a {older} file, and this version .* reads ramify-"
    ):
        read_checkpoint(path)


def test_a_run_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RamifyError, match="c is not the checkpoint of a search run; restore it"):
        read_checkpoint(write(tmp_path / "c"), "search")


def test_states_of_any_plain_values_come_back(tmp_path: Path) -> None:
    state = {"a": [1, (2.5, None)], "b": {3: "c", "d": torch.ones(2)}, "e": {}, "<f": {"<g>": 1}}
    state["h"] = Counter({2: 1})
    write_checkpoint(tmp_path / "s", Checkpoint("search", state, [], []))
    found = read_checkpoint(tmp_path / "s", "search").state
    assert torch.equal(found["b"].pop("d"), state["b"].pop("d"))  # type: ignore[attr-defined]
    assert found == state
    assert type(found["h"]) is Counter
    with pytest.raises(RamifyError, match="state/a is a set, which a checkpoint cannot hold"):
        write_checkpoint(tmp_path / "s", Checkpoint("search", {"a": {1}}, [], []))
    assert read_checkpoint(tmp_path / "s").state["e"] == {}
