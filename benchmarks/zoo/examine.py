"""Examine one model: trace it, prune half, split a tenth, save, load and export it.

Every exactness claim is checked. If removing channels of a group is claimed to equal zeroing them,
half of them are removed and compared with a copy of the original in which they are zeroed. Splits
are compared with the model before, and the loaded and exported models with the one in memory.
"""

from __future__ import annotations

import copy
import random
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

import ramify
from benchmarks.zoo import uses
from benchmarks.zoo.comparing import (
    MASKED,
    SAME,
    Wrong,
    any_loss,
    outputs,
    rounding_of,
    runs,
    same,
    tensors,
)
from benchmarks.zoo.entries import Entry
from ramify import ChannelGraph, ChannelGroup, Prune, RamifyError, Split
from ramify.tracing.dims import leaves
from ramify.tracing.indexing import owners
from ramify.tracing.recorder import arguments

Row = dict[str, Any]
Report = Callable[[Row], None]
"""Receives the row so far, so that results are known even if the process is killed."""

ENOUGH = 0.5
"""The smallest share of the parameters in prunable groups with which a model passes."""


def examine(entry: Entry, report: Report, onnx: bool = False) -> Row:
    """All entries of the table for one model.

    Args:
        entry: the model.
        report: called with the row after each step.
        onnx: whether to export to ONNX too.

    Returns:
        The row, as plain JSON values.
    """
    warnings.filterwarnings("ignore")
    row: Row = {"name": entry.name, "family": entry.family, "full": entry.full, "checks": {}}
    start = time.process_time()
    model, inputs = prepare(entry, torch.float32)
    row["parameters"] = sum(p.numel() for p in model.parameters())
    row["stage"] = "trace"
    report(row)
    try:
        began = time.process_time()
        graph = ramify.trace(model, inputs)
        row["trace_s"] = time.process_time() - began
    except RamifyError as error:
        return {**row, "status": "refused", "why": str(error)}
    describe(row, graph)
    report(row)
    if any(group.can_prune or group.can_split for group in graph.groups):
        edited = _edit(row, graph, "float32", report)
        _check(row, "save", lambda: save_and_load(entry, edited))
        _check(row, "pretrained", lambda: uses.pretrained(*prepare(entry, torch.float32)))
        _check(row, "generate", lambda: uses.generates(edited))
        report(row)
        _check(row, "export", lambda: export(entry, edited))
        if onnx:
            _check(row, "onnx", lambda: export_onnx(edited))
        _check(row, "train", lambda: uses.trains(edited, lambda: prepare(entry, torch.float32)))
        half = prepare(entry, torch.bfloat16)
        _check(row, "bfloat16", lambda: uses.in_bfloat16(*half, prune_rest))
        report(row)
        row["stage"] = "float64"
        model, inputs = prepare(entry, torch.float64)
        if runs(model, inputs):
            _edit(row, ramify.trace(model, inputs), "float64", report)
    row["seconds"] = time.process_time() - start
    row["stage"] = "done"
    return row


def prepare(entry: Entry, dtype: torch.dtype) -> tuple[nn.Module, Any]:
    """The model in eval mode, with norms, biases and statistics randomised, and its inputs."""
    torch.manual_seed(0)
    random.seed(0)
    model = entry.build().to(dtype).eval()
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            known = isinstance(tensor, nn.Parameter) or "running" in name
            if not known or not tensor.is_floating_point():
                continue
            if "running_var" in name:
                tensor.copy_(0.5 + torch.rand_like(tensor))
            elif tensor.dim() <= 1:
                tensor.add_(0.6 * torch.rand_like(tensor) - 0.2)
    cast = lambda t: t.to(dtype) if t.is_floating_point() else t  # noqa: E731
    return model, tree_map(lambda x: cast(x) if isinstance(x, Tensor) else x, entry.inputs())


def describe(row: Row, graph: ChannelGraph) -> None:
    """How much of the model can be edited, and why the rest cannot."""
    able = [group for group in graph.groups if group.can_prune]
    row["groups"] = len(graph.groups)
    row["prunable"], row["splittable"] = len(able), sum(g.can_split for g in graph.groups)
    row["exact"] = sum(group.prune_exact for group in able)
    row["share_prune"] = share(graph, able)
    row["share_split"] = share(graph, [group for group in graph.groups if group.can_split])
    frozen = Counter(g.reason for g in graph.groups if not g.can_prune and g.width > 1)
    row["frozen"] = dict(frozen.most_common())


