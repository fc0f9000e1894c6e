"""Refit against a brute-force least squares in float64, on networks of every kind of reader."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import ramify
from ramify.refit import Reference, refit_readers
from ramify.tracing.recorder import tensors_of
from tests.refit.networks import CASES

STRENGTH = 0.1


def built(name):
    """A network in float64 with norms that hold something, its inputs, and groups to cut."""
    torch.manual_seed(0)
    model, shape, groups = CASES[name]()
    model = model.double()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias, std=0.3)
    inputs = torch.randint(0, 40, shape) if name == "language" else torch.randn(shape).double()
    return model.eval(), inputs, groups


def cut(model, inputs, groups, strengths=(STRENGTH,), **options):
    """Cut a third of each group and refit: (what it was, what it is without refit, whose rows
    are left, what was found)."""
    before = copy.deepcopy(model)
    graph = ramify.trace(model, inputs)
    edits = [
        ramify.Prune(g, c)
        for g in groups
        for c in range(0, graph[g].width, 3)
        if graph[g].width > 1
    ]
    reference = Reference(graph)
    reference.follow(graph, edits)
    rows = numbered(model)
    graph = ramify.apply(graph, edits, followers=rows)
    plain = copy.deepcopy(model)
    found = refit_readers(model, reference, batched(inputs), strengths=strengths, **options)
    return before, plain, rows, found


def numbered(model):
    """A state dictionary that says of each entry of a layer's weight which output it makes."""
    state = {name: tensor.detach().clone() for name, tensor in tensors_of(model).items()}
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
            weight, groups = state[f"{name}.weight"], getattr(module, "groups", 1)
            made = torch.arange(module.weight.shape[0]).double()
            if isinstance(module, nn.modules.conv._ConvTransposeNd):
                made = torch.arange(weight.shape[1] * groups).double().view(groups, 1, -1)
                made = made.expand(groups, weight.shape[0] // groups, -1).flatten(0, 1)
                weight.copy_(made.view(*made.shape, *[1] * (weight.dim() - 2)).expand_as(weight))
            else:
                weight.copy_(made.view(-1, *[1] * (weight.dim() - 1)).expand_as(weight))
    return state


def outputs_kept(rows, module, name):
    """Which of the old outputs of a layer its outputs are, in order."""
    weight = rows[f"{name}.weight"].long()
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        weight = weight.reshape(module.groups, -1, *weight.shape[1:])[:, 0].flatten(0, 1)
    return weight.reshape(weight.shape[0], -1)[:, 0]


def batched(inputs):
    return list(inputs.split(max(1, len(inputs) // 2)))


def watched(model, inputs):
    """What every layer with a weight reads and makes."""
    seen, handles = {}, []
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):

            def keep(_, i, o, name=name):
                seen[name] = (i[0].detach(), o.detach())

            handles.append(module.register_forward_hook(keep))
    with torch.no_grad():
        model(inputs)
    for handle in handles:
        handle.remove()
    return seen


def brute(module, x, y, norm):
    """The ridge solution from the Jacobian of the layer, row by row: (weight, bias)."""
    weight = module.weight.detach()
    made = module(x) - (0 if module.bias is None else _shaped(module.bias, module(x), module))

    def run(w, x=x):
        return torch.func.functional_call(module, {"weight": w}, (x,))

    jacobian = torch.func.jacrev(run)(weight).detach()
    dense = torch.func.jacrev(lambda w: run(w, torch.rand_like(x[:1])))(weight).detach()
    dim = 1 if isinstance(module, nn.modules.conv._ConvNd) else made.dim() - 1
    new, biases = torch.zeros_like(weight).reshape(-1), []
    jacobian = jacobian.movedim(dim, 0).reshape(made.shape[dim], -1, weight.numel())
    reach = dense.movedim(dim, 0).reshape(made.shape[dim], -1, weight.numel()).sum(1) != 0
    target, now = y.movedim(dim, 0).flatten(1), made.detach().movedim(dim, 0).flatten(1)
    centred = module.bias is not None or norm
    for phi, used, want, has in zip(jacobian, reach, target, now, strict=True):
        rows, features = len(phi), phi[:, used]
        mid = features.mean(0) if centred else torch.zeros(features.shape[1]).double()
        ridge = STRENGTH * (features - mid).square().sum(0).mean() / rows
        full = torch.cat([features, torch.ones(rows, int(centred)).double()], 1)
        pull = torch.eye(full.shape[1]).double()[: features.shape[1]] * (rows * ridge).sqrt()
        left = torch.cat([full, pull])
        right = torch.cat([want - has, torch.zeros(features.shape[1]).double()])
        solved = torch.linalg.lstsq(left, right[:, None], driver="gelsd").solution[:, 0]
        new[used] += solved[: features.shape[1]]
        biases.append(solved[-1] if centred else torch.tensor(0.0).double())
    return weight + new.view(weight.shape), torch.stack(biases)


def _shaped(bias, like, module):
    return (
        bias.view(-1, *[1] * (like.dim() - 2))
        if like.dim() > 2 and not isinstance(module, nn.Linear)
        else bias
    )


@pytest.mark.parametrize("name", [n for n in CASES if n not in ("bare", "recurrent")])
def test_refit_is_the_least_squares_solution(name):
    model, inputs, groups = built(name)
    before, plain, rows, _ = cut(model, inputs, groups, norms=False, corrected=False)
    now, then = watched(model, inputs), watched(before, inputs)
    changed = 0
    for path, (x, _) in now.items():
        layer = plain.get_submodule(path)
        y = then[path][1]
        dim = 1 if isinstance(layer, nn.modules.conv._ConvNd) else y.dim() - 1
        y = y.index_select(dim, outputs_kept(rows, layer, path))
        names = dict(model.named_modules())
        follow = list(names)[list(names).index(path) + 1 :]
        norm = bool(follow) and isinstance(names[follow[0]], nn.modules.batchnorm._BatchNorm)
        norm = norm or path == "stem"
        weight, bias = brute(layer, x, y, norm)
        fitted = model.get_submodule(path)
        torch.testing.assert_close(fitted.weight.detach(), weight, rtol=0, atol=1e-8)
        if layer.bias is not None:
            torch.testing.assert_close(fitted.bias.detach(), bias, rtol=0, atol=1e-8)
        changed += not torch.equal(fitted.weight, layer.weight)
    assert changed


@pytest.mark.parametrize("name", ["bare", "recurrent"])
def test_readers_without_a_module_of_their_own(name):
    model, inputs, groups = built(name)
    before, plain, _, found = cut(model, inputs, groups)
    with torch.no_grad():
        true, rough, fitted = (net(inputs) for net in (before, plain, model))
    assert (fitted - true).square().mean() < 0.6 * (rough - true).square().mean()
    names = {entry.name for entry in found if entry.after < entry.before}
    assert names >= {"bare": {"second", "third"}, "recurrent": {"rnn.weight_ih_l0"}}[name]


@pytest.mark.parametrize("name", CASES)
def test_no_error_on_the_sample_rises(name):
    model, inputs, groups = built(name)
    before, plain, _, found = cut(model, inputs, groups, strengths=(1e-4, 1e-2, 1.0))
    assert all(entry.after <= entry.before for entry in found)
    with torch.no_grad():
        true, rough, fitted = (net(inputs) for net in (before, plain, model))
    assert (fitted - true).square().mean() <= (rough - true).square().mean()


def moments_at_norms(model, inputs):
    """Mean and variance of the input and of the output of every batch norm, and the norms."""
    seen = {}
    norms = {n: m for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    for name, norm in norms.items():
        norm.register_forward_hook(lambda m, i, o, name=name: seen.update({name: (i[0], o)}))
    with torch.no_grad():
        model(inputs)
    return {
        name: [(x.mean((0, 2, 3)), x.var((0, 2, 3))) for x in pair] for name, pair in seen.items()
    }, norms


@pytest.mark.parametrize("affine", [True, False])
def test_norms_hold_what_they_see_and_put_out_what_they_did(affine):
    model, inputs, groups = built("residual")
    for norm in [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]:
        norm.eps = 1e-12
        if not affine:
            norm.weight = norm.bias = None
    full, _ = moments_at_norms(copy.deepcopy(model), inputs)
    cut(model, inputs, groups)
    found, norms = moments_at_norms(model, inputs)
    assert len(norms) > 1
    for name, norm in norms.items():
        mean, variance = found[name][0]
        if affine:
            torch.testing.assert_close(norm.running_mean, mean, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(norm.running_var, variance, rtol=1e-9, atol=1e-9)
        for mine, old in zip(found[name][1], full[name][1], strict=True):
            whole = len(mine) == len(old)
            kept = [channel for channel in range(len(old)) if whole or channel % 3]
            torch.testing.assert_close(mine, old[kept], rtol=1e-8, atol=1e-8)


def test_a_linear_combination_goes_without_a_change():
    """Eight channels of five inputs, no activation between: any three are made of the others."""
    model = nn.Sequential(
        nn.Conv2d(5, 8, 1), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1)
    ).double()
    inputs = torch.randn(6, 5, 7, 7).double()
    graph = ramify.trace(model, inputs)
    expected, reference = model(inputs), Reference(graph)
    edits = [ramify.Prune("0", c) for c in (1, 4, 6)]
    reference.follow(graph, edits)
    ramify.apply(graph, edits)
    refit_readers(model, reference, [inputs])
    torch.testing.assert_close(model(inputs), expected, rtol=1e-6, atol=1e-6)
    fresh = torch.randn(2, 5, 7, 7).double()
    with reference.restored():
        torch.testing.assert_close(reference.model(inputs), expected)
        expected = model(fresh)
    torch.testing.assert_close(model(fresh), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("norm", [False, True])
def test_a_split_in_a_linear_path_is_merged_again(norm):
    layers = [nn.Conv2d(9, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1)]
    model = nn.Sequential(*(layers if norm else [layers[0], layers[2]])).double().eval()
    inputs = torch.randn(8, 9, 7, 7).double()
    expected = model(inputs)
    graph = ramify.trace(model, inputs)
    offset = torch.randn(9, 3, 3).double()
    offsets = torch.stack([offset, -offset, 0 * offset])
    split = ramify.Split("0", 2, (0.3, 0.3, 0.4), {"0.weight": offsets})
    graph = ramify.apply(graph, [split])
    torch.testing.assert_close(model(inputs), expected, rtol=1e-9, atol=1e-9)
    reference, edits = (
        Reference(graph),
        [ramify.Prune("0", 2)],
    )  # it is twice the third, less the second
    reference.follow(graph, edits)
    ramify.apply(graph, edits)
    refit_readers(model, reference, [inputs])
    torch.testing.assert_close(model(inputs), expected, rtol=1e-6, atol=1e-6)


def test_what_is_untouched_stays_to_the_bit():
    model, inputs, _ = built("residual")
    state = copy.deepcopy(model.state_dict())
    reference = Reference(ramify.trace(model, inputs))
    found = refit_readers(model, reference, [inputs], norms=False)
    assert all(entry.before == entry.after for entry in found)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert not any(module._forward_hooks for module in model.modules())


def test_several_edits_one_after_the_other():
    model, inputs, _ = built("kernel")
    before = copy.deepcopy(model)
    graph = ramify.trace(model, inputs)
    reference = Reference(graph)
    for channel in (4, 1):
        edits = [ramify.Prune("0", channel)]
        reference.follow(graph, edits)
        graph = ramify.apply(graph, edits)
    refit_readers(model, reference, [inputs], strengths=(STRENGTH,))
    other, _, _ = built("kernel")
    graph = ramify.trace(other, inputs)
    reference, edits = Reference(graph), [ramify.Prune("0", c) for c in (1, 4)]
    reference.follow(graph, edits)
    ramify.apply(graph, edits)
    refit_readers(other, reference, [inputs], strengths=(STRENGTH,))
    torch.testing.assert_close(model(inputs), other(inputs), rtol=0, atol=1e-12)
    with reference.restored():
        assert torch.equal(other(inputs), before(inputs))


def test_half_precision_keeps_its_type():
    model, inputs, groups = built("gated")
    model, inputs = model.to(torch.bfloat16), inputs.to(torch.bfloat16)
    before, plain, _, _ = cut(model, inputs, groups)
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())
    with torch.no_grad():
        true, rough, fitted = (net(inputs).float() for net in (before, plain, model))
    assert (fitted - true).square().mean() < (rough - true).square().mean()


def test_no_batch_is_refused():
    model, inputs, _ = built("linear")
    reference = Reference(ramify.trace(model, inputs))
    with pytest.raises(ramify.RamifyError, match="no batch"):
        refit_readers(model, reference, [])


def test_a_reader_of_too_many_features_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr("ramify.refit.moments.WIDEST", 10)
    model, inputs, groups = built("flatten")
    _, plain, _, found = cut(model, inputs, groups)
    assert torch.equal(model[3].weight, plain[3].weight)
    assert [entry.name for entry in found] == ["5.weight"]
