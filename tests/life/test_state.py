"""What a model carries beside its weights: modes, flags, hooks, masks and computed weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import ramify
from tests.life.nets import NETS, edit


def tables(model: nn.Module) -> Any:
    """Modes, flags, persistence and every table of hooks, by module."""
    kinds = [key for key, held in vars(nn.Module()).items() if "hook" in key and held == {}]
    return {
        name: (
            module.training,
            sorted(module._non_persistent_buffers_set),
            [(key, list(vars(module)[key].items())) for key in kinds],
            [(key, id(p), p.requires_grad) for key, p in module.named_parameters(recurse=False)],
        )
        for name, module in model.named_modules()
    }


@pytest.mark.parametrize("name", NETS)
def test_modes_flags_persistence_and_hooks_stay(name: str) -> None:
    build, shape = NETS[name]
    model, x = build(), torch.randn(4, *shape)
    layer = model.up
    norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d | nn.LayerNorm))
    norm.eval()  # as in fine-tuning with frozen norms
    norm.requires_grad_(False)
    layer.weight.requires_grad_(False)
    calls: list[tuple[str, torch.Size]] = []
    layer.register_forward_pre_hook(lambda _, given: calls.append(("before", given[0].shape)))
    layer.register_forward_hook(lambda _, __, out: calls.append(("after", out.shape)))
    layer.register_full_backward_hook(lambda _, __, out: calls.append(("back", out[0].shape)))
    model.register_state_dict_post_hook(lambda *_: calls.append(("state", torch.Size())))
    before, buffers = tables(model), dict(model.named_buffers())
    graph = edit(ramify.trace(model, x))
    assert tables(model) == before
    assert dict(model.named_buffers()).keys() == buffers.keys()
    assert all(tensor is buffers[name] for name, tensor in model.named_buffers())
    calls.clear()
    model(x).sum().backward()
    model.state_dict()
    assert [what for what, _ in calls] == ["before", "after", "back", "state"]
    wide = graph["up"].width
    axis = 1 if name == "conv" else 2
    assert calls[1][1][axis] == calls[2][1][axis] == wide
    assert wide != build().up.weight.shape[0]
    assert layer.weight.grad is None
    assert layer.weight.shape[0] == wide


def test_an_edit_counts_as_none_of_the_batches_of_a_norm() -> None:
    build, shape = NETS["conv"]
    model, x = build(), torch.randn(4, *shape)
    model(x)
    kept = model.n0.running_mean.clone()
    graph = ramify.trace(model, x)
    graph = ramify.apply(graph, [ramify.Split("stem", 1), ramify.Prune("stem", 0)])
    assert int(model.n0.num_batches_tracked) == 1
    assert torch.equal(model.n0.running_mean, kept[graph.origin["stem"]])


# --------------------------------------------------------------------- weights computed anew


def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)]
    return nn.Sequential(*layers).double()


class Bounded(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.tanh()


def weight_normed(model: nn.Sequential) -> None:
    parametrizations.weight_norm(model[2])


def weight_normed_by_hooks(model: nn.Sequential) -> None:
    torch.nn.utils.weight_norm(model[2])


def parametrized(model: nn.Sequential) -> None:
    parametrize.register_parametrization(model[2], "weight", Bounded())


def masked(model: nn.Sequential) -> None:
    prune.l1_unstructured(model[0], "weight", 0.3)
    prune.l1_unstructured(model[2], "weight", 0.3)


def masked_twice(model: nn.Sequential) -> None:
    prune.random_unstructured(model[2], "weight", 0.3)
    prune.ln_structured(model[2], "weight", 0.4, n=2, dim=0)


def spectral(model: nn.Sequential) -> None:
    parametrizations.spectral_norm(model[2])


def spectral_by_hooks(model: nn.Sequential) -> None:
    torch.nn.utils.spectral_norm(model[2])


def orthogonal(model: nn.Sequential) -> None:
    parametrizations.orthogonal(model[2])


Wrap = Callable[[nn.Sequential], None]
FOLLOWED = [weight_normed, weight_normed_by_hooks, parametrized, masked, masked_twice]


def wrapped(wrap: Wrap) -> tuple[nn.Sequential, torch.optim.Optimizer, Tensor]:
    """The network after a step of Adam, in eval mode."""
    model, x = net(), torch.randn(7, 4).double()
    wrap(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model(x).square().sum().backward()
    optimizer.step()
    return model.eval(), optimizer, x


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("wrap", FOLLOWED)
def test_what_computes_a_weight_is_edited(tmp_path: Path, wrap: Wrap) -> None:
    model, optimizer, x = wrapped(wrap)
    before = model(x)
    graph = ramify.apply(
        ramify.trace(model, x), [ramify.Split("2", 1, (0.5, 0.3, 0.2))], optimizer=optimizer
    )
    torch.testing.assert_close(model(x), before, rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        model[4].weight[:, 0] = 0  # what reads channel 0 of the layer
    before = model(x)
    ramify.apply(graph, [ramify.Prune("2", 0)], optimizer=optimizer)
    torch.testing.assert_close(model(x), before, rtol=1e-10, atol=1e-12)
    assert model[2].weight.shape == (6, 6)
    trained(model, optimizer, x)

    def build() -> nn.Module:
        again = net()
        wrap(again)
        return again

    loaded = ramify.load(ramify.save(model.eval(), tmp_path / "net"), build=build).eval()
    assert torch.equal(loaded(x), model(x))


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    """Two more steps, with a state of every parameter's own shape."""
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    for parameter in model.parameters():
        assert optimizer.state[parameter]["exp_avg"].shape == parameter.shape
        assert parameter.isfinite().all()


