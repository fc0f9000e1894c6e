"""The parts of a `transformers` Swin that SiDT prunes, and the formulas of its Table 4.3.

Letters, as in the table: `n` tokens, `d` width of the stream, `h` heads, `M` side of a window,
`d_m` hidden units of the MLP, `ρ` the share of dimensions that remain, `W` dimensions of a group.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.swin.modeling_swin import SwinLayer

import ramify
from ramify.cost import Cost

SHARES = (0.2, 0.4, 0.6, 0.8)  # of the dimensions of every block to prune
Config = Any  # SwinConfig, which declares its sizes as numbers or pairs of them


@dataclass(frozen=True)
class Block:
    """The sizes of one Swin block.

    Attributes:
        tokens: n, positions of one image.
        width: d, of the stream.
        heads: h.
        window: M, the side of a window.
        table: rows of the table of relative positions, (2M - 1)² for the configured M.
        head_dim: dimensions of q, k and v in each head: d/h, and ρd/h after pruning.
        hidden: d_m, and ρd_m after pruning.
    """

    tokens: int
    width: int
    heads: int
    window: int
    table: int
    head_dim: int
    hidden: int

    @property
    def attention(self) -> Cost:
        """W-MSA: 4ρd² weights, 4ρnd² + 2ρnM²d MACs; plus biases and the table, which O() omits."""
        inner, biases = self.heads * self.head_dim, 3 * self.heads * self.head_dim + self.width
        linear = 4 * self.tokens * self.width * inner
        products = 2 * self.tokens * self.window**2 * inner
        params = 4 * self.width * inner + biases + self.heads * self.table
        return _cost(params, linear=linear, attention=products)

    @property
    def mlp(self) -> Cost:
        """MLP: 2ρd·d_m weights and 2ρnd·d_m MACs; plus biases."""
        weights = 2 * self.width * self.hidden
        return _cost(weights + self.hidden + self.width, linear=self.tokens * weights)

    @property
    def norms(self) -> Cost:
        """Two layer norms, which are not pruned, with three passes over the entries each."""
        return _cost(4 * self.width, norm=6 * self.tokens * self.width)

    def pruned(self, share: float) -> Block:
        """The block without a share of its dimensions, to the nearest whole number."""
        kept = {"head_dim": self.head_dim, "hidden": self.hidden}
        return replace(self, **{name: left(width, share) for name, width in kept.items()})


def left(width: int, share: float) -> int:
    """The number of `width` dimensions that remain when a share is pruned."""
    return width - round(share * width)


def blocks(config: Config) -> list[Block]:
    """The blocks of an unpruned Swin, in forward order.

    Args:
        config: of a model whose stages divide into whole windows.

    Returns:
        Their sizes.
    """
    found = []
    for stage, depth in enumerate(config.depths):
        side, width = _side(config, stage), config.embed_dim * 2**stage
        heads = config.num_heads[stage]
        block = Block(
            tokens=side**2,
            width=width,
            heads=heads,
            window=min(side, config.window_size),
            table=(2 * config.window_size - 1) ** 2,
            head_dim=width // heads,
            hidden=int(config.mlp_ratio * width),
        )
        found += [block] * depth
    return found


def rest(config: Config, labels: int) -> Cost:
    """All unpruned parts except the blocks' norms: patches, mergers, last norm, classifier.

    Args:
        config: of the model.
        labels: classes; 0 for a model without a classifier.

    Returns:
        The cost for one image.
    """
    first, patch = config.embed_dim, config.num_channels * config.patch_size**2
    tokens, last = _side(config, 0) ** 2, config.embed_dim * 2 ** (len(config.depths) - 1)
    cost = _cost((patch + 3) * first, conv=tokens * patch * first, norm=3 * tokens * first)
    for stage in range(1, len(config.depths)):
        tokens, width = _side(config, stage) ** 2, config.embed_dim * 2 ** (stage - 1)
        weights = 4 * width * 2 * width
        cost = added(
            cost,
            _cost(weights + 8 * width, linear=tokens * weights, norm=12 * tokens * width),
        )
    tokens = _side(config, len(config.depths) - 1) ** 2
    head = _cost((last + 1) * labels, linear=last * labels)
    return added(cost, _cost(2 * last, norm=3 * tokens * last), head)


def table_cost(config: Config, labels: int, share: float = 0.0) -> Cost:
    """The cost by the formulas of a classifier without a share of its dimensions, for one image."""
    parts = [block.pruned(share) for block in blocks(config)]
    each = [cost for part in parts for cost in (part.attention, part.mlp, part.norms)]
    return added(rest(config, labels), *each)


def added(*costs: Cost) -> Cost:
    """The sum of costs, by kind."""
    kinds: dict[str, int] = defaultdict(int)
    for cost in costs:
        for kind, macs in cost.by_kind.items():
            kinds[kind] += macs
    return _cost(sum(cost.params for cost in costs), **kinds)


def swin_blocks(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """(name, module) of every Swin block anywhere in the model."""
    return ((name, part) for name, part in model.named_modules() if isinstance(part, SwinLayer))


def dimensions(graph: ramify.ChannelGraph, gates: str = "both") -> list[ramify.ChannelGroup]:
    """The groups that SiDT scores: the q/k/v head dimensions and the MLP units of each block.

    Args:
        graph: of a model with Swin blocks.
        gates: "qkv" or "mlp" for only one kind.

    Returns:
        Two groups per block, or one.
    """
    names = {"qkv": "attention.q_proj", "mlp": "mlp.fc1"}
    asked = names.values() if gates == "both" else [names[gates]]
    return [graph[f"{block}.{name}"] for block, _ in swin_blocks(graph.model) for name in asked]


def widths(model: nn.Module) -> dict[str, int]:
    """The present widths of every Swin block: dimensions of a head, units of the MLP."""
    found = {}
    for name, block in swin_blocks(model):
        rows = block.attention.q_proj.out_features
        found[f"{name}.attention.q_proj"] = rows // block.attention.num_attention_heads
        found[f"{name}.mlp.fc1"] = block.mlp.fc1.out_features
    return found


def goals(graph: ramify.ChannelGraph, share: float) -> dict[str, int]:
    """Group -> the number of its dimensions that remain when a share of every block is pruned."""
    return {group.name: left(group.width, share) for group in dimensions(graph)}


def prunes(graph: ramify.ChannelGraph, widths: Mapping[str, int]) -> list[ramify.Prune]:
    """Prunes that reduce groups to given widths, the dimensions with the smallest weights first.

    Args:
        graph: of a model with Swin blocks.
        widths: one of `dimensions` -> width, at most the present one.

    Returns:
        The edits.
    """
    norms = weight_norms(graph)
    return [
        ramify.Prune(name, channel)
        for name, width in widths.items()
        for channel in norms[name].argsort()[: graph[name].width - width].tolist()
    ]


def weight_norms(graph: ramify.ChannelGraph) -> dict[str, Tensor]:
    """The L1 norm of each dimension's weights divided by the mean of its group, by group: (W,)."""
    norms = {group.name: torch.zeros(group.width) for group in dimensions(graph)}
    for proposal in ramify.L1().propose(graph, _unasked, []):
        edit = proposal.edit
        if isinstance(edit, ramify.Prune) and edit.group in norms:
            norms[edit.group][edit.channel] = -proposal.value
    return norms


def _unasked(model: nn.Module, batch: Any) -> Tensor:
    """A loss for methods that use only weights."""
    return torch.zeros(0)


def _side(config: Config, stage: int) -> int:
    side: int = config.image_size // config.patch_size // 2**stage
    return side


def _cost(params: int, **kinds: int) -> Cost:
    return Cost(params, sum(kinds.values()), kinds)