def share(graph: ChannelGraph, groups: list[ChannelGroup]) -> float:
    """The share of the parameters' entries that belong to a channel of these groups."""
    atoms, reached, total = {group.atom for group in groups}, 0.0, 0
    for name, parameter in graph.model.named_parameters():
        free = 1.0
        for term in graph.dims[name]:
            held = np.zeros(term.size, dtype=bool)
            for atom in atoms & set(leaves(term)):
                held |= owners(term, atom) >= 0
            free *= 1.0 - held.mean() if held.size else 1.0
        reached += (1.0 - free) * parameter.numel()
        total += parameter.numel()
    return float(reached / total) if total else 0.0


def _check(row: Row, name: str, run: Callable[[], str | None]) -> None:
    """Record the result of a check: `yes`, why it does not apply, or what went wrong."""
    row["stage"] = name
    try:
        row["checks"][name] = run() or "yes"
    except Wrong as error:
        row["checks"][name] = f"WRONG: {error}"
    except RamifyError as error:
        row["checks"][name] = f"refused: {error}"
    except Exception as error:  # any error of a third-party model is a finding
        row["checks"][name] = f"error: {type(error).__name__}: {error}"


def _edit(row: Row, graph: ChannelGraph, kind: str, report: Report) -> ChannelGraph:
    """Prune exact groups and compare; prune the others and run backward; split and compare."""
    held = [graph]
    exactly = kind == "float64" and graph.tapes[0].rounding < torch.finfo(torch.float32).eps
    dtype = torch.float64 if exactly else torch.float32  # some models compute in float32 within

    masked: list[nn.Module] = []

    def exact() -> str | None:
        held[0], reason = prune_exact(held[0], dtype, masked)
        return reason

    def other() -> str | None:
        if not masked:
            return "no group is exact"
        inputs, what = uses.other_sizes(masked[0], graph.inputs)
        if inputs is None:
            return what
        same(f"at another {what}, the pruned model and the masked original",
             outputs(masked[0], inputs), outputs(held[0].model, inputs), MASKED[dtype])  # fmt: skip
        return None

    def rest() -> str | None:
        held[0] = prune_rest(held[0])
        return None

    def split() -> str | None:
        held[0], reason = split_some(held[0], dtype)
        return reason

    _check(row, f"masked {kind}", exact)
    report(row)
    _check(row, f"size {kind}", other)
    masked.clear()
    _check(row, f"prune {kind}", rest)
    report(row)
    _check(row, f"split {kind}", split)
    report(row)
    return held[0]


