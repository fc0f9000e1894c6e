"""After an edit a module is saved, loaded, reshaped, copied and pickled as any other."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import ramify
from ramify.store.model import named_tensors
from tests.life.nets import NETS, Conv, Encoder, edit, edited


def shapes(model: nn.Module) -> dict[str, tuple[Any, ...]]:
    return {name: (tuple(t.shape), t.dtype) for name, t in named_tensors(model).items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", NETS)
def test_an_edited_model_comes_back_bit_for_bit(
    tmp_path: Path, name: str, dtype: torch.dtype
) -> None:
    model, x = edited(name, dtype)
    loaded = ramify.load(ramify.save(model, tmp_path / "net"), build=NETS[name][0]).eval()
    assert shapes(loaded) == shapes(model)
    assert shapes(model) != shapes(NETS[name][0]().to(dtype))
    assert torch.equal(loaded(x), model(x))
    assert loaded.state_dict().keys() == model.state_dict().keys()
    edit(ramify.trace(loaded, x))  # and can be edited again


@pytest.mark.parametrize("name", NETS)
def test_a_state_dict_loads_into_a_reshaped_model(name: str) -> None:
    model, x = edited(name)
    recipe = json.loads(json.dumps(ramify.recipe_of(model)))
    if name == "encoder":  # one buffer is in no state_dict, and says so
        with pytest.warns(UserWarning, match="table changed its shape .* no state_dict holds it"):
            other = ramify.reshape(NETS[name][0](), recipe)
        other.table.copy_(model.table)
    else:
        other = ramify.reshape(NETS[name][0](), recipe)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(x), model(x))


def test_channels_last_stays_as_it_was_built(tmp_path: Path) -> None:
    model, x = edited("conv")
    model.to(memory_format=torch.channels_last)
    path = ramify.save(model, tmp_path / "net")
    plain = ramify.load(path, build=Conv).eval()
    last = ramify.load(path, build=lambda: Conv().to(memory_format=torch.channels_last)).eval()
    assert last.stem.weight.is_contiguous(memory_format=torch.channels_last)
    assert plain.stem.weight.is_contiguous()
    for loaded in (plain, last):
        torch.testing.assert_close(loaded(x), model(x))


def test_attributes_and_persistence_come_back(tmp_path: Path) -> None:
    class Noted(Encoder):
        def __init__(self, drop: float = 0.5) -> None:
            super().__init__()
            self.drop, self.window, self.shift, self.first = drop, (7, 7), [1, 2], False
            self.size = torch.Size([3, 4])

    model = Noted(0.25)
    model.window, model.shift, model.first, model.seen = (3, 5), [4], True, 17
    model.size = torch.Size([5, 6])
    loaded = ramify.load(ramify.save(model, tmp_path / "net"), build=Noted)
    found = [getattr(loaded, key) for key in ("drop", "window", "shift", "first", "seen", "size")]
    assert found == [0.25, (3, 5), [4], True, 17, (5, 6)]
    assert isinstance(loaded.size, torch.Size)
    assert "table" not in loaded.state_dict()
    assert torch.equal(loaded.table, model.table)


class Tied(nn.Module):
    """An embedding, an MLP, and a head that is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.up, self.down = nn.Embedding(9, 4), nn.Linear(4, 6), nn.Linear(6, 4)
        self.head = nn.Linear(4, 9, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.table(x)
        return self.head(x + self.down(torch.tanh(self.up(x))))


def test_tied_weights_stay_tied_through_edit_and_load(tmp_path: Path) -> None:
    model, x = Tied(), torch.arange(9).view(3, 3)
    optimizer = torch.optim.Adam(model.parameters())
    model(x).sum().backward()
    optimizer.step()
    graph = ramify.trace(model, x)
    edit(graph, optimizer=optimizer)
    assert model.table.weight.shape[1] != 4
    assert model.head.weight is model.table.weight
    loaded = ramify.load(ramify.save(model, tmp_path / "net"), build=Tied)
    assert loaded.head.weight is loaded.table.weight
    assert torch.equal(loaded(x), model(x))


@pytest.mark.parametrize("name", NETS)
def test_copies_and_pickles_are_the_same_model(name: str) -> None:
    model, x = edited(name)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert torch.equal(other(x), model(x))
        assert not {p.data_ptr() for p in other.parameters()} & {
            p.data_ptr() for p in model.parameters()
        }
        other.train()(x).sum().backward()
        assert all(p.grad is None for p in model.parameters())


# ------------------------------------------------------------------------ what is refused


def test_wrapped_models_are_refused_with_what_to_save_instead(tmp_path: Path) -> None:
    model = Conv()
    for wrapped, words in (
        (nn.DataParallel(model), "in DataParallel.*save its `.module`"),
        (torch.compile(model, backend="eager"), "in OptimizedModule.*its `._orig_mod`"),
    ):
        with pytest.raises(ramify.RamifyError, match=words):
            ramify.save(wrapped, tmp_path / "net")
    assert not list(tmp_path.iterdir())


class Gated(Encoder):
    """The same parts and shapes as an encoder, with another activation."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.SiLU()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (Conv, "of .*Encoder, but the model is a .*Conv; build one of the saved class"),
        (lambda: renamed(Gated), "act is a SiLU, and was a GELU; build the model with the argu"),
        (lambda: plus(nn.Dropout()), "extra is only in one"),
        (lambda: noted("norm1", nn.Identity()), "norm1.* is only in one"),
        (lambda: noted("num_heads", "two"), "num_heads is a number in the recipe alone"),
        (lambda: Encoder().to("meta"), "built on the device 'meta', which holds no values"),
    ],
)
def test_another_class_or_wiring_is_refused(
    tmp_path: Path, build: Callable[[], nn.Module], message: str
) -> None:
    path = ramify.save(edited("encoder")[0], tmp_path / "net")
    with pytest.raises(ramify.RamifyError, match=message):
        ramify.load(path, build=build)


def renamed(kind: type[nn.Module]) -> nn.Module:
    """A model whose class has the saved one's name."""
    return type("Encoder", (kind,), {})()


def plus(module: nn.Module) -> nn.Module:
    model = Encoder()
    model.extra = module
    return model


def noted(name: str, value: object) -> nn.Module:
    model = Encoder()
    setattr(model, name, value)
    return model


Damage = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: r.update(format="ramify-recipe-7"), "of format ramify-recipe-7, and .* reads"),
        (lambda r: r.update(format=3), "not a ramify-recipe-1 shape recipe"),
        (lambda r: r.pop("tied"), "not a ramify-recipe-1 shape recipe"),
        (lambda r: r.update({"class": None}), "recipe is damaged .class."),
        (lambda r: r.update(shapes=[1]), "recipe is damaged .shapes at 'shapes'."),
        (lambda r: r["shapes"].update({"up.bias": "13"}), "damaged .shapes at 'up.bias'."),
        (lambda r: r["shapes"].update({"up.bias": [-1]}), "damaged .shapes at 'up.bias'."),
        (lambda r: r["tied"].update({"up.bias": "nobody"}), "damaged .tied at 'up.bias'."),
        (lambda r: r["tied"].update({"up.bias": []}), "damaged .tied at 'up.bias'."),
        (lambda r: r["modules"].update(up=4), "damaged .modules at 'up'."),
        (lambda r: r["attributes"].update(up={"out_features": "x"}), "damaged .attributes at 'up'"),
        (lambda r: r["attributes"]["up"].update(forward=3), "up.forward is a number in the recipe"),
        (
            lambda r: r["shapes"].update({"up.bias": [10**12]}),
            r"holds \(13,\) for up.bias, .* says",
        ),
        (lambda r: r["shapes"].pop("up.bias"), r"holds \(13,\) for up.bias, .* says nothing"),
        (lambda r: r["shapes"].update(gone=[3]), "holds nothing for gone, .* says"),
        (lambda r: r["attributes"].update(gone={}), "gone is only in one"),
        (lambda r: r["modules"].pop("act"), "act is only in one"),
    ],
)
def test_a_recipe_changed_by_hand_is_refused(tmp_path: Path, damage: Damage, message: str) -> None:
    model, _ = edited("encoder")
    ramify.save(model, tmp_path / "net")
    recipe = json.loads((tmp_path / "net.json").read_text())
    damage(recipe)
    (tmp_path / "net.json").write_text(json.dumps(recipe))
    with pytest.raises(ramify.RamifyError, match=message) as caught:
        ramify.load(tmp_path / "net", build=Encoder)
    assert caught.value.__cause__ is None
    assert "\n" not in str(caught.value)


