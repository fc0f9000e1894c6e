"""Tables: what each column becomes, which rows are for testing, and what is refused."""

from __future__ import annotations

import csv
import os
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ramify.data import load
from ramify.errors import RamifyError
from ramify.imports import refuse_foreign

HEAD = ("rooms", "town", "same", "price")


def rows(count: int = 40) -> list[list[Any]]:
    draw = np.random.default_rng(0)
    towns = ["Bonn", "Ulm", "Köln"]
    return [
        [int(draw.integers(1, 6)), towns[k % 3], 7, round(float(draw.normal(100, 20)), 2)]
        for k in range(count)
    ]


def write(folder: Path, content: list[list[Any]], head: Any = HEAD, delimiter: str = ",") -> str:
    path = folder / "houses.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, delimiter=delimiter).writerows([list(head), *content])
    return str(path)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_what_columns_become(tmp_path: Path, delimiter: str) -> None:
    content = rows()
    content[4][0], content[5][0], content[6][1] = "", "NA", ""
    dataset = load(write(tmp_path, content, delimiter=delimiter))
    assert (dataset.name, dataset.classes, dataset.shape) == ("houses.csv", ("price",), (5,))
    assert dataset.features == ("rooms", "town=Bonn", "town=Köln", "town=Ulm", "same")
    assert (len(dataset.x_train), len(dataset.x_test)) == (32, 8)
    assert dataset.target is not None
    mean, deviation = dataset.target
    # Every row of the file is found again, by its target, with the values that it had.
    x = torch.cat([dataset.x_train, dataset.x_test]).double()
    x = x * torch.tensor(dataset.std).double() + torch.tensor(dataset.mean).double()
    y = torch.cat([dataset.y_train, dataset.y_test]).double() * deviation + mean
    for row in content:
        [place] = (y - row[3]).abs().lt(1e-3).nonzero().flatten().tolist()
        wanted = [row[1] == "Bonn", row[1] == "Köln", row[1] == "Ulm", 7.0]
        np.testing.assert_allclose(x[place, 1:], wanted, atol=1e-5)
        filled = dataset.mean[0] if row[0] in ("", "NA") else row[0]
        assert float(x[place, 0]) == pytest.approx(filled, abs=1e-5)
    # Constants are those of the training rows.
    assert float(dataset.y_train.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(dataset.y_train.std(correction=0)) == pytest.approx(1.0, rel=1e-5)
    assert float(dataset.x_train[:, 0].mean()) == pytest.approx(0.0, abs=1e-6)


def test_the_split_is_that_of_what_rows_hold(tmp_path: Path) -> None:
    content = rows()
    before = load(write(tmp_path, content))
    random.Random(0).shuffle(content)
    after = load(write(tmp_path, content))
    first, second = (sorted(data.y_test.tolist()) for data in (before, after))
    assert first == pytest.approx(second, rel=1e-5)


def test_a_column_is_the_target_by_its_name(tmp_path: Path) -> None:
    path = write(tmp_path, rows())
    towns = load(f"{path}:town")
    assert (towns.task.name, towns.classes) == ("classification", ("Bonn", "Köln", "Ulm"))
    assert towns.features == ("rooms", "same", "price")
    assert torch.bincount(towns.y_test).tolist() == [3, 3, 3]  # a fifth of each class
    assert towns.target is None


@pytest.mark.parametrize(
    ("targets", "task"),
    [
        ([k % 2 for k in range(32)], "classification"),
        ([f"{k % 2}.0" for k in range(32)], "classification"),
        ([k % 5 for k in range(25)], "classification"),
        ([k % 6 for k in range(25)], "regression"),
        ([k % 2 + 0.5 for k in range(32)], "regression"),
        (list(range(12)), "regression"),
        (["1e3", "-2", "3.5"] * 4, "regression"),
    ],
)
def test_few_whole_numbers_are_classes(tmp_path: Path, targets: list[Any], task: str) -> None:
    path = write(tmp_path, [[k, value] for k, value in enumerate(targets)], ("x", "y"))
    assert load(path).task.name == task
    other = "regression" if task == "classification" else "classification"
    if len(set(targets)) <= len(targets) // 2:
        assert load(path, task=other).task.name == other


def test_classes_that_are_numbers_are_in_their_order(tmp_path: Path) -> None:
    targets = [value for value in (10, 9, 2) for _ in range(5)]
    data = load(write(tmp_path, [[k, value] for k, value in enumerate(targets)], ("x", "y")))
    assert data.classes == ("2", "9", "10")


def changed(place: int, column: int, value: Any) -> list[list[Any]]:
    content = rows()
    content[place][column] = value
    return content


@pytest.mark.parametrize(
    ("content", "name", "task", "message"),
    [
        (changed(4, 3, "12;5"), "", None, r"'price' of .* holds '12;5' in line 6, where a regress"),
        (changed(4, 3, ""), "", None, "no target in line 6"),
        (changed(4, 3, "inf"), "", None, "holds 'inf' in line 6"),
        (rows(), ":prize", None, r"no column 'prize' \(did you mean 'price'\?\)"),
        (rows(), ":same", None, "is 7 in every row, so there is nothing to predict"),
        (rows(), ":town", "regression", "holds 'Bonn' in line 2"),
        (rows(), ":price", "classification", "40 different values in 40 rows"),
        (rows(), "", "segmentation", "a classification or a regression, and the task is segm"),
        (rows(), "", "regresion", r"no task 'regresion' \(did you mean"),
        ([], "", None, "has no rows below its line of names, and at least 10"),
        (rows(1), "", None, "has one row below"),
        ([*rows(), [1, 2]], "", None, "line 42 of .* has 2 cells, and the first line 4"),
    ],
)
def test_what_is_no_table(
    tmp_path: Path, content: list[list[Any]], name: str, task: str | None, message: str
) -> None:
    with pytest.raises(RamifyError, match=message):
        load(write(tmp_path, content) + name, task=task)


def test_what_is_no_file(tmp_path: Path) -> None:
    for content, message in (
        ("", "is empty"),
        ("1,2\n3,4\n", "begins with numbers, 1, 2"),
        ("a,a\n1,2\n", "two columns 'a'"),
        ("a,\n1,2\n", "a column without a name"),
        ("y\n" + "1\n2\n" * 6, "has one column, the target"),
        ("a|y\n" + "1|2\n" * 12, "in cells separated by commas, semicolons or tabs"),
        (
            "n,y\n" + "".join(f"{k}%,{k / 2}\n" for k in range(30)),
            "'n' of .* 30 different texts in 30 rows, such as '0%'",
        ),
        ("n,y\n" + "".join(f"t{k},{k / 2}\n" for k in range(120)), "'n' of .* 120 different texts"),
    ):
        (tmp_path / "bad.csv").write_text(content)
        with pytest.raises(RamifyError, match=message):
            load(str(tmp_path / "bad.csv"))
    (tmp_path / "bad.csv").write_bytes(b"a,b\n\xff\xfe,1\n")
    with pytest.raises(RamifyError, match="cannot be read as a table"):
        load(str(tmp_path / "bad.csv"))
    with pytest.raises(RamifyError, match="there is no file .*gone.csv"):
        load(str(tmp_path / "gone.csv:price"))
    for name in ("gone.csv:price", "my houses.csv:price"):
        with pytest.raises(RamifyError, match=f"there is no file {name.partition(':')[0]}: give"):
            load(name)


def test_a_column_in_a_file_of_settings_asks_for_no_code(tmp_path: Path) -> None:
    data = f"{write(tmp_path, rows())}:town"
    refuse_foreign({"data": data}, ["data"], {}, tmp_path / "config.json")


def test_numbers_keep_all_their_digits(tmp_path: Path) -> None:
    """Codes of seven digits are classes of their own, and large targets stay apart."""
    codes = [1234567, 1234568, 1234571]
    content = [[k, "a", 0, codes[k % 3]] for k in range(60)]
    dataset = load(f"{write(tmp_path, content)}", task="classification")
    assert dataset.classes == tuple(map(str, codes))
    assert set(dataset.y_train.tolist()) == {0, 1, 2}
    content = [[k % 7, "a", 0, 1.7e9 + k] for k in range(60)]
    dataset = load(write(tmp_path, content))
    assert len(set(torch.cat([dataset.y_train, dataset.y_test]).tolist())) == 60


def test_a_slip_among_numbers_is_named_by_its_line(tmp_path: Path) -> None:
    content = rows(60)
    content[7][0] = "12;5"
    with pytest.raises(RamifyError, match=r"column 'rooms' of .* holds '12;5' in line 9, where"):
        load(write(tmp_path, content))


def test_cells_may_hold_any_text(tmp_path: Path) -> None:
    content = [[k, ["one\u2028line", "two\nlines"][k % 2], 0, 1.5 * k] for k in range(30)]
    dataset = load(write(tmp_path, content))
    assert set(dataset.features) >= {"town=one\u2028line", "town=two\nlines"}
    dataset = load(write(tmp_path, content, head=("size, m, x", "town", "c", "t"), delimiter=";"))
    assert dataset.features[0] == "size, m, x"


def mixed(first: str, second: str) -> list[list[Any]]:
    """Numbers of two columns, and rows to fill the file: both are in line 2."""
    return [[first, "a", 0, second], *([k, "a", 0, k + 30] for k in range(30))]


@pytest.mark.parametrize(
    ("first", "second"),
    [("369,924", "1"), ("7", "369,924"), ("369,924", "0.5"), ("369.924", "0,5"), ("-1,000", "7")],
)
def test_numbers_that_may_be_thousands_are_refused(tmp_path: Path, first: str, second: str) -> None:
    cell = max(first, second, key=len)
    whole = cell.replace(",", "").replace(".", "")
    said = f"holds '{cell}' in line 2, which may mean {whole} or {cell.replace(',', '.')}: write"
    with pytest.raises(RamifyError, match=re.escape(said)):
        load(write(tmp_path, mixed(first, second), delimiter=";"))


@pytest.mark.parametrize(
    ("first", "second"),
    [("369,924", "0,5"), ("369.924", "0.5"), ("1369,924", "1"), ("0,924", "1"), ("369.924", "1")],
)
def test_numbers_that_other_cells_explain_are_decimals(
    tmp_path: Path, first: str, second: str
) -> None:
    data = load(write(tmp_path, mixed(first, second), delimiter=";"))
    found = torch.cat([data.x_train, data.x_test])[:, 0] * data.std[0] + data.mean[0]
    wanted = sorted([float(first.replace(",", ".")), *range(30)])
    assert sorted(found.tolist()) == pytest.approx(wanted, abs=1e-3)


def test_decimals_may_be_written_with_a_comma_between_semicolons(tmp_path: Path) -> None:
    content = [[str(k / 4).replace(".", ","), "a", 0, f"{k},5"] for k in range(30)]
    dataset = load(write(tmp_path, content, delimiter=";"))
    assert dataset.task.name == "regression"
    assert dataset.target is not None
    y = torch.cat([dataset.y_train, dataset.y_test]) * dataset.target[1] + dataset.target[0]
    assert sorted(round(value, 3) for value in y.tolist()) == [k + 0.5 for k in range(30)]
    assert dataset.features[0] == "rooms"


@pytest.mark.parametrize("unit", [1e300, 1e-300])
def test_numbers_whose_squares_are_too_large_or_small_are_as_others(
    tmp_path: Path, unit: float
) -> None:
    content = [[k * unit, k * unit] for k in range(40)]
    scaled = load(write(tmp_path, content, ("x", "y")), task="regression")
    assert 0.9 < float(scaled.y_train.std()) < 1.1
    assert 0.9 < float(scaled.x_train.std()) < 1.1


def test_numbers_that_leave_all_others_alike_are_refused(tmp_path: Path) -> None:
    content = [[1e308, k] for k in range(40)]
    content[3][0] = -1e308
    with pytest.raises(RamifyError, match="the column 'x' .* numbers that are too large"):
        load(write(tmp_path, content, ("x", "y")), task="regression")


def test_a_pipe_or_a_device_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(RamifyError, match=r"t.csv cannot be read .*it is a pipe or a device"):
        load(str(tmp_path / "t.csv"))
