"""The benchmark of cuts: its arms meet the budget, and its tuning does what its recipe says."""

import importlib.util

import pytest
import torch
from torch import Tensor, nn

from benchmarks.cut.arms import ARMS, OURS, cost, pruned
from benchmarks.cut.network import epoch, halves, loss, parts
from benchmarks.cut.torch_pruning import _gradients
from benchmarks.cut.tuning import Recipe, Remembered, tuned


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 4),
    ).eval()


def data(count: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 3, 6, 6, generator=generator)
    return x, torch.randint(4, (count,), generator=generator)


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_meets_its_share(arm: str) -> None:
    if arm not in OURS and importlib.util.find_spec("torch_pruning") is None:
        pytest.skip("Torch-Pruning is not installed")
    model, (x, y) = net(), data()
    before = cost(model, x[:1]).macs
    small = pruned(arm, model, x[:1], loss, [(x, y)], 0.6)
    share = cost(small, x[:1]).macs / before
    least = 0.1 if arm == "depth and widths" else 0.45  # one block is most of this network
    assert least < share <= (0.6 if arm in OURS else 0.7)
    assert torch.isfinite(small(x)).all()


def test_the_hessian_is_the_mean_square_over_single_samples() -> None:
    model, (x, y) = net(), data(5)
    found = _gradients(model, loss, [(x[:3], y[:3]), (x[3:], y[3:])], squared=True)
    weight = model[-1].weight
    each = [torch.autograd.grad(one, weight, retain_graph=True)[0] for one in loss(model, (x, y))]
    torch.testing.assert_close(found["8.weight"], torch.stack(each).square().mean(0))


def test_a_taught_network_learns_what_its_teacher_says() -> None:
    x, y = data()
    torch.manual_seed(2)
    teacher, student = (nn.Sequential(nn.Flatten(), nn.Linear(108, 4)) for _ in range(2))
    recipe = Recipe(lr=0.2, epochs=60, taught=1.0, labels=0.0, warmup=0.1, weight_decay=0.0)
    tuned(student, loss, lambda _: [(x, y)], recipe, teacher)
    apart = (student(x).softmax(1) - teacher(x).softmax(1)).abs().mean()
    assert apart < 0.01


def test_a_remembered_teacher_runs_once_for_each_input() -> None:
    x, _ = data(8)
    calls = []
    teacher = net()
    teacher.register_forward_hook(lambda module, args, out: calls.append(len(args[0])))
    remembered = Remembered(teacher)
    torch.testing.assert_close(remembered(x[:5]), net()(x[:5]))
    torch.testing.assert_close(remembered(x.flip(0)), net()(x.flip(0)))
    assert calls == [5, 3]


def test_an_epoch_has_every_image_once_and_halves_have_none_in_common() -> None:
    images = data()
    seen = list(epoch(images, (3, 0)))
    labels = torch.cat([y for _, y in seen])
    assert torch.equal(labels.sort().values, images[1].sort().values)
    known = {one.numpy().tobytes() for one in torch.cat([images[0], images[0].flip(3)])}
    assert all(one.numpy().tobytes() in known for x, _ in seen for one in x)
    assert not torch.equal(seen[0][0], next(iter(epoch(images, (3, 1))))[0])
    kept, held = halves(images, 10)
    assert (len(kept[1]), len(held[1])) == (54, 10)
    pixels = [{one.numpy().tobytes() for one in x} for x, _ in (kept, held)]
    assert pixels[0].isdisjoint(pixels[1])
    assert sum(len(y) for _, y in parts(kept, size=20)) == 54
