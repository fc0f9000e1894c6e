"""`python -m benchmarks.fuzz_files`: damaged files must be read or refused with a clear error.

Each variant is a file written by Ramify, with bits flipped, parts removed or duplicated, or entries
of its JSON replaced. It is a failure if a reader raises anything but a one-line RamifyError, takes
longer than `SLOW` seconds, or uses more memory than `MEMORY`.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ramify
from ramify.cells.genotype import Genotype
from ramify.commands.grow_settings import GrowSettings
from ramify.commands.run_folder import RunFolder
from ramify.report import read_run
from ramify.store.checkpoint import Checkpoint, damage_named, read_checkpoint, write_checkpoint
from ramify.store.state import NetworkInTraining, random_states

SLOW = 10.0
MEMORY = 2**20  # KiB over what the process had
LONGEST_SENTENCE = 2000
AS_JSON, DEEPER = 0.5, 0.85  # shares of variants that stay JSON, and of changes further down in it
LEFT_OUT, RENAMED = 0.1, 0.15  # up to which draw an entry is left out, and gets another name
HEAD, IN_HEAD = 4000, 0.7  # bytes at the beginning of a file, and the share of flips among them
STRANGE: tuple[Any, ...] = (
    *(None, True, -1, 0, 1.5, 2**70, -(2**70), 10**12, float("nan"), float("inf"), "", "0.weight"),
    *([], {}, [[]], {"<tensor>": "x"}, {"<size>": [-1]}, {"<tuple>": 3}, "é\u0000", "x" * 10_000),
    *([2**40, 2**40], [-1, 4], {"0": {"forward": 3}}, "ramify-recipe-9", [1] * 1000),
)


def build(width: int = 4) -> nn.Module:
    """A small network."""
    return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 2))


def write_all(folder: Path) -> dict[str, Callable[[], Any]]:
    """Write one file of each kind.

    Args:
        folder: where to.

    Returns:
        What reads each, by its name in the folder.
    """
    ramify.save(build(8), folder / "net")
    model = build()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(8, 4)).sum().backward()
    optimizer.step()
    state = NetworkInTraining(model, optimizer).state_dict()
    kept = Checkpoint("training", state, [random_states()], [{"event": "epoch", "epoch": 0}])
    write_checkpoint(folder / "run.safetensors", kept)
    (folder / "genotype.json").write_text(
        Genotype.parse("|none~0|+|skip_connect~0|nor_conv_1x1~1|").to_json()
    )
    settings = GrowSettings.resolve({"data": "digits"})
    run = RunFolder.create(folder / "run", settings.to_json())
    tags = {"job": "grown-0", "arm": "grown", "seed": 0}
    epoch = {"epoch": 0, "step": 3, "test_accuracy": 0.5, "params": 7, "t": 0.1}
    for number in range(3):
        run.append({"event": "epoch"} | tags | epoch | {"epoch": number})

    def load() -> None:
        ramify.load(folder / "net", build=build)

    def checkpoint() -> None:
        found = read_checkpoint(folder / "run.safetensors", "training")
        again = build()
        own = NetworkInTraining(again, torch.optim.AdamW(again.parameters()))
        with damage_named(folder / "run.safetensors"):
            own.load_state_dict(found.state)

    def config() -> None:
        folder_of_run = RunFolder.open(folder / "run")
        GrowSettings.read(folder_of_run.config())
        folder_of_run.events()
        read_run(folder / "run")

    return {
        "net.json": load,
        "net.safetensors": load,
        "run.safetensors": checkpoint,
        "genotype.json": lambda: Genotype.from_json((folder / "genotype.json").read_text("latin1")),
        "run/config.json": config,
        "run/metrics.jsonl": config,
    }


def damaged(draw: random.Random, content: bytes) -> bytes:
    """A variant of a file.

    Args:
        draw: what it is drawn from.
        content: the file as it was written.

    Returns:
        Other bytes.
    """
    if draw.random() < AS_JSON:
        try:
            values = [json.loads(line) for line in content.splitlines()]
        except ValueError:
            try:
                values = [json.loads(content)]
            except ValueError:
                values = []
        if values:
            at = draw.randrange(len(values))
            values[at] = changed(draw, values[at])
            return "\n".join(map(json.dumps, values)).encode()
    found = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(min(len(found), HEAD if draw.random() < IN_HEAD else len(found)))
        found[at] = draw.choice((0, 255, 34, 57, 91, found[at] ^ 1 << draw.randrange(8)))
    keep = draw.choice((len(found), len(found), draw.randrange(len(found) + 1)))
    return bytes(found[:keep]) * draw.choice((1, 1, 1, 2))


def changed(draw: random.Random, value: Any) -> Any:
    """A value with one part of it, at any depth, replaced, left out or given another name."""
    if isinstance(value, (dict, list)) and value and draw.random() < DEEPER:
        key = draw.choice(list(value) if isinstance(value, dict) else range(len(value)))
        out: Any = dict(value) if isinstance(value, dict) else list(value)
        chosen = draw.random()
        if chosen < LEFT_OUT:
            del out[key]
        elif chosen < RENAMED and isinstance(out, dict):
            out[draw.choice(("x", "0.weight", "", "<tensor>"))] = out.pop(key)
        else:
            out[key] = changed(draw, value[key])
        return out
    return draw.choice(STRANGE)


def problem_of(read: Callable[[], Any]) -> str | None:
    """The failure of a reader on a file; None if there is none."""
    began, had = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        read()
    except ramify.RamifyError as error:
        if "\n" in str(error) or len(str(error)) > LONGEST_SENTENCE:
            return f"no sentence: {str(error)[:200]!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    if time.monotonic() - began > SLOW:
        return "slow"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - had
    return f"{grown} KiB more" if grown > MEMORY else None


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the variants, and print the failures and a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz_files", description=__doc__)
    parser.add_argument("--variants", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    tried, wrong = Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as place:
        readers = write_all(Path(place))
        whole = {name: (Path(place) / name).read_bytes() for name in readers}
        for number in range(asked.variants):
            name = list(readers)[number % len(readers)]
            draw, file = random.Random(f"{asked.seed} {number}"), Path(place) / name
            file.write_bytes(damaged(draw, whole[name]))
            tried[name] += 1
            if problem := problem_of(readers[name]):
                wrong[name] += 1
                print(f"{name}, variant {number}: {problem}", flush=True)
            file.write_bytes(whole[name])
    print("| file | variants | wrong |\n|---|---|---|")
    for name, count in tried.items():
        print(f"| `{name}` | {count} | {wrong[name]} |")


if __name__ == "__main__":
    main()
