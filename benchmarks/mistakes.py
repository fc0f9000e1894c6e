"""The command line's answers to mistakes: every mistake is made, and a table shows the answers.

    python -m benchmarks.mistakes [--write]

Every command runs in a new folder with small files. It must end with a clear message and a nonzero
exit code, without a traceback; commands that do not are printed at the end, and the exit code is
then 1. `--write` writes benchmarks/mistakes.md.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shlex
import sys
import tempfile
import traceback
from pathlib import Path

import torch

from ramify.store.files import write_bytes

PAGE = Path(__file__).parent / "mistakes.md"

MODULE = """
from types import SimpleNamespace
import torch
from torch import nn

def none(): return None
def raises(): raise ValueError("a bug of the user's own")
def args(n): return nn.Linear(n, 3)
class NotNet: pass
instance = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
def wrongout(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
def wrongin(): return nn.Sequential(nn.Flatten(), nn.Linear(50, 10))

def data(n=90, shape=(4,), labels=3, train=None):
    x, y = torch.randn(n, *shape), torch.arange(n) % labels
    return SimpleNamespace(x_train=x, y_train=y if train is None else train, x_test=x, y_test=y)

def lens(): return data(train=torch.zeros(9).long())
def one_class(): return data(labels=1)
def images(): return data(shape=(8, 8, 3))
def onlytrain():
    return SimpleNamespace(x_train=torch.randn(9, 4), y_train=torch.zeros(9).long())
def nan():
    found = data()
    found.x_train[3, 2] = float("nan")
    return found
"""
ROWS = "\n".join(f"{n},{n * 0.5}" for n in range(30))
FILES = {
    "mods.py": MODULE,
    "badmod.py": "import nothing_here\n",
    "empty.csv": "",
    "few.csv": "a,b\n1,2\n",
    "ragged.csv": "a,b,c\n1,2,3\n4,5\n",
    "same.csv": "a,b\n" + "\n".join(f"{n},1.5" for n in range(30)),
    "tab.csv": f"a,b\n{ROWS}",
    "bad.json": "{'a': 1",
    "typo.json": json.dumps({"epoch": 3}),
    "badtype.json": json.dumps({"command": "grow", "data": "digits", "lr": "fast"}),
    "text.pt": "no weights",
    "empty.pt": "",
    "emptyfolder/.keep": "",
}
GROW, PRUNE, SWEEP = "grow --data digits", "prune --data digits", "sweep grow --data digits"
COMMANDS = f"""
gorw --data digits
grow --data digit
grow --data Digits
grow --data mnist
grow --dataset digits
grow digits
grow --data ./nofolder
grow --data emptyfolder
grow --data nofile.csv
grow --data few.csv
grow --data empty.csv
grow --data ragged.csv
grow --data same.csv
grow --data tab.csv:cost
grow --data mods:onlytrain
grow --data mods:lens
grow --data mods:one_class
grow --data mods:nan
grow --data mods:none
grow --data mods:raises
grow --data mods:nothere
grow --data mods:images --epochs 1 --rounds 1
grow --data nomodule:load
grow --data badmod:load
{GROW} --model badmod:build
{GROW} --model mods:none
{GROW} --model mods:raises
{GROW} --model mods:args
{GROW} --model mods:NotNet
{GROW} --model mods:instance
{GROW} --model mods.instance
{GROW} --model mods:wrongout
{GROW} --model mods:wrongin
{GROW} --model resnet18
{GROW} --model resnet
{GROW} --budget 3600
{GROW} --budget params=3600 --budget params=400
{GROW} --budget param=3600
{GROW} --budget params=50%
{GROW} --budget params=-5
{GROW} --budget params=10
{GROW} --budget params=abc
{GROW} --sizes 1800
{GROW} --budget params=3600 --sizes 5000
{GROW} --budget params=3600 --sizes 900,1800
{GROW} --budget params=3600 --sizes 50%
{GROW} --method s3
{GROW} --method gradmax --step 0.1
{GROW} --rule knapsack
{GROW} --fraction 35
{GROW} --lr -1
{GROW} --lr 1e400
{GROW} --epochs 2.5
{GROW} --epochs 0
{GROW} --batch-size 0
{GROW} --threads 100000
{GROW} --device gpu
{GROW} --optimizer rmsprop
{GROW} --seeds 0
{GROW} --seed -1
{GROW} --config bad.json
{GROW} --config typo.json
grow --config badtype.json
grow --resume nowhere
grow --resume mods.py
{GROW} --ceiling layer9*=8
{GROW} --span forever
{GROW} --task regresion
{PRUNE} --model mods:wrongin --weights text.pt
{PRUNE} --weights nope.pt
{PRUNE} --weights empty.pt
{PRUNE} --weights .
{PRUNE} --budget macs=150%
{PRUNE} --budget macs=0%
{PRUNE} --budget macs=0.5
{PRUNE} --budget ms=50%
{PRUNE} --accept acuracy=-1.0
{PRUNE} --accept accuracy=-1%
{PRUNE} --accept r2=-0.1
prune --data tab.csv --accept accuracy=-1 --epochs 0
{PRUNE} --ratio 40
{PRUNE} --ratio 0.4 --budget macs=50%
{PRUNE} --per-layer
{PRUNE} --threshold 0.1
{PRUNE} --keep 1.5
{PRUNE} --keep layr1=0.5
{PRUNE} --groups layr*
{PRUNE} --searcher rart
{PRUNE} --searcher l1 --gamma 0.1
{PRUNE} --probe-samples 0
{PRUNE} --rounds 0
{PRUNE} --method l1
prune --data tab.csv --label-smoothing 0.1
show
show mods:wrongin
show mods:wrongin --input 3x
show mods:wrongin --input 1,1,32,32
show text.pt
report nowhere
report emptyfolder
compare
compare nowhere
compare emptyfolder
retrain nowhere
retrain text.pt
export text.pt
export nowhere
{SWEEP}
{SWEEP} --vary lr
{SWEEP} --vary lr=a,b
{SWEEP} --vary learning_rate=0.1,0.2
{SWEEP} --vary lr=0.1,0.2 --lr 0.3
{SWEEP} --vary lr=0.3..0.1
{SWEEP} --vary method=s2d..s3d
{SWEEP} --vary lr=0.1..0.3 --trials 0
sweep grow --resume nowhere
sweep digits
search --data tab.csv
search --data digits --space nothere
""".strip().splitlines()


def answer(command: str) -> tuple[int, str, bool]:
    """What a command line ends with.

    Args:
        command: what stands behind `ramify`.

    Returns:
        The exit code, the sentence, and whether there was a traceback.
    """
    from ramify.cli.application import app

    said, raw = io.StringIO(), False
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            app(shlex.split(command), prog_name="ramify")
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except Exception:  # whatever comes out raw is the finding
            code, raw = 1, True
            said.write(traceback.format_exc())
    text = said.getvalue()
    return code, sentence(text), raw or "Traceback" in text


def sentence(text: str) -> str:
    """The error in what was printed: from `error:` on, or what stands in the box of an error."""
    flat = " ".join(text.replace("│", " ").split())
    for mark in ("error: ", "Error "):
        if mark in flat:
            flat = flat.partition(mark)[2]
            break
    return flat.strip("─╮╰╯ ")


def main() -> int:
    """Make every mistake, and print the table.

    Returns:
        1 where one was answered by a traceback or by success.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mistakes", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write benchmarks/mistakes.md")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.pop("RAMIFY_DATA", None)
    lines, wrong, start = list[str](), list[str](), Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        for name, content in FILES.items():
            (Path(folder) / name).parent.mkdir(exist_ok=True)
            (Path(folder) / name).write_text(content)
        sys.path.insert(0, folder)
        os.chdir(folder)
        try:
            for number, command in enumerate(COMMANDS, 1):
                code, said, raw = answer(command)
                said = said.replace(f"{folder}/", "")
                cells = (str(number), f"`ramify {command}`", said.replace("|", "\\|"), str(code))
                lines.append(" | ".join(cells))
                print(lines[-1][:200], flush=True)
                if raw or not code or not said:
                    wrong.append(command)
        finally:
            os.chdir(start)
    head = "# Mistakes, and what is said of them\n\n`python -m benchmarks.mistakes --write`\n\n"
    head += "| | command | what it says | exit code |\n|---|---|---|---|\n"
    if asked.write:
        write_bytes(PAGE, (head + "".join(f"| {line} |\n" for line in lines)).encode())
    print(f"{len(lines)} mistakes; a traceback, silence or success for {len(wrong)}", *wrong)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
