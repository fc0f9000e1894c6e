import builtins
import os
import pickle

import numpy as np
import pytest

from ramify.data.safe_pickle import read_pickled_dict
from ramify.errors import RamifyError

DATA = np.arange(12, dtype=np.uint8).reshape(3, 4)


def write(path, value, protocol=2):
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("keys", [(b"data", b"labels"), ("data", "labels")])
def test_values(tmp_path, protocol, keys):
    path = write(tmp_path / "batch", {keys[0]: DATA, keys[1]: [3, 1, 2]}, protocol)
    batch = read_pickled_dict(path)
    assert np.array_equal(batch["data"], DATA)
    assert batch["data"].dtype == np.uint8
    assert batch["labels"] == [3, 1, 2]


def test_python_2_pickle(tmp_path):
    """The exact form of the official batches: byte strings, and numpy under its old name."""
    content = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\n"
        b"ndarray\nq\x04K\x00\x85U\x01b\x87Rq\x05(K\x01K\x02K\x02\x86cnumpy\ndtype\nq\x06U\x02u1"
        b"K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x04"
        b"\x00\x7f\x80\xfftbU\x06labelsq\x08]q\x09(K\x06K\x09eu."
    )
    path = tmp_path / "batch"
    path.write_bytes(content)
    batch = read_pickled_dict(path)
    assert batch["data"].tolist() == [[0, 127], [128, 255]]
    assert batch["labels"] == [6, 9]


def test_column_major_array(tmp_path):
    path = write(tmp_path / "batch", {"data": np.asfortranarray(DATA)})
    assert np.array_equal(read_pickled_dict(path)["data"], DATA)


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_nothing_is_run(tmp_path):
    trace = tmp_path / "trace"
    attacks = [
        Calls(os.mkdir, str(trace)),
        Calls(builtins.exec, f"open({str(trace)!r}, 'w')"),
        Calls(builtins.getattr, "text", "upper"),
        Calls(np.load, "x"),
        Calls(np.array, [1]),
        Calls(pickle.loads, b""),
    ]
    for attack in attacks:
        for value in (attack, {"data": DATA, "labels": [attack]}, {"data": attack}):
            with pytest.raises(RamifyError, match="it asks for "):
                read_pickled_dict(write(tmp_path / "batch", value, protocol=4))
    assert not trace.exists()


def test_allowed_names_are_not_run_either(tmp_path):
    """Even what is admitted is only written down, whatever its arguments are."""
    content = b"cnumpy\ndtype\n(S'O'\ntR."
    path = tmp_path / "batch"
    path.write_bytes(content)
    with pytest.raises(RamifyError, match="fetch the official file again"):
        read_pickled_dict(path)


@pytest.mark.parametrize(
    "value",
    [
        {"data": DATA.astype(np.int32)},
        {"data": np.array([{}, []], dtype=object)},
        {"data": np.ndarray},
        {"data": np.dtype("u1")},
        {3: DATA},
        [DATA],
        7,
    ],
)
def test_other_values(tmp_path, value):
    with pytest.raises(RamifyError, match="fetch the official file again"):
        read_pickled_dict(write(tmp_path / "batch", value))


def test_array_of_the_wrong_length(tmp_path):
    path = write(tmp_path / "batch", {"data": DATA}, protocol=4)
    content = path.read_bytes()
    assert content.count(b"K\x03K\x04\x86") == 1
    path.write_bytes(content.replace(b"K\x03K\x04\x86", b"K\x03K\x05\x86"))
    with pytest.raises(RamifyError, match="12 bytes for an array of shape"):
        read_pickled_dict(path)


def test_damaged(tmp_path):
    path = write(tmp_path / "batch", {"data": DATA, "labels": [1, 2, 3]})
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(RamifyError, match="fetch the official file again"):
            read_pickled_dict(path)
