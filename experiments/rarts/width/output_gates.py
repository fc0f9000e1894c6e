"""Gates on the outputs of layers, before any norm: equation (4.1) of the thesis as printed.

Shape letters: `O` outputs of a layer, `W` channels of a group, `K` places of a channel in a layer.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import ramify
from ramify.probe.targets import targets


class Scaled(nn.Module):
    """A weight or a bias times the gates of its outputs.

    Args:
        gates: (O,), of the outputs.
    """

    def __init__(self, gates: nn.Parameter) -> None:
        super().__init__()
        self.gates = gates

    def forward(self, value: Tensor) -> Tensor:
        """The product, of the shape of `value`, whose first dimension is O."""
        return value * self.gates.reshape(-1, *[1] * (value.dim() - 1))


class OutputGates:
    """A gate on each output of every layer that produces channels of some groups.

    A norm behind a layer cancels the size of its gates. `ramify.gate` avoids this by gating the
    readers of the channels (docs/gates.md).

    Args:
        graph: the traced model, whose layers get parametrizations; their outputs lie along the
            first dimension of their weights.
        groups: names of the groups.
    """

    def __init__(self, graph: ramify.ChannelGraph, groups: set[str]) -> None:
        self.model = graph.model
        self.targets = [target for target in targets(graph) if target.group.name in groups]
        made = {k.name.rpartition(".")[0] for target in self.targets for k in target.kernels}
        self.gates: dict[str, nn.Parameter] = {}
        for name in sorted(made):
            layer = self.model.get_submodule(name)
            parts = dict(layer.named_parameters(recurse=False))
            self.gates[name] = nn.Parameter(torch.ones_like(parts["weight"].flatten(1)[:, 0]))
            for part in parts:
                parametrize.register_parametrization(layer, part, Scaled(self.gates[name]))

    def __iter__(self) -> Iterator[nn.Parameter]:
        return iter(self.gates.values())

    def check(self) -> None:
        """Stop a search that has collapsed.

        Raises:
            RamifyError: names the first layer whose gates are not all finite, or all zero.
        """
        for name, gates in self.gates.items():
            if not bool(torch.isfinite(gates).all()) or not bool(gates.any()):
                raise ramify.RamifyError(f"the gates of '{name}' are not all finite, or all zero")

    def fold(self) -> dict[str, Tensor]:
        """Multiply the gates into the layers and remove the parametrizations.

        Returns:
            For each group its channels' gates (W,): the mean |α| over all layers that produce them.
        """
        scores: dict[str, Tensor] = {}
        for target in self.targets:
            sizes = [
                self.gates[kernel.name.rpartition(".")[0]]
                .detach()
                .abs()[torch.as_tensor(kernel.positions)]
                .mean(1)
                for kernel in target.kernels
            ]
            scores[target.group.name] = torch.stack(sizes).mean(0)
        for name in self.gates:
            layer = self.model.get_submodule(name)
            for part in ("weight", "bias"):
                if parametrize.is_parametrized(layer, part):
                    parametrize.remove_parametrizations(layer, part, leave_parametrized=True)
        return scores
