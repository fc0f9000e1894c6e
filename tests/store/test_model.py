"""Saving, loading and reshaping: every value, type and tie comes back, every mistake is named."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.fx
from safetensors.torch import load_file
from torch import Tensor, nn

from ramify.errors import RamifyError
from ramify.store.model import load, named_tensors, recipe_of, reshape, save


class Net(nn.Module):
    """Convolution, norms, a buffer that state_dict leaves out, and a bare parameter."""

    scale: Tensor

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.layer = nn.LayerNorm(width)
        self.out = nn.Linear(width, 5)
        self.gain = nn.Parameter(torch.randn(width))
        self.register_buffer("scale", torch.rand(width), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x)).relu().mean((2, 3)) * self.gain * self.scale
        return self.out(self.layer(y))


class Tied(nn.Module):
    def __init__(self, width: int = 4, tie: bool = True) -> None:
        super().__init__()
        self.table = nn.Embedding(7, width)
        self.head = nn.Linear(width, 7, bias=False)
        if tie:
            self.head.weight = self.table.weight


def bits(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in named_tensors(model).items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name])
        for name in left
    )


def test_a_network_comes_back_with_its_shape_values_and_types(tmp_path: Path) -> None:
    net = Net(9).double()
    net(torch.randn(6, 3, 8, 8).double())
    loaded = load(save(net, tmp_path / "net"), build=Net)
    assert same(bits(loaded), bits(net))
    assert loaded.conv.out_channels == loaded.norm.num_features == loaded.out.in_features == 9
    assert loaded.layer.normalized_shape == (9,)
    x = torch.randn(2, 3, 8, 8).double()
    assert torch.equal(loaded.eval()(x), net.eval()(x))


def plain(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 2))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("of", [torch.fx.symbolic_trace, torch.jit.script])
def test_a_graph_or_a_script_of_a_network_comes_back(
    of: Callable[[nn.Module], nn.Module], tmp_path: Path
) -> None:
    net, x = of(plain(9)).eval(), torch.randn(2, 3)
    loaded = load(save(net, tmp_path / "net"), build=lambda: of(plain()))
    assert torch.equal(loaded.eval()(x), net(x))


@pytest.mark.parametrize("name", ["net", "net.safetensors", "net.v2"])
def test_the_two_files_have_one_stem(tmp_path: Path, name: str) -> None:
    written = save(Net(), tmp_path / name)
    stem = name.removesuffix(".safetensors")
    assert written == tmp_path / f"{stem}.safetensors"
    assert sorted(os.listdir(tmp_path)) == [f"{stem}.json", f"{stem}.safetensors"]
    load(tmp_path / name, build=Net)


def test_a_module_of_the_right_shape_loads_without_ramify(tmp_path: Path) -> None:
    net, other = nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 2)), nn.Linear(3, 6)
    save(net, tmp_path / "net")
    stored = load_file(tmp_path / "net.safetensors")
    nn.Sequential(other, nn.Linear(6, 2)).load_state_dict(stored)
    assert torch.equal(other.weight, net[0].weight)


@pytest.mark.parametrize("built_tied", [True, False])
def test_tied_weights_stay_tied(tmp_path: Path, built_tied: bool) -> None:
    net = Tied(6)
    loaded = load(save(net, tmp_path / "net"), build=lambda: Tied(4, built_tied))
    assert loaded.head.weight is loaded.table.weight
    assert same(bits(loaded), bits(net))


def test_a_tie_that_was_not_saved_is_an_error(tmp_path: Path) -> None:
    path = save(Tied(tie=False), tmp_path / "net")
    with pytest.raises(RamifyError, match=r"ties head.weight .* build the model without that tie"):
        load(path, build=Tied)


def test_tensors_that_share_memory_are_written_in_full(tmp_path: Path) -> None:
    net = nn.Module()
    whole = torch.arange(6.0)
    net.register_buffer("whole", whole)
    net.register_buffer("part", whole[:3])
    save(net, tmp_path / "net")
    stored = load_file(tmp_path / "net.safetensors")
    assert torch.equal(stored["whole"], whole)
    assert torch.equal(stored["part"], whole[:3])


def test_a_type_that_no_file_holds_is_named(tmp_path: Path) -> None:
    model = nn.Linear(2, 3, dtype=torch.complex64)
    save(model, tmp_path / "net")
    again = load(tmp_path / "net", build=lambda: nn.Linear(2, 3, dtype=torch.complex64))
    assert torch.equal(again.weight, model.weight)
    with pytest.raises(RamifyError, match="'weight' is of torch.complex128, which a safetensors"):
        save(model.to(torch.complex128), tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.json", "net.safetensors"]


def test_reshape_keeps_what_is_not_shape() -> None:
    net = Net().to(torch.float64, memory_format=torch.channels_last)
    net.out.weight.requires_grad_(False)
    before = dict(net.named_parameters())
    with pytest.warns(UserWarning, match="scale changed its shape to .11,. and no state_dict"):
        assert reshape(net, recipe_of(Net(11))) is net
    assert all(before[name] is parameter for name, parameter in net.named_parameters())
    assert {p.dtype for p in net.parameters()} == {torch.float64}
    assert not net.out.weight.requires_grad
    assert net.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert not net.conv.weight.is_contiguous()
    assert net.conv.weight.shape == (11, 3, 3, 3)


def test_reshape_repeats_values_and_drops_gradients_that_no_longer_fit() -> None:
    net = nn.Linear(2, 2)
    net(torch.randn(1, 2)).sum().backward()
    old = net.weight.detach().clone()
    reshape(net, recipe_of(nn.Linear(2, 5)))
    assert torch.equal(net.weight, old[[0, 1, 0, 1, 0]])
    assert net.weight.grad is None


def test_reshape_changes_nothing_where_it_fails() -> None:
    net, recipe = Net(), recipe_of(Net(9))
    recipe["shapes"]["out.bias"] = [5, 5]
    before = bits(net)
    with pytest.raises(RamifyError, match=r"out.bias has 1 axes, .* the shape \[5, 5\]"):
        reshape(net, recipe)
    assert same(bits(net), before)
    assert net.conv.out_channels == 4


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: nn.Linear(3, 3),
            "test_model.Net, but the model is a torch.nn.* of the saved class",
        ),
        (lambda: reduced(), "gain is only in one.* with the arguments it was saved with"),
        (lambda: lazy(), "out.weight has no shape yet .* run the model on one batch"),
    ],
)
def test_another_model_is_refused(
    tmp_path: Path, build: Callable[[], nn.Module], message: str
) -> None:
    path = save(Net(), tmp_path / "net")
    with pytest.raises(RamifyError, match=message):
        load(path, build=build)


def reduced() -> nn.Module:
    net = Net()
    del net.gain
    return net


def lazy() -> nn.Module:
    net = Net()
    net.out = nn.LazyLinear(5)
    return net


def truncate(folder: Path) -> None:
    file = folder / "net.safetensors"
    file.write_bytes(file.read_bytes()[:-20])


def swap(folder: Path) -> None:
    recipe = folder / "net.json"
    kept = recipe.read_text()
    save(Net(9), folder / "net")
    recipe.write_text(kept)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "net.json").unlink(), "net.json is missing; .* copy both again"),
        (lambda d: (d / "net.safetensors").unlink(), "net.safetensors is missing; .* copy both"),
        (lambda d: (d / "net.json").write_text("{"), "net.json is not readable JSON .* copy both"),
        (lambda d: (d / "net.json").write_text("{}"), "not a ramify-recipe-1 shape recipe"),
        (truncate, "net.safetensors is not a readable safetensors file .*torn.* copy both again"),
        (swap, r"holds \(9,\) for conv.bias, .* says \(4,\): .*of one save"),
    ],
)
def test_damaged_files_are_named(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    save(Net(), tmp_path / "net")
    damage(tmp_path)
    with pytest.raises(RamifyError, match=message):
        load(tmp_path / "net", build=Net)


def test_a_folder_in_place_of_a_network_in_it_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(RamifyError, match="is a folder: give a network in it, and this one has no"):
        load(tmp_path, build=Net)
    save(Net(), tmp_path / "model")
    with pytest.raises(RamifyError, match=r"is a folder: .*, such as .*/model\."):
        load(tmp_path, build=Net)


def test_state_that_is_no_tensor_is_refused_by_name(tmp_path: Path) -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"calls": 3}

    with pytest.raises(RamifyError, match="not a tensor .*1._extra_state"):
        save(nn.Sequential(nn.ReLU(), Extra(1, 1)), tmp_path / "net")


def test_the_recipe_holds_plain_numbers_alone() -> None:
    net = nn.Conv2d(4, 6, 3, padding=1)
    net.flag, net._hidden, net.limit, net.rate, net.text = True, 3, float("inf"), 0.5, "a"
    recipe = json.loads(json.dumps(recipe_of(net), allow_nan=False))
    own = recipe["attributes"][""]
    assert own["out_channels"] == 6
    assert own["kernel_size"] == [3, 3]
    assert own["rate"] == 0.5
    assert own["flag"] is True
    assert not {"_hidden", "limit", "text", "padding_mode", "training"} & set(own)


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Net()
    save(old, tmp_path / "net")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr("ramify.store.disk.os.replace", full)
    with pytest.raises(RamifyError, match=r"net.json cannot be written, since the disk is full"):
        save(Net(9), tmp_path / "net")
    assert sorted(os.listdir(tmp_path)) == ["net.json", "net.safetensors"]
    assert same(bits(load(tmp_path / "net", build=Net)), bits(old))


def test_the_weights_are_as_readable_as_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    written = save(Net(), tmp_path / "net")
    assert written.stat().st_mode == (tmp_path / "plain").stat().st_mode


class Holds(nn.Module):
    """A layer beside a tensor of another kind."""

    def __init__(self, held: Tensor, persistent: bool = True) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        if persistent:
            self.register_buffer("held", held)
        else:
            self.held = held


@pytest.mark.parametrize(
    ("held", "kind"),
    [
        (torch.eye(3).to_sparse(), "torch.sparse_coo"),
        (torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "torch.qint8"),
    ],
    ids=["sparse", "quantised"],
)
def test_a_tensor_that_no_file_can_hold_is_named(tmp_path: Path, held: Tensor, kind: str) -> None:
    with pytest.raises(RamifyError, match=f"'held' is of {kind}, which a safetensors file cannot"):
        save(Holds(held), tmp_path / "net")
    assert os.listdir(tmp_path) == []
    save(Holds(held, persistent=False), tmp_path / "net")  # what a class builds, it builds again
    assert load(tmp_path / "net", build=lambda: Holds(held, persistent=False))


@pytest.mark.parametrize(
    "held", [torch.tensor([1 + 2j, 3j]).conj(), torch._neg_view(torch.tensor([1.0, 2.0]))]
)
def test_views_that_turn_a_sign_are_saved_as_their_values(tmp_path: Path, held: Tensor) -> None:
    save(Holds(held), tmp_path / "net")
    again = load(tmp_path / "net", build=lambda: Holds(torch.zeros_like(held)))
    assert torch.equal(again.held, held)  # type: ignore[arg-type]