def test_reshape_refuses_before_any_change() -> None:
    model, recipe = Encoder(), ramify.recipe_of(edited("encoder")[0])
    recipe["modules"]["act"] = "ReLU"
    before = shapes(model), model.up.out_features
    with pytest.raises(ramify.RamifyError, match="act is a GELU, and was a ReLU"):
        ramify.reshape(model, recipe)
    assert (shapes(model), model.up.out_features) == before
    with pytest.raises(ramify.RamifyError, match="not a ramify-recipe-1 shape recipe"):
        ramify.reshape(model, {"up": 3})


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
@pytest.mark.parametrize("suffix", ["safetensors", "json"])
def test_a_truncated_file_is_one_sentence(tmp_path: Path, suffix: str, keep: int) -> None:
    ramify.save(edited("encoder")[0], tmp_path / "net")
    file = tmp_path / f"net.{suffix}"
    whole = file.read_bytes().rstrip()
    file.write_bytes(whole[:keep])
    with pytest.raises(ramify.RamifyError, match=f"net.{suffix} is not .*copy both again"):
        ramify.load(tmp_path / "net", build=pytest.fail)


def test_weights_of_another_kind_of_number_are_refused(tmp_path: Path) -> None:
    path = ramify.save(Encoder(), tmp_path / "net")
    tensors = load_file(path)
    save_file(tensors | {"up.bias": tensors["up.bias"].to(torch.int32)}, path)
    shapes = tmp_path / "net.json"
    recipe = json.loads(shapes.read_text())
    shapes.write_text(json.dumps({k: v for k, v in recipe.items() if k != "checksums"}))
    with pytest.raises(ramify.RamifyError, match="torch.int32 for up.bias, which takes gradients"):
        ramify.load(path, build=Encoder)


