"""Files from somebody else: every one is read, or refused in a sentence before memory is taken."""

from __future__ import annotations

import copy
import errno
import functools
import json
import os
import resource
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import ramify
from ramify import RamifyError
from ramify.cells.genotype import Genotype
from ramify.store.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from ramify.store.files import read_json
from ramify.store.state import NetworkInTraining, random_states


def build(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 2))


@functools.cache
def saved() -> Path:
    """A network on disk."""
    folder = Path(tempfile.mkdtemp())
    ramify.save(build(8), folder / "net")
    return folder


def recipe() -> dict[str, Any]:
    return json.loads((saved() / "net.json").read_text())


def peak() -> int:
    """The most memory that the process ever had, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def with_shape(shape: Any, name: str = "0.weight") -> dict[str, Any]:
    return recipe() | {"shapes": recipe()["shapes"] | {name: shape}}


BOMBS: dict[str, tuple[Callable[[], Any], str]] = {
    "huge": (
        lambda: with_shape([10**9, 10**6]),
        "asks for .* GiB .*0.weight alone.* give `limit=`",
    ),
    "huge in sum": (
        lambda: recipe() | {"shapes": {k: [2**28] * len(v) for k, v in recipe()["shapes"].items()}},
        "damaged .shapes at '0.weight'.|asks for .* GiB",
    ),
    "more than torch counts": (lambda: with_shape([2**40, 2**40]), "damaged .shapes at '0.weight'"),
    "beyond 64 bits": (lambda: with_shape([2**70, 0]), "damaged .shapes at '0.weight'"),
    "negative": (lambda: with_shape([-1, 4]), "damaged .shapes at '0.weight'"),
    "fractions": (lambda: with_shape([1.5, 4]), "damaged .shapes at '0.weight'"),
    "flags": (lambda: with_shape([True, 4]), "damaged .shapes at '0.weight'"),
    "text": (lambda: with_shape("8, 4"), "damaged .shapes at '0.weight'"),
    "nothing": (lambda: with_shape(None), "damaged .shapes at '0.weight'"),
    "nan": (
        lambda: recipe() | {"attributes": {"0": {"out_features": float("nan")}}},
        "damaged .attributes at '0'",
    ),
    "a list for a table": (lambda: recipe() | {"shapes": [1, 2]}, "damaged .shapes at 'shapes'"),
    "no text for a class": (lambda: recipe() | {"class": 3}, "damaged .class"),
    "numbers for names": (lambda: recipe() | {"shapes": {3: [1]}}, "damaged .shapes"),
    "a method": (
        lambda: recipe() | {"attributes": {"0": {"forward": 3}}},
        "forward is a number in the recipe alone",
    ),
    "insides": (
        lambda: recipe() | {"runtime": {"0": {"_parameters": {}}}},
        "_parameters is a number in the recipe alone",
    ),
    "a parameter's name": (
        lambda: recipe() | {"attributes": {"0": {"weight": 3}}},
        "weight is a number in the recipe alone",
    ),
    "a tie of other shapes": (
        lambda: recipe() | {"tied": {"0.bias": "0.weight"}},
        "damaged .tied at '0.bias'",
    ),
    "a tie of other kinds": (
        lambda: recipe() | {"tied": {"0.bias": "1.running_mean"}},
        "one is a parameter and one a buffer",
    ),
    "no recipe": (lambda: [recipe()], "not a ramify-recipe-1 shape recipe"),
    "nobody": (lambda: None, "not a ramify-recipe-1 shape recipe"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bad_recipe_is_refused_before_memory_is_taken(name: str) -> None:
    make, says = BOMBS[name]
    model = build()
    before, at_most = copy.deepcopy(model.state_dict()), peak() + 50_000
    with pytest.raises(RamifyError, match=says):
        ramify.reshape(model, make())
    assert str(before) == str(model.state_dict())
    assert model[0].out_features == 4
    assert peak() < at_most


def test_the_limit_is_the_users_to_move() -> None:
    with pytest.raises(RamifyError, match=r"asks for .* of which 500 are allowed"):
        ramify.reshape(build(), recipe_of_width(100), limit=500)
    assert ramify.reshape(build(), recipe_of_width(100), limit=10_000)[0].out_features == 100
    assert ramify.reshape(build(), recipe_of_width(3), limit=1)[0].out_features == 3  # it shrinks
    with torch.device("meta"):  # takes no memory
        assert ramify.reshape(build(), recipe_of_width(2**20))[3].in_features == 2**20


def recipe_of_width(width: int) -> dict[str, Any]:
    with torch.device("meta"):
        return ramify.recipe_of(build(width))


def test_cutting_goes_before_growing() -> None:
    """Both at once must not take the product of the larger sizes."""
    at_most = peak() + 50_000
    tall, wide = nn.Linear(20_000, 10), nn.Linear(10, 20_000)
    ramify.reshape(tall, ramify.recipe_of(wide))
    assert tall.weight.shape == (20_000, 10)
    assert peak() < at_most


def header(content: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(content) if length is None else length) + content


DAMAGES: dict[str, tuple[str, bytes]] = {
    "a header of 43 TiB": ("net.safetensors", header(b"{}", 43 * 2**40)),
    "a header beyond 64 bits": ("net.safetensors", header(b"{}", 2**64 - 1)),
    "a tensor that is not there": (
        "net.safetensors",
        header(
            b'{"0.weight":{"dtype":"F32","shape":[1000000000,4],"data_offsets":[0,16000000000]}}'
        ),
    ),
    "an unknown type": (
        "net.safetensors",
        header(b'{"0.weight":{"dtype":"Q4","shape":[1],"data_offsets":[0,4]}}') + b"0000",
    ),
    "offsets that are negative": (
        "net.safetensors",
        header(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}'),
    ),
    "a deep header": ("net.safetensors", header(b"[" * 100_000)),
    "no header": ("net.safetensors", b""),
    "deep JSON": ("net.json", b"[" * 200_000),
    "deep objects": ("net.json", b'{"a":' * 100_000),
    "no UTF-8": ("net.json", b'{"format": "\xff\xfe"}'),
    "a number of a million digits": ("net.json", b"1" * 1_000_000),
    "another text": ("net.json", b"format: ramify"),
    "no text": ("net.json", b"\0" * 100),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_refused_before_memory_is_taken(name: str, tmp_path: Path) -> None:
    file, content = DAMAGES[name]
    ramify.save(build(8), tmp_path / "net")
    (tmp_path / file).write_bytes(content)
    at_most = peak() + 100_000
    with pytest.raises(RamifyError, match=f"{file} is not "):
        ramify.load(tmp_path / "net", build=build)
    assert peak() < at_most


def test_a_folder_where_a_file_is_wanted_is_named(tmp_path: Path) -> None:
    (tmp_path / "net.json").mkdir()
    with pytest.raises(RamifyError, match="net.json cannot be opened .Is a directory.: mend"):
        ramify.load(tmp_path / "net", build=build)
    with pytest.raises(RamifyError, match="cannot be opened .Is a directory.: mend"):
        read_checkpoint(tmp_path)
    (tmp_path / "big.json").touch()
    with (tmp_path / "big.json").open("wb") as file:
        file.truncate(2**40)  # takes no room on the disk
    with pytest.raises(RamifyError, match="it has 1099511627776 bytes"):
        read_json(tmp_path / "big.json", "restore it.")


def test_what_the_system_does_not_open_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ramify.save(build(8), tmp_path / "net")
    os.mkfifo(tmp_path / "pipe.json")
    os.mkfifo(tmp_path / "pipe.safetensors")
    for read in (
        lambda: read_json(tmp_path / "pipe.json", ""),
        lambda: read_checkpoint(tmp_path / "pipe.safetensors"),
    ):
        with pytest.raises(RamifyError, match="cannot be opened .it is a pipe or a device.: mend"):
            read()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(RamifyError, match=r"cannot be opened .Too many open files.: mend [^;]*$"):
        read_checkpoint(tmp_path / "net.safetensors")


# ------------------------------------------------------------------------------ what is drawn

PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["0.weight", "1.running_mean", "<tensor>", "ramify-recipe-1"])
)
ANYTHING = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["<tensor>", "<tuple>", "<size>", "<items>", "0", "0.weight", "x"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
QUICK = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def changed(data: st.DataObject, value: Any) -> Any:
    """A value with one part of it, at any depth, replaced, left out or added."""
    if isinstance(value, (dict, list)) and value and data.draw(st.integers(0, 5)):
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = data.draw(st.sampled_from(keys))
        out = copy.copy(value)
        if data.draw(st.integers(0, 6)) == 0:
            del out[key]
        else:
            out[key] = changed(data, value[key])
        return out
    return data.draw(ANYTHING)


def reads(read: Callable[[], Any]) -> None:
    """It works, or is refused in one sentence."""
    said = ""
    try:
        read()
    except RamifyError as error:
        said = str(error)
    assert len(said) < 2000
    assert "\n" not in said


@QUICK
@given(st.data())
def test_no_recipe_is_a_raw_error(data: st.DataObject) -> None:
    reads(lambda: ramify.reshape(build(), changed(data, recipe())))


@QUICK
@given(st.data())
def test_no_folder_is_a_raw_error(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ramify.save(build(8), folder + "/net")
        file = Path(folder) / data.draw(st.sampled_from(["net.json", "net.safetensors"]))
        content = bytearray(file.read_bytes())
        if file.suffix == ".json" and data.draw(st.booleans()):
            content = bytearray(json.dumps(changed(data, recipe())).encode())
        for _ in range(data.draw(st.integers(0, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        file.write_bytes(content[: data.draw(st.integers(len(content) // 2, 2 * len(content)))])
        reads(lambda: ramify.load(folder + "/net", build=build))


@functools.cache
def checkpoint() -> dict[str, Any]:
    """The parts of a checkpoint, as JSON, and its tensors."""
    model = build()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(8, 4)).sum().backward()
    optimizer.step()
    return {"state": NetworkInTraining(model, optimizer).state_dict()}


@QUICK
@given(st.data())
def test_no_checkpoint_is_a_raw_error(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.safetensors"
        kept = Checkpoint("training", checkpoint()["state"], [random_states()], [{"event": "stop"}])
        write_checkpoint(file, kept)
        content = bytearray(file.read_bytes())
        head = int.from_bytes(content[:8], "little")
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, head + 7))
            content[at] = data.draw(st.integers(0, 255))
        file.write_bytes(content[: data.draw(st.integers(len(content) // 2, 2 * len(content)))])
        reads(lambda: read_checkpoint(file, "training"))


@QUICK
@given(st.data())
def test_no_genotype_is_a_raw_error(data: st.DataObject) -> None:
    kept = Genotype.parse("|none~0|+|skip_connect~0|nor_conv_1x1~1|")
    value = changed(data, json.loads(kept.to_json()))
    reads(lambda: Genotype.from_json(json.dumps(value)))
    reads(lambda: Genotype.from_json(data.draw(st.text(max_size=30))))
    text = data.draw(st.text("Genotype(normal=[]_concat range,'2)|~+0", max_size=40))
    reads(lambda: Genotype.parse(text))
    reads(lambda: Genotype.parse("Genotype(" + text))


@pytest.mark.parametrize(
    "text",
    [
        "Genotype(normal=[('a', 0)], normal_concat=range(2, 10**18))",
        "Genotype(normal=[('a', 0)], normal_concat=range(0, 1000000000000))",
        "Genotype(normal=" + "(" * 5000 + ")",
        "Genotype(normal=" + "-" * 100_000 + "1)",
        "Genotype(normal=" + "1" * 10_000 + ")",
        "|none~" + "1" * 10_000 + "|",
        "[" * 100_000,
    ],
    ids=range(7),
)
def test_a_hostile_genotype_is_refused(text: str) -> None:
    at_most = peak() + 200_000
    for read in (Genotype.parse, Genotype.from_json):
        with pytest.raises(RamifyError, match="genotype"):
            read(text)
    assert peak() < at_most
