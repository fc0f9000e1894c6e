"""After an edit: torch.export, ONNX, torch.compile and mixed precision, as for any module."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import ramify
from tests.life.nets import NETS, edit, edited


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch.compiler.reset()


# ------------------------------------------------------------------------------ exporting


@pytest.mark.parametrize("name", NETS)
def test_it_exports(name: str) -> None:
    model, x = edited(name)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
    held = {tuple(tensor.shape) for tensor in program.state_dict.values()}
    assert held == {tuple(tensor.shape) for tensor in model.state_dict().values()}
    other = torch.randn(3, *x.shape[1:])
    torch.testing.assert_close(program.module()(other), model(other))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", NETS)
def test_onnxruntime_gives_the_same_numbers(name: str) -> None:
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    model, x = edited(name)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.onnx.export(
        model, (x,), dynamo=True, dynamic_shapes=({0: batch},), verbose=False
    )
    file = io.BytesIO()
    program.save(file)
    session = runtime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    other = torch.randn(3, *x.shape[1:])
    [found] = session.run(None, {session.get_inputs()[0].name: other.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model(other), rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------ compiling


def gradients(model: nn.Module, call: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    model.zero_grad()
    call(x).square().sum().backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("name", NETS)
def test_an_edited_model_compiles(name: str) -> None:
    model, x = edited(name)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))
    torch.testing.assert_close(gradients(model, compiled, x), gradients(model, model, x))


@pytest.mark.filterwarnings("ignore:Using `torch.compile")
@pytest.mark.parametrize("how", ["wrapped", "in place"])
def test_a_model_compiled_before_is_edited_and_compiles_anew(how: str) -> None:
    build, shape = NETS["conv"]
    model, x = build().eval(), torch.randn(4, *shape)
    if how == "wrapped":
        compiled = torch.compile(model, backend="aot_eager")
    else:
        model.compile(backend="aot_eager")
        compiled = model
    gradients(model, compiled, x)  # its forward and backward are compiled for the old shapes
    edit(ramify.trace(model, x))
    plain = ramify.reshape(build(), ramify.recipe_of(model)).eval()
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(compiled(x), plain(x))
    torch.testing.assert_close(gradients(model, compiled, x), gradients(plain, plain, x))


# ------------------------------------------------------------------------- mixed precision


@pytest.mark.parametrize("name", NETS)
def test_it_trains_under_autocast(name: str) -> None:
    build, shape = NETS[name]
    model, x = build(), torch.randn(4, *shape)
    optimizer = torch.optim.AdamW(model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = model(x)
            assert out.dtype == torch.bfloat16
        out.float().square().sum().backward()
        optimizer.step()

    step()
    edit(ramify.trace(model, x), optimizer=optimizer)
    step()
    assert all(p.grad.shape == p.shape and p.grad.isfinite().all() for p in model.parameters())
    # A network that was built in this shape has the same gradients, to the last bit.
    with warnings.catch_warnings(action="ignore"):  # of a table that no state dict holds
        plain = ramify.reshape(build(), ramify.recipe_of(model))
    plain.load_state_dict(model.state_dict())
    for own, other in zip(plain.buffers(), model.buffers(), strict=True):
        own.copy_(other)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.manual_seed(1)  # the same dropout
        edited_gradients = gradients(model, lambda x: model(x).float(), x)
        torch.manual_seed(1)
        plain_gradients = gradients(plain, lambda x: plain(x).float(), x)
    for one, two in zip(edited_gradients, plain_gradients, strict=True):
        assert torch.equal(one, two)


DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
    ),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("between", ["steps", "backward and step"])
def test_a_scaler_of_gradients_goes_on(device: str, between: str) -> None:
    """The scale is a power of 2, so that scaled steps are the plain ones bit for bit."""
    build, shape = NETS["conv"]
    model, x = build().to(device), torch.randn(4, *shape, device=device)
    other = copy.deepcopy(model)
    found = []
    for net, scaled in ((model, True), (other, False)):
        optimizer = torch.optim.Adam(net.parameters())
        scaler = torch.amp.GradScaler(device, init_scale=2.0**10, enabled=scaled)
        for number in range(3):
            optimizer.zero_grad()
            scaler.scale(net(x).square().mean()).backward()
            if number == 1 and between == "backward and step":
                edit(ramify.trace(net, x), optimizer=optimizer)
            scaler.step(optimizer)
            scaler.update()
            if number == 1 and between == "steps":
                edit(ramify.trace(net, x), optimizer=optimizer)
        found.append([parameter.detach() for parameter in net.parameters()])
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))
    assert found[0][0].shape[0] == 7


def test_a_scaler_skips_a_step_that_overflows_after_an_edit() -> None:
    build, shape = NETS["conv"]
    model, x = build(), torch.randn(4, *shape)
    optimizer, scaler = torch.optim.SGD(model.parameters(), 0.1), torch.amp.GradScaler("cpu")
    edit(ramify.trace(model, x), optimizer=optimizer)
    before = model.fc.weight.detach().clone()
    scaler.scale(model(x).sum() * float("inf")).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(model.fc.weight, before)
    assert scaler.get_scale() == 2.0**15