@pytest.mark.parametrize("wrap", [masked, masked_twice])
def test_masks_stay_masks(wrap: Wrap) -> None:
    """What torch's pruning holds at zero stays there, and is made permanent as before."""
    model, optimizer, x = wrapped(wrap)
    mask = model[2].weight_mask.clone()
    graph = ramify.trace(model, x)
    edits = [ramify.Split("2", 1), ramify.Prune("2", 0), ramify.Prune("0", 3)]
    graph = ramify.apply(graph, edits, optimizer=optimizer)
    kept = [0, 1, 2, 4, 5]
    assert torch.equal(model[2].weight_mask, mask[graph.origin["2"]][:, kept])
    trained(model, optimizer, x)
    assert (model[2].weight[model[2].weight_mask == 0] == 0).all()
    before = model.eval()(x)
    prune.remove(model[2], "weight")
    assert isinstance(model[2].weight, nn.Parameter)
    torch.testing.assert_close(model(x), before)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("wrap", [spectral, spectral_by_hooks])
def test_a_spectral_norm_is_pruned_and_its_split_is_refused(tmp_path: Path, wrap: Wrap) -> None:
    model, optimizer, x = wrapped(wrap)
    graph = ramify.trace(model, x)
    for name in ("0", "2"):
        with pytest.raises(ramify.RamifyError, match=f"'{name}' cannot be split: .*_norm in mod"):
            ramify.apply(graph, [ramify.Split(name, 1)], optimizer=optimizer)
    ramify.apply(graph, [ramify.Prune("0", 1), ramify.Prune("2", 1)], optimizer=optimizer)
    trained(model.train(), optimizer, x)
    with torch.no_grad():
        for _ in range(100):  # the power iteration finds the norm of the smaller matrix
            model(x)
    model.eval()(x)
    assert model[2].weight.shape == (4, 5)
    assert float(torch.linalg.matrix_norm(model[2].weight.detach(), 2)) == pytest.approx(
        1.0, abs=1e-6
    )

    def build() -> nn.Module:
        again = net()
        wrap(again)
        return again

    loaded = ramify.load(ramify.save(model, tmp_path / "net"), build=build).eval()
    assert torch.equal(loaded(x), model(x))


def test_an_orthogonal_layer_stays_as_wide_as_it_is() -> None:
    """Its rows are of one rotation, and frozen; its columns can go, as zeros would."""
    model, optimizer, x = wrapped(orthogonal)
    graph = ramify.trace(model, x)
    with pytest.raises(ramify.RamifyError, match="'2' cannot be pruned: aten::.* in module '2"):
        ramify.apply(graph, [ramify.Prune("2", 1)], optimizer=optimizer)
    with pytest.raises(ramify.RamifyError, match="'0' cannot be split: the weight that reads it"):
        ramify.apply(graph, [ramify.Split("0", 1)], optimizer=optimizer)
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = 0, 0  # tanh(0) = 0 is what the layer reads
    before = model(x)
    ramify.apply(ramify.trace(model, x), [ramify.Prune("0", 1)], optimizer=optimizer)
    torch.testing.assert_close(model(x), before, rtol=1e-10, atol=1e-12)


def test_a_cached_weight_is_not_edited() -> None:
    """Within `parametrize.cached` a computed weight depends on no parameter that could follow."""
    model, optimizer, x = wrapped(parametrized)
    with parametrize.cached():
        before = model(x)
        with pytest.raises(ramify.RamifyError, match="'2' makes no channels that an edit could"):
            ramify.apply(ramify.trace(model, x), [ramify.Split("2", 1)], optimizer=optimizer)
        assert torch.equal(model(x), before)
    ramify.apply(ramify.trace(model, x), [ramify.Split("2", 1)], optimizer=optimizer)
    torch.testing.assert_close(model(x), before, rtol=1e-10, atol=1e-12)
