"""`python -m benchmarks.faults --trials 1000`: errors at random lines of Ramify."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence

import torch

from benchmarks.faults.trial import Fault, lines_of, run
from benchmarks.faults.work import WORKS


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the trials, and print the failures and a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--trials", type=int, default=1000, help="for each work")
    parser.add_argument("--seed", type=int, default=0, help="of the first trial")
    parser.add_argument("--only", choices=WORKS, action="append", help="this work alone")
    parser.add_argument("--within", default="", help="the end of a file's path: its lines alone")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    faults: list[Fault] = []
    for name in asked.only or WORKS:
        lines = lines_of(name, asked.within)
        for seed in range(asked.seed, asked.seed + asked.trials):
            faults.append(run(name, lines, seed, asked.within))
            if faults[-1].wrong:
                found = faults[-1]
                print(f"{name}, seed {seed}: {found.error} at {found.place}: {found.wrong}")
                print(f"    ended with {found.ended or 'nothing'}", flush=True)
        print(row(name, faults), flush=True)
    print("| work | errors | came out | done all the same | model wrong |")
    print("|---|---|---|---|---|")
    for name in asked.only or WORKS:
        print(row(name, faults))


def row(name: str, faults: Sequence[Fault]) -> str:
    """A row of the table."""
    own = [fault for fault in faults if fault.work == name]
    counts = Counter("came out" if fault.ended else "done" for fault in own)
    wrong = sum(bool(fault.wrong) for fault in own)
    return f"| {name} | {len(own)} | {counts['came out']} | {counts['done']} | {wrong} |"


if __name__ == "__main__":
    main()