def prune_exact(
    graph: ChannelGraph, dtype: torch.dtype, kept: list[nn.Module]
) -> tuple[ChannelGraph, str | None]:
    """Prune half of the channels of every group for which that is claimed to equal zeroing them.

    Args:
        graph: the graph of the model.
        dtype: the type in which it computes.
        kept: receives the masked original.

    Returns:
        The pruned model, and the reason if there is nothing to prune.
    """
    groups = [group for group in graph.groups if group.prune_exact]
    if not groups:
        return graph, "no group is exact"
    gone = {group.name: draw(group.width, group.width // 2) for group in groups}
    masked = copy.deepcopy(graph.model)
    kept.append(masked)
    for group in groups:
        mask(graph, masked, group, gone[group.name])
    expected = outputs(masked, graph.inputs)
    edits = [Prune(name, channel) for name, some in gone.items() for channel in some]
    pruned = ramify.apply(graph, edits)
    same("the pruned model and the masked original", expected,
         outputs(pruned.model, pruned.inputs), MASKED[dtype])  # fmt: skip
    return pruned, None


def prune_rest(graph: ChannelGraph) -> ChannelGraph:
    """Prune half of the channels of every other prunable group; run forward and backward."""
    shapes = [tuple(t.shape) for t in outputs(graph.model, graph.inputs)]
    groups = [g for g in graph.groups if g.can_prune and not g.prune_exact]
    edits = [Prune(g.name, channel) for g in groups for channel in draw(g.width, g.width // 2)]
    reached = backward(graph)
    pruned = ramify.apply(graph, edits) if edits else graph
    if [tuple(t.shape) for t in outputs(pruned.model, pruned.inputs)] != shapes:
        raise Wrong("the outputs have other shapes")
    if backward(pruned) != reached:
        raise Wrong("other parameters than before get a gradient")
    return pruned


def backward(graph: ChannelGraph) -> set[str]:
    """The parameters that a backward pass reaches, whose gradients must be finite."""
    graph.model.zero_grad()
    any_loss(graph.model, graph.inputs).backward()
    found = {n: p.grad for n, p in graph.model.named_parameters() if p.grad is not None}
    for name, gradient in found.items():
        if not bool(gradient.isfinite().all()):
            raise Wrong(f"the gradient of {name} is not finite")
    graph.model.zero_grad()
    return set(found)


def split_some(graph: ChannelGraph, dtype: torch.dtype) -> tuple[ChannelGraph, str | None]:
    """Split a tenth of the channels of every splittable group; the outputs must not change."""
    groups = [group for group in graph.groups if group.can_split]
    if not groups:
        return graph, "no group splits"
    inputs, expected = graph.inputs, outputs(graph.model, graph.inputs)
    noise = rounding_of(graph.model, inputs) if dtype is torch.float32 else 0.0
    some = [(g.name, c) for g in groups for c in draw(g.width, max(1, round(g.width / 10)))]
    grown = ramify.apply(graph, [Split(name, channel) for name, channel in some])
    same("the model before and after splits", expected,
         outputs(grown.model, grown.inputs), max(SAME[dtype], noise))  # fmt: skip
    return grown, None


def save_and_load(entry: Entry, graph: ChannelGraph) -> str | None:
    """Save the edited model, build it again from its class, and compare."""
    with tempfile.TemporaryDirectory() as folder:
        path = ramify.save(graph.model, Path(folder) / "model")
        again = ramify.load(path, build=entry.build).eval()
    same("the saved and the loaded model", outputs(graph.model, graph.inputs),
         outputs(again, graph.inputs), 1e-6)  # fmt: skip
    return None


def export(entry: Entry, graph: ChannelGraph) -> str | None:
    """`torch.export` of the edited model; reports if the original cannot be exported either."""
    args, kwargs = arguments(graph.inputs)
    try:
        program = torch.export.export(graph.model, args, kwargs, strict=False)
    except Exception:
        ways = [
            getattr(getattr(model, "config", None), "_experts_implementation", None)
            for model in (graph.model, entry.build())
        ]
        if ways[0] != ways[1]:
            return "experts of odd widths are computed in a loop over the data, as is said"
        try:
            torch.export.export(prepare(entry, torch.float32)[0], args, kwargs, strict=False)
        except Exception:
            return "nor does the original"
        raise
    same("the model and its export", outputs(graph.model, graph.inputs),
         tensors(program.module()(*args, **kwargs)), MASKED[torch.float32])  # fmt: skip
    return None


def export_onnx(graph: ChannelGraph) -> str | None:
    """The edited model as ONNX, run in `onnxruntime` if it is installed."""
    args, kwargs = arguments(graph.inputs)
    program = torch.onnx.export(graph.model, args, kwargs=kwargs, dynamo=True, verbose=False)
    assert program is not None
    try:
        found = program(*args, **kwargs)
    except ImportError:
        return "exported, not run"
    same("the model and its ONNX", outputs(graph.model, graph.inputs),
         tensors(found), 1e-3)  # fmt: skip
    return None


# The compared models ---------------------------------------------------------------------


def draw(width: int, count: int) -> list[int]:
    """This many random channels, sorted."""
    return sorted(random.sample(range(width), count))


def mask(graph: ChannelGraph, model: nn.Module, group: ChannelGroup, gone: list[int]) -> None:
    """Zero the channels of a group where they are read.

    Channels that only weights read are zeroed in the columns of these weights. Channels that
    something else reads too (a sum, a product of activations) are zeroed in the layers that produce
    them; for a product, in one factor.
    """
    tensors = {**dict(model.named_buffers()), **dict(model.named_parameters())}
    for slot in group.slots:
        scaled = graph.indexing.scaled_rows.get((slot.name, slot.dim), ())
        factor = any(rows.atom is group.atom for rows in scaled)
        if slot.role == "consumer" or factor or not group.can_split:
            where = torch.from_numpy(graph.positions(group, slot)[gone].reshape(-1))
            tensors[slot.name].data.index_fill_(slot.dim, where, 0)


def verdict(row: Row) -> tuple[str, str]:
    """The status of a row, and why it is not `pass`."""
    if "status" in row:
        return row["status"], row.get("why", "")
    bad = {name: text for name, text in row["checks"].items() if _fails(text)}
    for name, text in bad.items():
        if text.startswith("WRONG"):
            return "WRONG", f"{name}: {text.removeprefix('WRONG: ')}"
    if not row["prunable"] and not row["splittable"]:
        return "frozen", next(iter(row["frozen"]), "no group was found")
    if bad:
        name, text = next(iter(bad.items()))
        return "partial", f"{name} {text}"
    if row["share_prune"] < ENOUGH:
        return "partial", f"{row['share_prune']:.0%} of the parameters in prunable groups"
    return "pass", ""


def _fails(text: str) -> bool:
    return text.startswith(("WRONG", "refused", "error"))
