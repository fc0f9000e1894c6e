"""A table in a ``.csv`` file: each row is a sample, each column a feature or the target.

Shapes: N rows, F features, K classes.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ramify.data.dataset import Dataset
from ramify.data.labels import check_targets
from ramify.data.splitting import for_testing
from ramify.data.task import CLASSIFICATION, REGRESSION, Task, task_named
from ramify.errors import RamifyError, check_plain, did_you_mean

SUFFIX = ".csv"
DECIMAL = re.compile(r"^([+-]?\d+),(\d+)$")
POINT = re.compile(r"^[+-]?\d+\.\d+$")
GROUPED = re.compile(r"^([+-]?[1-9]\d{0,2})([.,])(\d{3})$")  # 369,924 and 369.924 may be thousands
SLIPS = 0.1  # the largest share of a column's cells that may be typing errors among numbers
MISSING = frozenset(("", "na", "n/a", "nan", "none", "null", "?"))
DELIMITERS = ",;\t"
LEAST = 10  # fewest rows, of which a fifth is for testing
FEW = 20  # most distinct integers in a target that count as classes; so many texts are never an id
ROWS_EACH = 5  # fewest rows per such class, on average
MOST_TEXTS = 100  # most distinct texts in one column, each of which becomes a feature


@dataclass(frozen=True)
class _Columns:
    """The features of a column: values (N, F), their names, and their mean and deviation."""

    values: NDArray[np.float64]
    names: list[str]
    mean: list[float]
    std: list[float]


@dataclass(frozen=True)
class _Table:
    """The cells of a file: the names of its columns, and its rows with the line of each."""

    path: Path
    names: list[str]
    rows: list[list[str]]
    lines: list[int]

    def column(self, number: int) -> list[str]:
        return [row[number] for row in self.rows]


def table_of(name: str) -> tuple[Path, str | None] | None:
    """The file and the target in the name of a data set.

    Args:
        name: ``FILE.csv`` or ``FILE.csv:COLUMN``.

    Returns:
        The path and the name of the target, None for the last column; None if the name has another
        form, such as ``package.csv:object`` when there is no such file.

    Example:
        >>> table_of("houses.csv"), table_of("digits")
        ((PosixPath('houses.csv'), None), None)
    """
    file, colon, target = name.partition(f"{SUFFIX}:")
    if colon and (Path(file + SUFFIX).exists() or "/" in file):
        return Path(file + SUFFIX), target
    return (Path(name), None) if name.endswith(SUFFIX) else None


def load_table(path: Path, target: str | None = None, task: str | None = None) -> Dataset:
    """Read a table.

    A column of numbers is one feature, normalised to mean 0 and deviation 1 over the training rows;
    missing numbers become the mean. A column of text becomes one feature for each distinct text: 1
    in the rows that hold it and 0 in the others. A fifth of the rows (of each class in a
    classification) is for testing, chosen by the contents of the rows.

    Args:
        path: the file, with a header line; cells are separated by commas, semicolons or tabs.
        target: the column to predict; None for the last one.
        task: ``"classification"`` or ``"regression"``; None to infer it from the target: numbers
            mean regression, unless they are few distinct integers; anything else names classes.

    Returns:
        The data set, samples (N, F). Targets of a regression have mean 0 and deviation 1 over the
        training rows; ``classes`` then holds the target's name.

    Raises:
        RamifyError: the file is missing or damaged, has fewer than 10 rows or no feature, or the
            target is missing or does not fit the task.
    """
    table = _read(path)
    number = _target(table, target)
    if len(table.names) < 2:
        raise RamifyError(
            f"{path} has one column, the target: give it a column of features, in cells separated "
            "by commas, semicolons or tabs."
        )
    kind, targets, classes = _targets(table, number, task)
    keys = ["\x1f".join(row) for row in table.rows]
    every = np.arange(len(keys))
    test = np.zeros(len(keys), dtype=bool)
    for group in [every[targets == k] for k in range(len(classes))] or [every]:
        if len(group) > 1:  # a class with a single row is in the training split only
            test[group[list(for_testing([keys[k] for k in group]))]] = True
    columns = [_features(table, k, ~test) for k in range(len(table.names)) if k != number]
    features, mean, std = (
        tuple(one for column in columns for one in getattr(column, part))
        for part in ("names", "mean", "std")
    )
    values = np.concatenate([column.values for column in columns], axis=1)
    with np.errstate(over="ignore"):
        x = torch.from_numpy(((values - mean) / std).astype(np.float32))
    y, scale = torch.from_numpy(targets), None
    if not classes:
        scale = _scale(y, ~test, f"the column {table.names[number]!r} of {path}")
        y = ((y.double() - scale[0]) / scale[1]).float()
    for row in (~(x.isfinite().all(1) & y.isfinite())).nonzero().flatten().tolist():
        raise RamifyError(
            f"line {table.lines[row]} of {path} has a number that is too large compared with those "
            "of the rows that are trained on: correct it, or leave the line out."
        )
    name = f"{path.name}:{target}" if target else path.name
    return Dataset(
        name=name,
        x_train=x[~test],
        y_train=y[~test],
        x_test=x[test],
        y_test=y[test],
        classes=tuple(classes or (table.names[number],)),
        mean=mean,
        std=std,
        task=kind,
        features=features,
        target=scale,
    )


def _read(path: Path) -> _Table:
    """The cells of the file, stripped of surrounding blanks, without empty lines."""
    try:
        check_plain(path)
        text = path.read_text(encoding="utf-8-sig")
        head = re.sub('"[^"]*"', "", text.partition("\n")[0])
        lines = io.StringIO(text, newline="")
        reader = csv.reader(lines, delimiter=max(DELIMITERS, key=head.count))
        found = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except FileNotFoundError:
        raise RamifyError(f"there is no file {path}: give the path of a table.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RamifyError(
            f"{path} cannot be read as a table ({error}): save it as CSV in UTF-8."
        ) from error
    filled = [(line, row) for line, row in found if any(row)]
    if not filled:
        raise RamifyError(f"{path} is empty: give a table with a line of column names and rows.")
    # The first line holds the names of the columns.
    (_, names), *rest = filled
    if all(_number(DECIMAL.sub(r"\1.\2", name)) is not None for name in names):
        raise RamifyError(
            f"{path} begins with numbers, {', '.join(names[:3])}, where the names of the columns "
            "are expected: put a line of names above them."
        )
    for name in names:
        if names.count(name) > 1 or not name:
            said = f"two columns {name!r}" if name else "a column without a name"
            raise RamifyError(f"{path} has {said}: give each column a name of its own.")
    for line, row in rest:
        if len(row) != len(names):
            raise RamifyError(
                f"line {line} of {path} has {len(row)} cells, and the first line {len(names)} "
                "names: correct it."
            )
    if len(rest) < LEAST:
        rows = {0: "no rows", 1: "one row"}.get(len(rest), f"{len(rest)} rows")
        raise RamifyError(
            f"{path} has {rows} below its line of names, and at least {LEAST} are needed, of which "
            "a fifth is for testing: give more."
        )
    table = _Table(path, names, [row for _, row in rest], [line for line, _ in rest])
    return table if reader.dialect.delimiter == "," else _with_points(table)


def _with_points(table: _Table) -> _Table:
    """The table with decimal points for decimal commas, where no commas separate the cells."""
    columns = [table.column(number) for number in range(len(table.names))]
    commas, points = (
        [any(form.match(cell) and not GROUPED.match(cell) for cell in column) for column in columns]
        for form in (DECIMAL, POINT)
    )
    for number, column in enumerate(columns):
        decimal = {  # whether the mark begins decimals in this column
            ",": commas[number] or (any(commas) and not any(points)),
            ".": points[number] or not any(commas),
        }
        for line, cell in zip(table.lines, column, strict=True):
            if (mark := GROUPED.match(cell)) and not decimal[mark[2]]:
                whole, part = mark[1], mark[3]
                raise RamifyError(
                    f"the column {table.names[number]!r} of {table.path} holds {cell!r} in line "
                    f"{line}, which may mean {whole}{part} or {whole}.{part}: write the numbers of "
                    "the file without separators of thousands, and with decimal points."
                )
    rows = [[DECIMAL.sub(r"\1.\2", cell) for cell in row] for row in table.rows]
    return replace(table, rows=rows)


def _target(table: _Table, target: str | None) -> int:
    """The index of the column to predict."""
    if target is None:
        return len(table.names) - 1
    if target not in table.names:
        raise RamifyError(
            f"{table.path} has no column {target!r}{did_you_mean(target, table.names)}; choose one "
            f"of {', '.join(table.names)}."
        )
    return table.names.index(target)


def _targets(
    table: _Table, number: int, task: str | None
) -> tuple[Task, NDArray[np.int64] | NDArray[np.float64], list[str]]:
    """The task, the target of each row, and the class names (none for a regression)."""
    cells, where = table.column(number), f"the column {table.names[number]!r} of {table.path}"
    if task not in (None, CLASSIFICATION.name, REGRESSION.name):
        task_named(str(task))
        raise RamifyError(
            f"a table is for a classification or a regression, and the task is {task}: choose one "
            "of these."
        )
    for line, cell in zip(table.lines, cells, strict=True):
        if _missing(cell):
            raise RamifyError(
                f"{where} has no target in line {line}: fill it in, or leave the line out."
            )
    if len(set(cells)) == 1:
        raise RamifyError(
            f"{where} is {cells[0]} in every row, so there is nothing to predict: name the target "
            f"as {table.path}:COLUMN."
        )
    numbers = [_number(cell) for cell in cells]
    known = [value for value in numbers if value is not None]
    texts = len(cells) - len(known)
    # Text among numbers is a typing error, but numbers among texts may be names too.
    if texts and (task == REGRESSION.name or (task is None and texts < len(known))):
        place = numbers.index(None)
        raise RamifyError(
            f"{where} holds {cells[place]!r} in line {table.lines[place]}, where a regression takes"
            " numbers: correct it, or give --task classification if these are names of classes."
        )
    if task != CLASSIFICATION.name and not texts and (task or not _are_classes(known)):
        return REGRESSION, np.array(known, dtype=np.float64), []
    names = sorted(set(cells)) if texts else [_written(value) for value in sorted(set(known))]
    labels = cells if texts else [_written(value) for value in known]
    if 2 * len(names) > len(cells):
        raise RamifyError(
            f"{where} has {len(names)} different values in {len(cells)} rows, which are too many "
            f"for classes: name the target as {table.path}:COLUMN, or give --task regression if "
            "they are numbers."
        )
    places = {name: place for place, name in enumerate(names)}
    return CLASSIFICATION, np.array([places[label] for label in labels]), names


def _are_classes(values: Sequence[float]) -> bool:
    """Whether the numbers are few distinct integers, each in several rows."""
    few = max(2, min(FEW, len(values) // ROWS_EACH))
    return all(value.is_integer() for value in values) and len(set(values)) <= few


def _features(table: _Table, number: int, train: NDArray[np.bool_]) -> _Columns:
    """One feature for a column of numbers, or one for each text."""
    cells, name = table.column(number), table.names[number]
    values = [math.nan if _missing(cell) else _number(cell) for cell in cells]
    # A column of numbers: cells without one get the mean of the training rows.
    if None not in values:
        column = np.array(values, dtype=np.float64)
        seen = column[train & ~np.isnan(column)]
        where = f"the column {name!r} of {table.path}"
        mean, deviation = _moments(seen, where) if len(seen) else (0.0, 0.0)
        filled = np.where(np.isnan(column), mean, column)[:, None]
        return _Columns(filled, [name], [float(mean)], [float(deviation) or 1.0])
    # Few texts among numbers are taken for typing errors, and not for classes.
    wrong = [place for place, value in enumerate(values) if value is None]
    if len(wrong) <= SLIPS * len(cells):
        raise RamifyError(
            f"the column {name!r} of {table.path} holds {cells[wrong[0]]!r} in line "
            f"{table.lines[wrong[0]]}, where nearly all others are numbers: correct it, or leave "
            "the cell empty where its number is not known."
        )
    # A column of texts: one feature of 0 and 1 for each different text.
    texts = sorted({cell for cell in cells if not _missing(cell)})
    if len(texts) > MOST_TEXTS:
        raise RamifyError(
            f"the column {name!r} of {table.path} has {len(texts)} different texts, and each would "
            f"be a feature, where {MOST_TEXTS} are the most: leave the column out."
        )
    if len(texts) > FEW and 2 * len(texts) > len(cells):
        raise RamifyError(
            f"the column {name!r} of {table.path} has {len(texts)} different texts in "
            f"{len(cells)} rows, such as {texts[0]!r}, and each would be a feature of hardly more "
            "than one row: leave the column out, or write its cells as plain numbers."
        )
    held = np.array([[float(cell == text) for text in texts] for cell in cells])
    return _Columns(
        held, [f"{name}={text}" for text in texts], [0.0] * len(texts), [1.0] * len(texts)
    )


def _scale(targets: Tensor, train: NDArray[np.bool_], where: str) -> tuple[float, float]:
    """Mean and deviation of the targets over the training rows."""
    own = targets[train].double()
    for split, part in (("training", own), ("test", targets[~train])):
        check_targets(where, split, part)
    mean, deviation = float(own.mean()), float(own.std(correction=0))
    if not (math.isfinite(deviation) and deviation):
        mean, deviation = _moments(own.numpy(), where)
    if not deviation:
        raise RamifyError(
            f"{where} is the same in every row that is trained on, so there is nothing to learn: "
            "give rows that differ in it."
        )
    return mean, deviation


def _moments(values: NDArray[np.float64], where: str) -> tuple[float, float]:
    """Mean and deviation, also of numbers whose squares overflow a float."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean, deviation = float(values.mean()), float(values.std())
        away = np.abs(values - mean)
    if not math.isfinite(away.max()):
        raise RamifyError(f"{where} has numbers that are too large: give it in a larger unit.")
    if away.max() and not (math.isfinite(deviation) and deviation):
        deviation = float(away.max() * np.sqrt(np.mean((away / away.max()) ** 2)))
    return mean, deviation


def _written(value: float) -> str:
    """A number as the name of a class."""
    return str(int(value)) if value.is_integer() else repr(value)


def _missing(cell: str) -> bool:
    return cell.lower() in MISSING


def _number(cell: str) -> float | None:
    """The finite number in a cell, or None."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
