"""The cost of a trace, relative to a forward pass of the same model and to the model's size.

    OMP_NUM_THREADS=1 python -m benchmarks.trace
    OMP_NUM_THREADS=1 python -m benchmarks.trace llama hiera   # names that contain one of these

Each model has random weights and runs in a separate process on one thread. `forward` is the median
CPU time of three passes without gradients on the inputs of the trace, `trace` that of the first
trace in the process, and `passes` their ratio. `beside` is the peak memory of the process during
the trace above its memory before, after some passes; `of the model` is that relative to the bytes
of all parameters and buffers. Models of packages that are not installed are left out.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.util
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ramify
from benchmarks.zoo.vision import declare_operators
from ramify.tracing.recorder import call, tensors_of

Made = tuple[nn.Module, Any]
"""A model in eval mode, and its inputs."""
LANGUAGE: dict[str, dict[str, int]] = {
    "100 M": {"hidden_size": 640, "intermediate_size": 2560, "num_hidden_layers": 12},
    "300 M": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 16},
}
"""The sizes of the language models, whose vocabulary is 32,000 and whose head is not tied."""
TIMM: dict[str, str] = {
    "fastvit_t8": "fastvit_t8",
    "maxvit_tiny": "maxvit_tiny_tf_224",
    "mixnet_s": "mixnet_s",
    "hiera_tiny": "hiera_tiny_224",
    "nextvit_small": "nextvit_small",
}


def language(kind: str, size: str, dtype: torch.dtype, length: int = 64) -> Made:
    """A decoder of random weights, and one sequence of tokens.

    Args:
        kind: `Llama` or `Qwen2`.
        size: a key of `LANGUAGE`.
        dtype: of its weights.
        length: how many tokens.

    Returns:
        The model and its inputs.
    """
    transformers = importlib.import_module("transformers")
    heads = LANGUAGE[size]["hidden_size"] // 64
    config = getattr(transformers, f"{kind}Config")(
        **LANGUAGE[size],
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        vocab_size=32_000,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        use_cache=False,
    )
    model = getattr(transformers, f"{kind}ForCausalLM")(config).to(dtype).eval()
    return model, {"input_ids": torch.randint(3, 32_000, (1, length))}


def timm(name: str) -> Made:
    """A network of `timm` and one image."""
    return importlib.import_module("timm").create_model(name).eval(), torch.randn(1, 3, 224, 224)


def detection() -> Made:
    """RT-DETR with a ResNet-50, as `transformers` has it, and one image."""
    transformers = importlib.import_module("transformers")
    config = transformers.RTDetrConfig()
    model = transformers.RTDetrForObjectDetection(config).eval()
    return model, {"pixel_values": torch.randn(1, 3, 320, 320)}


def yolo(name: str) -> Made:
    """A detector of `ultralytics` and one image."""
    kind = "RTDETR" if name.startswith("rtdetr") else "YOLO"
    model = getattr(importlib.import_module("ultralytics"), kind)(f"{name}.yaml").model
    return model.eval(), torch.randn(1, 3, 320, 320)


def models() -> dict[str, Callable[[], Made]]:
    """A builder for each model that the installed packages provide, by name."""
    found: dict[str, Callable[[], Made]] = {}
    if importlib.util.find_spec("transformers") is not None:
        for size in LANGUAGE:
            for kind in ("Llama", "Qwen2"):
                found[f"{kind} {size}, float32"] = partial(language, kind, size, torch.float32)
                found[f"{kind} {size}, bfloat16"] = partial(language, kind, size, torch.bfloat16)
        found["RT-DETR, ResNet-50"] = detection
    if importlib.util.find_spec("timm") is not None:
        found.update({title: partial(timm, name) for title, name in TIMM.items()})
    if importlib.util.find_spec("ultralytics") is not None:
        found.update({name: partial(yolo, name) for name in ("yolo12n", "rtdetr-l")})
    return found


def held(what: str) -> float:
    """Memory of this process in megabytes: `VmRSS` (present) or `VmHWM` (peak)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


def passed(model: nn.Module, inputs: Any) -> float:
    """Seconds of processor time of one pass."""
    start = time.process_time()
    with torch.no_grad():
        call(model, inputs)
    return time.process_time() - start


def row(name: str) -> str:
    """A model's line of the table, measured in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    declare_operators()
    small = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    ramify.trace(small, torch.randn(2, 4))  # what is imported once
    model, inputs = models()[name]()
    forward = statistics.median([passed(model, inputs) for _ in range(4)][1:])
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that from here on
    before = held("VmRSS")
    start = time.process_time()
    graph = ramify.trace(model, inputs)
    seconds = time.process_time() - start
    beside = held("VmHWM") - before
    own = sum(t.numel() * t.element_size() for t in tensors_of(model).values()) / 2**20
    return (
        f"| {name} | {own:.0f} | {len(graph.groups)} | {1e3 * forward:.0f} | {seconds:.1f} "
        f"| {seconds / forward:.1f} | {beside:.0f} | {beside / own:.2f} |"
    )


def table(names: Iterable[str]) -> None:
    """Print the rows, each from a separate process."""
    print("| model | MB | groups | forward, ms | trace, s | passes | beside, MB | of the model |")
    print("|---|---|---|---|---|---|---|---|")
    for name in names:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(pool.apply(row, (name,)), flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trace", description=__doc__)
    parser.add_argument("words", nargs="*", help="models whose names hold one of these; else all")
    words = [word.lower() for word in parser.parse_args().words]
    table(name for name in models() if not words or any(w in name.lower() for w in words))


if __name__ == "__main__":
    main()
