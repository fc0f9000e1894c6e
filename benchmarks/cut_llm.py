"""A language model cut by a quarter, saved in the format of `transformers`, read without Ramify.

    OMP_NUM_THREADS=1 python -m benchmarks.cut_llm [--kinds Llama Qwen2] [--size "300 M"]

Each model has random weights and runs in a separate process on one thread. `ramify.cut` cuts it to
three quarters of its parameters, equally in all layers, on eight batches of random tokens;
`save_pretrained` saves it, and a process that never imports Ramify loads it with `from_pretrained`
and computes the logits of some tokens, which are compared. `memory` is the peak memory of the
process over the bytes of the weights.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ramify
from benchmarks.trace import LANGUAGE, language

SHARE, BATCHES, ROWS, LENGTH = 0.75, 8, 4, 64
GROUPS = ("*mlp.gate_proj", "*self_attn.q_proj:0")
READ = """
import sys, torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
with torch.no_grad():
    logits = model(load_file(sys.argv[2])["tokens"]).logits
save_file({"logits": logits.contiguous()}, sys.argv[3])
assert "ramify" not in sys.modules
print(sum(p.numel() for p in model.parameters()))
"""


def loss(model: nn.Module, tokens: Tensor) -> Tensor:
    """The mean next-token loss, one per sequence: shape (S,)."""
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none").mean(1)


def row(kind: str, size: str) -> dict[str, Any]:
    """Cut one model, and read it again."""
    torch.set_num_threads(1)
    model, inputs = language(kind, size, torch.float32, LENGTH)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    params = sum(p.numel() for p in model.parameters())
    begun = time.process_time()
    graph = ramify.trace(model, inputs)
    traced = time.process_time() - begun
    generator = torch.Generator().manual_seed(0)
    sample = [torch.randint(32000, (ROWS, LENGTH), generator=generator) for _ in range(BATCHES)]
    heads = {name: 4 for name in (group.name for group in graph.groups) if name.endswith("proj:0")}
    begun = time.process_time()
    ramify.cut(
        graph,
        loss,
        sample,
        budget={"params": SHARE * params},
        groups=GROUPS,
        alike=GROUPS,
        multiple_of=heads,
    )
    cut = time.process_time() - begun
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder)
        model.save_pretrained(path / "model")  # type: ignore[operator]
        expected = model(sample[0]).logits
        from safetensors.torch import load_file, save_file

        save_file({"tokens": sample[0]}, path / "tokens")
        files = [str(path / name) for name in ("model", "tokens", "logits")]
        done = subprocess.run(
            [sys.executable, "-c", READ, *files], check=True, capture_output=True, text=True
        )
        found = load_file(path / "logits")["logits"]
    config: Any = model.config
    return {
        "model": f"{kind}, {size}",
        "parameters": f"{params:,}",
        "left": f"{int(done.stdout):,}",
        "MLP units, heads": f"{config.intermediate_size}, {config.num_attention_heads}",
        "largest difference": f"{float((found - expected).abs().max()):.1g}",
        "trace, s": f"{traced:.0f}",
        "cut, s": f"{cut:.0f}",
        "memory": f"{1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / weights:.1f}",
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", default=["Llama", "Qwen2"])
    parser.add_argument("--size", default="300 M", choices=LANGUAGE)
    options = parser.parse_args()
    for number, kind in enumerate(options.kinds):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found = pool.apply(row, (kind, options.size))
        if not number:
            print(f"| {' | '.join(found)} |\n|{'---|' * len(found)}")
        print(f"| {' | '.join(found.values())} |", flush=True)


if __name__ == "__main__":
    main()
