"""Examine every model of the zoo in turn, each in a separate process.

    python -m benchmarks.zoo            # every model that the installed packages provide
    python -m benchmarks.zoo Swin BERT  # models whose name contains one of these
    python -m benchmarks.zoo --write    # and write docs/zoo.md, once every model has a row

Rows are kept in a JSON file, so that one model can be run again without the others.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path

from benchmarks.zoo.entries import Entry, entries
from benchmarks.zoo.examine import Row, verdict
from benchmarks.zoo.table import page, summary
from benchmarks.zoo.workers import run
from ramify.store.files import write_bytes, write_json

PAGE = Path(__file__).parents[2] / "docs" / "zoo.md"


def chosen(found: list[Entry], words: list[str], small: bool) -> list[Entry]:
    """The entries to run."""
    kept = [entry for entry in found if not (small and entry.full)]
    return [e for e in kept if not words or any(w.lower() in e.name.lower() for w in words)]


def main() -> None:
    """Run the chosen models, print a line for each, and write the files."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__)
    parser.add_argument("words", nargs="*", help="models whose names hold one of these; else all")
    parser.add_argument("--small", action="store_true", help="leave out models of their full size")
    parser.add_argument("--onnx", action="store_true", help="export to ONNX too")
    parser.add_argument("--only", choices=("ramify", "peer"), help="one of the two; else both")
    parser.add_argument(
        "--seconds", type=float, default=120, help="of the processor, for one model"
    )
    parser.add_argument("--peer-seconds", type=float, default=10, help="the same for it")
    parser.add_argument("--memory", type=float, default=4, help="GB for one model")
    parser.add_argument("--rows", type=Path, default=Path("runs/zoo.json"), help="rows, as JSON")
    parser.add_argument("--write", action="store_true", help="write docs/zoo.md")
    asked = parser.parse_args()
    known: dict[str, Row] = {}
    if asked.rows.exists():
        known = {row["name"]: row for row in json.loads(asked.rows.read_text("utf-8"))}
    found = entries()
    memory = int(asked.memory * 2**30)
    for entry in chosen(found, asked.words, asked.small):
        row = known.get(entry.name, {})
        theirs = row.get("peer")
        if asked.only != "peer":
            row = run(entry.name, "onnx" if asked.onnx else "ramify", asked.seconds, memory)
        if asked.only != "ramify" and importlib.util.find_spec("torch_pruning") is not None:
            theirs = run(entry.name, "peer", asked.peer_seconds, memory)
        row = {**row, "name": entry.name, "family": entry.family, "full": entry.full}
        row["peer"] = theirs
        known[entry.name] = row
        status, why = verdict(row) if "checks" in row or "status" in row else ("", "")
        took = f"{row.get('trace_s', 0):5.1f} s {row.get('seconds', 0):6.1f} s"
        print(f"{entry.name:34} {status:8} {took} {row.get('peak_mb', 0):5} MB  {why}", flush=True)
        asked.rows.parent.mkdir(parents=True, exist_ok=True)
        write_json(asked.rows, [known[e.name] for e in found if e.name in known])
    rows = [known[entry.name] for entry in found if entry.name in known]
    absent = [e.name for e in found if not {"checks", "status"} & set(known.get(e.name, {}))]
    if not absent:
        print(summary(rows))
    if asked.write:
        if absent:
            sys.exit(f"docs/zoo.md is written whole, and {', '.join(absent)} has no row: run it")
        text = page(rows, asked.seconds, asked.peer_seconds, asked.memory)
        write_bytes(PAGE, text.encode())


if __name__ == "__main__":
    main()
