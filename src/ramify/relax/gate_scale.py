"""Pruning scores from a width search: the smallest gates are pruned first.

Shape letters: `W` channels of a group.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ramify.arguments import check_settings
from ramify.edit.plan import check_current
from ramify.errors import RamifyError
from ramify.methods import Proposal
from ramify.methods.scores import prunable, prunes
from ramify.probe.loss import Loss
from ramify.relax.block_gates import of_channels
from ramify.tracing import ChannelGraph


@dataclass(frozen=True, eq=False)
class GateScale:
    r"""Prune the channels with the smallest gates, at the end of a width search.

    The score of a channel is :math:`|\alpha_c|`; channels of all gated groups are ranked together,
    and groups without gates are left out.

    A norm layer after the readers cancels a factor common to all gates of a group, so the common
    factor does not tell how important the channels are; `relative` divides by the group's mean
    :math:`|α|` to make groups comparable.

    Args:
        scores: group name -> α (W,), as `ramify.fold` returns them; gates of blocks are ignored.
        relative: score by :math:`|\alpha_c|` over the mean of the group.

    Example:
        >>> import ramify
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
        >>> graph = ramify.trace(net, torch.randn(1, 4))
        >>> method = ramify.relax.GateScale({"0": torch.tensor([0.9, -0.1, 0.5])})
        >>> [(p.edit.channel, round(p.score, 1)) for p in method.propose(graph)]
        [(1, -0.1), (2, -0.5), (0, -0.9)]

    Source: RARTS thesis, Algorithm 3, the pruning stage, and section 4.3.2.
    """

    scores: Mapping[str, Tensor]
    relative: bool = False

    def __post_init__(self) -> None:
        check_settings(self)

    def propose(
        self, graph: ChannelGraph, loss: Loss | None = None, batches: Iterable[Any] = ()
    ) -> list[Proposal]:
        """A prune of every gated channel, smallest gate first; no batch is used.

        Args:
            graph: the traced model, after its gates are folded.
            loss: as for other methods; not used.
            batches: as for other methods; not used.

        Returns:
            The proposals; `score` is -|α|, optionally divided by the group's mean; `gain` is 0.

        Raises:
            RamifyError: the gates are for other widths than the graph has.
        """
        check_current(graph)
        sizes: dict[str, Tensor] = {}
        for name, alpha in of_channels(self.scores, graph).items():
            width = graph[name].width
            if alpha.shape != (width,):
                raise RamifyError(
                    f"the gates of '{name}' have shape {tuple(alpha.shape)}, and it has {width} "
                    "channels now: cut by gates once, or search again"
                )
            size = alpha.detach().double().abs()
            if self.relative:
                size = size / size.mean().clamp_min(torch.finfo(size.dtype).tiny)
            sizes[graph[name].name] = size
        can = [group.name for group in prunable(graph)]
        return prunes(graph, {name: sizes[name] for name in can if name in sizes})
