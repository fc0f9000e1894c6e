"""`python -m benchmarks.fuzz_edits --networks 10000`: random networks under random edits."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.fuzz_edits.trial import NONE, RAW, REFUSED, RIGHT, UNTRACED, WRONG, run
from benchmarks.rows import add_rows, read_rows

Row = dict[str, Any]
SENTENCES = 8


def options() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz_edits", description=__doc__)
    parser.add_argument("--networks", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first network")
    parser.add_argument("--out", type=Path, help="a file of rows, with which a run goes on")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the trials, and print the failures and a table."""
    asked = options().parse_args(arguments)
    torch.set_num_threads(1)
    known = {row["seed"]: row for row in (read_rows(asked.out) if asked.out else [])}
    rows: list[Row] = []
    for seed in range(asked.seed, asked.seed + asked.networks):
        if seed not in known:
            began = time.monotonic()
            known[seed] = run(seed).as_json() | {"seconds": time.monotonic() - began}
            if asked.out:
                add_rows(asked.out, [known[seed]])
        row = known[seed]
        rows.append(row)
        if row["outcome"] in (WRONG, RAW):
            print(f"--seed {seed} --networks 1: {row['outcome']}: {row['said']}", flush=True)
    print(table(rows))


def table(rows: Sequence[Row]) -> str:
    """A Markdown table of the results, and the most frequent refusals."""
    outcomes = Counter(row["outcome"] for row in rows)
    edits = Counter[str]()
    for row in rows:
        edits.update(row["edits"] if row["outcome"] in (RIGHT, WRONG) else {})
    oracles = Counter(name for row in rows for name in set(row["oracles"]))
    groups, params = (sum(row[key] for row in rows) for key in ("groups", "params"))
    offered, reached = (sum(row[key] for row in rows) for key in ("offered", "offered_params"))
    lines = ["| | |", "|---|---|", f"| networks | {len(rows)} |"]
    for name in (RIGHT, REFUSED, UNTRACED, NONE, WRONG, RAW):
        lines.append(f"| {name} | {outcomes[name]} |")
    lines += [f"| `{name}` applied | {count} |" for name, count in sorted(edits.items())]
    lines += [f"| compared: {name} | {count} |" for name, count in sorted(oracles.items())]
    lines.append(f"| groups offered | {offered} of {groups} |")
    lines.append(f"| parameters in them | {100 * reached / max(params, 1):.0f} % |")
    refused = [row for row in rows if row["outcome"] in (REFUSED, UNTRACED)]
    for head, asked_for in (("refused", False), ("refused, as it was to be", True)):
        said = Counter(_plain(row["said"]) for row in refused if row["asked_for"] == asked_for)
        lines += ["", f"| {head} | |", "|---|---|"]
        lines += [f"| {sentence} | {count} |" for sentence, count in said.most_common(SENTENCES)]
    return "\n".join(lines)


def _plain(sentence: str) -> str:
    """A message without names and numbers that are specific to one network."""
    words = (("'…'" if n % 2 else part) for n, part in enumerate(sentence.split("'")))
    return "".join("#" if c.isdigit() else c for c in "".join(words))[:110].replace("|", "/")


if __name__ == "__main__":
    main()