def test_a_recipe_without_the_classes_of_modules_is_still_read(tmp_path: Path) -> None:
    model, x = edited("conv")
    recipe = ramify.recipe_of(model)
    del recipe["modules"]  # as recipes were first written
    other = ramify.reshape(Conv(), recipe)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(x), model(x))


# ------------------------------------------------------------------- models of transformers


def vit() -> nn.Module:
    hf = pytest.importorskip("transformers", reason="the extra `transformers` is not installed")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = hf.ViTConfig(**sizes, intermediate_size=20, image_size=8, patch_size=4, num_labels=3)
    return hf.ViTForImageClassification(config).eval()


def bert() -> nn.Module:
    hf = pytest.importorskip("transformers", reason="the extra `transformers` is not installed")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = hf.BertConfig(**sizes, intermediate_size=20, vocab_size=20, max_position_embeddings=8)
    return hf.BertForMaskedLM(config).eval()


@pytest.mark.parametrize("name", ["vit", "bert"])
def test_models_of_transformers_are_saved_loaded_and_exported(tmp_path: Path, name: str) -> None:
    build = {"vit": vit, "bert": bert}[name]
    inputs = {
        "vit": {"pixel_values": torch.randn(2, 3, 8, 8)},
        "bert": {"input_ids": torch.randint(0, 20, (2, 6)), "attention_mask": torch.ones(2, 6)},
    }[name]
    model = build()
    edit(ramify.trace(model, inputs))
    before = model(**inputs).logits
    assert shapes(model) != shapes(build())
    loaded = ramify.load(ramify.save(model, tmp_path / "net"), build=build)
    assert torch.equal(loaded(**inputs).logits, before)
    other = ramify.reshape(build(), ramify.recipe_of(model))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(**inputs).logits, before)
    if name == "bert":
        assert loaded.cls.predictions.decoder.weight is loaded.get_input_embeddings().weight
    program = torch.export.export(model, (), inputs)
    torch.testing.assert_close(program.module()(**inputs).logits, before)
