"""Plain training: the learning rate, the optimizers, and what stops it."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ramify.errors import RamifyError
from ramify.probe.loss import mean_loss
from ramify.train.epoch import (
    Training,
    cross_entropy,
    descend,
    evaluate,
    evaluating,
    make_optimizer,
    train_epoch,
)

Batch = tuple[Tensor, Tensor]


def squares(model: nn.Module, batch: Batch) -> Tensor:
    return (model(batch[0]) - batch[1]).square().sum(1)


def batches() -> list[Batch]:
    return [(torch.randn(5, 2), torch.randn(5, 1)), (torch.randn(3, 2), torch.randn(3, 1))]


def epoch(
    model: nn.Module, loss: Callable[..., Tensor], data: list[Batch], training: Training
) -> float:
    optimizer = make_optimizer(model, training)
    return train_epoch(model, loss, data, optimizer, lambda step: 1.0, "round 0, epoch 3")[0]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"schedule": "cosine"}, [0.5 * (1 + math.cos(math.pi * i / 8)) for i in range(8)]),
        ({"schedule": "steps"}, [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]),
        ({"schedule": "steps", "milestones": (0.25,)}, [1, 1] + [0.1] * 6),
        ({"schedule": "constant"}, [1] * 8),
    ],
)
def test_the_rate_is_a_function_of_the_step(
    settings: dict[str, Any], expected: list[float]
) -> None:
    training = Training(**settings)
    assert [training.factor(step, 8) for step in range(8)] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("losses", "flat"),
    [
        ([1.0, 1.0], False),  # as many epochs as the patience cannot tell
        ([1.0, 1.0, 1.0], True),
        ([1.0, 0.995, 0.9901], True),
        ([1.0, 0.995, 0.9899], False),  # slowly, but by more than 1 % in two epochs
        ([1.0, 0.5, 0.6, 0.6], True),
        ([1.0, 0.5, 0.6, 0.4], False),
        ([-1.0, -1.005, -1.005], True),
        ([-1.0, -1.02, -1.0], False),
    ],
)
def test_a_plateau_is_where_the_lowest_loss_is_no_new_one(losses: list[float], flat: bool) -> None:
    assert Training(patience=2).flat(losses) is flat
    assert Training().flat(losses) is False


def test_something_may_follow_each_step() -> None:
    model, seen = nn.Linear(2, 1), []
    optimizer = make_optimizer(model, Training())

    def note(stepped: nn.Module) -> None:
        assert stepped is model
        seen.append(model.weight.detach().clone())

    train_epoch(model, squares, batches(), optimizer, lambda step: 1.0, after_step=note)
    assert len(seen) == 2
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[1], model.weight)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)],
)
def test_settings_reach_the_optimizer(name: str, kind: type) -> None:
    model = nn.Linear(2, 1)
    training = Training(optimizer=name, lr=0.3, momentum=0.5, nesterov=True, weight_decay=0.25)
    optimizer = make_optimizer(model, training)
    group = optimizer.param_groups[0]
    assert type(optimizer) is kind
    assert (group["lr"], group["weight_decay"]) == (0.3, 0.25)
    assert set(map(id, group["params"])) == set(map(id, model.parameters()))
    if name == "sgd":
        assert (group["momentum"], group["nesterov"]) == (0.5, True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "lion"}, "unknown optimizer 'lion'; choose one of sgd, adam, adamw"),
        (
            {"schedule": "linear"},
            "unknown schedule 'linear'; choose one of cosine, steps, constant",
        ),
        ({"span": "day"}, "unknown span 'day'; choose one of round, run"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov needs momentum"),
        ({"milestones": (0.5, 0.5)}, "milestones are 0.5, 0.5; give rising shares between 0 and 1"),
        ({"milestones": (0.5, 1.0)}, "milestones are 0.5, 1.0"),
        ({"epochs": -1}, "epochs is -1; it must not be negative"),
        ({"warmup": 1.0}, "warmup is 1.0; it must be at least 0 and below 1"),
        ({"patience": 0}, "patience is 0; it must be a number of epochs, 1 or more"),
        ({"lr": 0.0}, "learning rate is 0.0; it must be above 0"),
        ({"lr": math.nan}, "learning rate is nan"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(RamifyError, match=message):
        Training(**settings)  # type: ignore[arg-type]


def test_an_epoch_is_gradient_descent_on_the_mean_loss() -> None:
    model, data = nn.Linear(2, 1), batches()
    weight = model.weight.detach().clone().requires_grad_()
    bias = model.bias.detach().clone().requires_grad_()
    total = 0.0
    for (x, y), factor in zip(data, (1.0, 0.5), strict=True):
        losses = (x @ weight.T + bias - y).square().sum(1)
        gradients = torch.autograd.grad(losses.mean(), (weight, bias))
        with torch.no_grad():
            weight -= 0.1 * factor * gradients[0]
            bias -= 0.1 * factor * gradients[1]
        total += float(losses.sum().detach())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.param_groups[0]["initial_lr"] = 0.1
    mean, steps = train_epoch(model, squares, data, optimizer, lambda step: 1 / (1 + step))
    assert (mean, steps) == (pytest.approx(total / 8), 2)
    assert torch.allclose(model.weight, weight)
    assert torch.allclose(model.bias, bias)


@pytest.mark.parametrize(
    ("loss", "seen"),
    [
        (lambda model, batch: squares(model, batch).mean(), r'\(\): use reduction="none"'),
        (lambda model, batch: (model(batch[0]) - batch[1]).square(), r"\(5, 1\): flatten it"),
        (
            lambda model, batch: (model(batch[0]) - batch[1]).repeat(1, 2),
            r"\(5, 2\): take each sample's mean",
        ),
        (lambda model, batch: squares(model, batch).tolist(), "returned a list: return the tensor"),
    ],
)
def test_a_loss_that_is_not_one_a_sample_is_refused(loss: Callable[..., Tensor], seen: str) -> None:
    with pytest.raises(RamifyError, match=rf"epoch 3, step 0: .* {seen}"):
        epoch(nn.Linear(2, 1), loss, batches(), Training())
    with pytest.raises(RamifyError, match=seen):
        mean_loss(nn.Linear(2, 1), loss, batches())


def test_a_loss_that_is_not_finite_names_its_step() -> None:
    data = batches()
    data[1][0][1, 1] = math.inf
    with pytest.raises(RamifyError, match=r"round 0, epoch 3, step 1: the loss of sample 1 is"):
        epoch(nn.Linear(2, 1), squares, data, Training())


def test_a_weight_that_is_not_finite_is_named() -> None:
    class Overflow(torch.optim.SGD):
        def step(self, closure: None = None) -> None:
            self.param_groups[0]["params"][1].data.fill_(math.inf)

    model = nn.Sequential(nn.Linear(2, 1))
    optimizer = Overflow(model.parameters(), lr=0.1)
    optimizer.param_groups[0]["initial_lr"] = 0.1
    with pytest.raises(RamifyError, match=r"after round 2: parameter '0.bias' .* not finite"):
        train_epoch(model, squares, batches()[:1], optimizer, lambda step: 1.0, "round 2")


def test_a_tensor_that_backward_needs_and_the_loss_overwrites_is_named() -> None:
    model = nn.Linear(2, 1)
    losses = model(torch.ones(3, 2)).exp().mul_(2.0).squeeze(1)
    with pytest.raises(RamifyError, match="write that operation out of place"):
        descend(model, losses, torch.optim.SGD(model.parameters(), lr=0.1))


def test_data_that_is_used_up_is_refused() -> None:
    with pytest.raises(RamifyError, match=r"no batch at round 0, epoch 3; give a list"):
        epoch(nn.Linear(2, 1), squares, [], Training())


def test_evaluation_leaves_every_mode_and_statistic() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    model.train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]

    def fail() -> None:
        with evaluating(model):
            assert not torch.is_grad_enabled()
            assert not any(module.training for module in model.modules())
            model(torch.randn(3, 2))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.is_grad_enabled()


def test_measures_weigh_every_sample_alike() -> None:
    model = nn.Linear(2, 3)
    x, y = torch.randn(8, 2), torch.randint(0, 3, (8,))
    parts = [(x[:5], y[:5]), (x[5:], y[5:])]
    loss, accuracy = evaluate(model, parts)
    logits = model(x)
    assert loss == pytest.approx(float(nn.functional.cross_entropy(logits, y).detach()))
    assert accuracy == pytest.approx(float((logits.argmax(1) == y).float().mean()))

    def entropy(net: nn.Module, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(net(batch[0]), batch[1], reduction="none")

    model.train()
    assert mean_loss(model, entropy, iter(parts)) == pytest.approx(loss)
    assert model.training
    with pytest.raises(RamifyError, match="there is no batch to measure the loss on"):
        mean_loss(model, entropy, iter(()))


def test_smoothing_spreads_a_share_of_each_label_over_all_classes() -> None:
    model, batch = nn.Linear(2, 3), (torch.randn(5, 2), torch.tensor([0, 2, 1, 1, 0]))
    logs = model(batch[0]).log_softmax(1)
    own = -logs.gather(1, batch[1][:, None]).squeeze(1)
    torch.testing.assert_close(cross_entropy(model, batch), own)
    wanted = 0.9 * own - 0.1 * logs.mean(1)
    torch.testing.assert_close(cross_entropy(model, batch, label_smoothing=0.1), wanted)
