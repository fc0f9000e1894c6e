"""The output of ``ramify show``: the channel groups and blocks of a network, and its cost."""

from pathlib import Path

import torch

from ramify.commands.export import networks_of_run
from ramify.commands.jobs import try_model
from ramify.cost import graph_cost
from ramify.data import load
from ramify.errors import RamifyError, did_you_mean
from ramify.models import NAMES, build
from ramify.store.model import load as load_network
from ramify.tracing import ChannelGraph, trace
from ramify.tracing.text_table import text_table


def groups_of(
    model: str, *, data: str | None, shape: str | None, classes: int, width: int | None
) -> str:
    """The channel groups, blocks and cost of a network, or of the result of a run."""
    if Path(model).is_dir() and model not in NAMES:
        given = {"data": data, "input": shape, "width": width}
        given = {name: value for name, value in given.items() if value is not None}
        stem, make, dataset = next(networks_of_run(Path(model), given))
        return _shown(trace(load_network(stem, make), dataset.x_train[:1]))
    if model not in NAMES and ":" not in model:
        raise RamifyError(
            f"there is no folder and no network {model!r}{did_you_mean(model, NAMES)}: give the "
            f"folder of a run, one of {', '.join(NAMES)}, or package.module:function."
        )
    if (data is None) == (shape is None):
        raise RamifyError("give the network's inputs by --data NAME or by --input 1,3,32,32.")
    if data is not None:
        dataset = load(data)
        inputs, classes = dataset.x_train[:1], len(dataset.classes)
    else:
        inputs = torch.zeros(_sizes(str(shape)))
    widths = {} if width is None else {"width": width}
    net = build(model, dataset_shape=tuple(inputs.shape[1:]), classes=classes, **widths)
    try_model(net, inputs)
    return _shown(trace(net, inputs))


def _shown(graph: ChannelGraph) -> str:
    """The groups, the blocks if there are any, and the cost of the whole network."""
    rows = [
        (
            block.name,
            block.kind,
            f"{block.cost.params:,}",
            f"{block.cost.macs:,}",
            "yes" if block.can_drop else "no",
            "yes" if block.can_insert else "no",
            block.why,
        )
        for block in graph.blocks
    ]
    blocks = [f"{len(rows)} blocks", *text_table(_HEADINGS, rows, (None,) * 6 + (48,)), ""]
    cost, shape = graph_cost(graph), tuple(graph.inputs.shape)
    total = f"{cost.params:,} parameters, {cost.macs:,} MACs for an input of shape {shape}"
    return "\n".join([str(graph), "", *(blocks if rows else ()), total])


_HEADINGS = ("block", "kind", "params", "MACs", "drop", "insert", "why not")


def _sizes(text: str) -> list[int]:
    sizes = [int(part) for part in text.split(",") if part.strip().isdigit()]
    if len(sizes) != text.count(",") + 1 or len(sizes) < 2 or not all(sizes):
        raise RamifyError(f"--input is {text!r}; give whole numbers such as 1,3,32,32.")
    return sizes
