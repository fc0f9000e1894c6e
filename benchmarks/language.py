"""A language model of random weights, cut by a quarter, and read again without Ramify.

    OMP_NUM_THREADS=1 python -m benchmarks.language
    OMP_NUM_THREADS=1 python -m benchmarks.language --size "100 M"

LLaMA and Qwen2 run in turn, each in a separate process on one thread: `ramify.trace`, `ramify.cut`
of the hidden units of all layers equally to three quarters of the parameters (L1, no refit), and
`save_pretrained`. Another process, which never imports Ramify, loads the folder with
`from_pretrained` and runs the same tokens: `differ` is the largest difference between its outputs
and those of the cut model. Seconds are CPU time; `beside` is the peak memory of the process during
the step above its memory before.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ramify
from benchmarks.trace import LANGUAGE, held, language
from ramify.cost import graph_cost

READER = """
import sys, torch, transformers
folder, kind = sys.argv[1:]
torch.set_num_threads(1)
model = getattr(transformers, f"{kind}ForCausalLM").from_pretrained(folder).eval()
with torch.no_grad():
    logits = model(torch.load(f"{folder}/tokens.pt")).logits
assert "ramify" not in sys.modules
torch.save(logits, f"{folder}/logits.pt")
"""
"""What the other process runs."""


def next_token(model: nn.Module, tokens: Tensor) -> Tensor:
    """The mean cross entropy of each sequence's next tokens: (S,)."""
    logits = model(tokens).logits[:, :-1].float()
    each = nn.functional.cross_entropy(
        logits.flatten(0, 1), tokens[:, 1:].reshape(-1), reduction="none"
    )
    return each.view(len(tokens), -1).mean(1)


def measured(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What some work gives, its seconds of processor time, and its peak of memory in megabytes."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that from here on
    before, start = held("VmRSS"), time.process_time()
    found = work()
    return found, time.process_time() - start, held("VmHWM") - before


def read_elsewhere(model: nn.Module, kind: str, tokens: Tensor) -> float:
    """How far the outputs are from those of the same model read by a process without Ramify.

    Args:
        model: a model of `transformers`.
        kind: the name of its family, such as `Llama`.
        tokens: what to run on.

    Returns:
        The largest difference of the logits.
    """
    with torch.no_grad():
        logits = model(tokens).logits
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)  # type: ignore[operator]
        torch.save(tokens, f"{folder}/tokens.pt")
        subprocess.run([sys.executable, "-c", READER, folder, kind], check=True)
        return float((torch.load(f"{folder}/logits.pt") - logits).abs().max())


def row(kind: str, size: str) -> str:
    """A model's line of the table, measured in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, inputs = language(kind, size, torch.float32)
    tokens = inputs["input_ids"]
    graph, trace_s, trace_mb = measured(lambda: ramify.trace(model, inputs))
    own = sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20
    before = graph_cost(graph).params
    cut, cut_s, cut_mb = measured(
        lambda: ramify.cut(
            graph,
            next_token,
            [tokens],
            budget={"params": 0.75 * before},
            method=ramify.L1(),
            refit=False,
            balance=False,
            groups=["*.mlp.*"],
            alike="*.mlp.*",
        )
    )
    after, difference = graph_cost(cut).params, read_elsewhere(model, kind, tokens)
    return (
        f"| {kind} {size} | {own:.0f} | {trace_s:.1f} | {trace_mb:.0f} | {cut_s:.1f} "
        f"| {cut_mb:.0f} | {before / 1e6:.1f} | {after / 1e6:.1f} | {difference:.1e} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.language", description=__doc__)
    parser.add_argument("--size", choices=tuple(LANGUAGE), default="300 M")
    size = parser.parse_args().size
    print(
        "| model | MB | trace, s | beside, MB | cut, s | beside, MB | M before | after | differ |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for kind in ("Llama", "Qwen2"):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(pool.apply(row, (kind, size)), flush=True)


if __name__ == "__main__":
    main()
