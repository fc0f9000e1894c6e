"""All candidate operations on the edges that leave one state, evaluated together.

The copies of one operation on `B` edges read the same state. If they are chains of standard layers,
their channels are concatenated: one convolution and one norm do the work of `B`, the first ReLU is
shared, and the mixing weight is the scale of the last norm. An operation without weights has the
same output on each edge and is evaluated once. `none` is not evaluated at all. The outputs equal
those of the separate candidates up to rounding.

Shape letters: `N` samples, `C` channels, `B` edges, `E` all edges of a cell, `O` operations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ramify.cells.depthwise import convolve, doubly_dilated, from_sublattices, sublattices
from ramify.cells.operations import Zero
from ramify.errors import RamifyError

if TYPE_CHECKING:
    from ramify.cells.space import Build

Used = Sequence[Sequence[bool]]
_LAYERS = (nn.ReLU, nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d)


def is_chain(module: nn.Module) -> bool:
    """Whether a module is a sequence of standard layers, whose copies can be concatenated."""
    return isinstance(module, nn.Sequential) and all(
        type(layer) in _LAYERS and getattr(layer, "padding_mode", "zeros") == "zeros"
        for layer in module
    )


class Reading:
    """A state in the forms that candidates read; each form is computed once."""

    def __init__(self, x: Tensor, copies: int) -> None:
        self.copies = copies
        self._forms: dict[tuple[str, bool, bool], Tensor] = {("whole", False, False): x}

    def get(self, pixels: str, relu: bool, repeated: bool) -> Tensor:
        """The state in one form.

        Args:
            pixels: `whole`, `sublattices` (those of every second pixel, as samples) or `second`
                (only the first sublattice).
            relu: whether ReLU is applied.
            repeated: whether to concatenate one copy for each edge.

        Returns:
            (N, C, H, W), or (N, B C, H, W) if repeated; H and W are halved unless `whole`.
        """
        form = pixels, relu, repeated
        if form not in self._forms:
            self._forms[form] = self._make(*form)
        return self._forms[form]

    def _make(self, pixels: str, relu: bool, repeated: bool) -> Tensor:
        if repeated:  # with cat, because repeat does not keep the layout
            return torch.cat([self.get(pixels, relu, False)] * self.copies, dim=1)
        if pixels == "sublattices":
            return sublattices(self.get("whole", relu, False))
        if pixels == "second":
            # With a pool, because the gradient of a slice does not keep the layout.
            return F.avg_pool2d(self.get("whole", relu, False), 1, stride=2)
        return F.relu(self.get("whole", False, False))


class SideBySide(nn.Module):
    """Chains of layers that differ only in their weights, evaluated as one chain.

    Args:
        chains: `B` chains, for which `is_chain` is true.
    """

    def __init__(self, chains: Sequence[nn.Sequential]) -> None:
        super().__init__()
        self.copies = len(chains)
        # Up to the first layer with weights, all chains compute the same. A convolution that reads
        # all channels can read the shared input; other layers need a copy of it for each chain.
        layers: list[nn.Module] = []
        self.repeat_at = -1  # before this layer the shared input is repeated
        shared = True
        for number, copies in enumerate(zip(*chains, strict=True)):
            layer = copies[0]
            if isinstance(layer, nn.Conv2d | nn.BatchNorm2d):
                reads_shared = shared and isinstance(layer, nn.Conv2d) and layer.groups == 1
                if shared and not reads_shared:
                    self.repeat_at = number
                shared = False
                layer = _side_by_side(copies, reads_shared)
            layers.append(layer)
        self.layers = nn.Sequential(*layers)
        self.start = int(isinstance(layers[0], nn.ReLU))

    def pixels(self, height: int, width: int) -> str:
        """The form of `Reading` in which the chains read a state of this size.

        Returns:
            A form that needs no dilation, if there is one. For `sublattices` the outputs are
            sublattices too; for every `second` pixel they are whole.
        """
        # A dilated convolution of stride 2 reads every second pixel. One of stride 1 does the same
        # on each sublattice, as do the following layers if they work pixel by pixel.
        first, *rest = list(self.layers)[self.start :]
        if not (doubly_dilated(first) and isinstance(first, nn.Conv2d)):
            return "whole"
        if first.stride == (2, 2):
            return "second"
        alone = all(
            isinstance(layer, nn.ReLU | nn.BatchNorm2d)
            or (isinstance(layer, nn.Conv2d) and layer.kernel_size == layer.stride == (1, 1))
            for layer in rest
        )
        return "sublattices" if alone and height % 2 == width % 2 == 0 else "whole"

    def forward(self, reading: Reading, pixels: str, scale: Tensor) -> Tensor:
        """All outputs, each multiplied by its scale.

        Args:
            reading: the state.
            pixels: the form in which to read it, from `pixels`.
            scale: (B,).

        Returns:
            (N, B C, H, W), or the `sublattices` of that.
        """
        start, own = self.start, False
        x = reading.get(pixels, relu=bool(start), repeated=self.repeat_at == start)
        *body, last = list(enumerate(self.layers))[start:]
        for number, layer in body:
            x = self._repeated(x, number)
            if isinstance(layer, nn.Conv2d):
                x = convolve(layer, x, undilated=number == start and pixels != "whole")
            else:
                # Nothing else reads the output of a convolution or norm, not even its backward.
                x = F.relu(x, inplace=own) if isinstance(layer, nn.ReLU) else layer(x)
            own = isinstance(layer, nn.Conv2d | nn.BatchNorm2d)
        return _scaled(last[1], self._repeated(x, last[0]), scale)

    def _repeated(self, x: Tensor, number: int) -> Tensor:
        """The input of a layer: one copy for each chain if the chains separate there."""
        return torch.cat([x] * self.copies, dim=1) if number == self.repeat_at > self.start else x

    def state_of(self, number: int) -> dict[str, Tensor]:
        """The `state_dict` of one of the chains."""
        return {
            name: tensor.chunk(self.copies)[number] if tensor.ndim else tensor
            for name, tensor in self.layers.state_dict().items()
        }


def _scaled(layer: nn.Module, x: Tensor, scale: Tensor) -> Tensor:
    """A layer's output, (N, B C, H, W), with each block of C channels times its scale, (B,)."""
    # A norm without weights uses the mixing weights as its scale.
    if isinstance(layer, nn.BatchNorm2d) and not layer.affine and layer.momentum is not None:
        by_batch = layer.training or layer.running_mean is None
        if layer.training and layer.num_batches_tracked is not None:
            layer.num_batches_tracked.add_(1)
        mean, var, factor, eps = (
            layer.running_mean,
            layer.running_var,
            layer.momentum,
            layer.eps,
        )
        weight = scale.repeat_interleave(layer.num_features // len(scale))
        return F.batch_norm(x, mean, var, weight, None, by_batch, factor, eps)
    y = layer(x)
    return y * scale.repeat_interleave(y.shape[1] // len(scale)).view(1, -1, 1, 1)


def _side_by_side(copies: Sequence[nn.Module], reads_shared: bool) -> nn.Module:
    """One layer that does the work of several, on one shared input or on concatenated inputs."""
    first, count = copies[0], len(copies)
    times = 1 if reads_shared else count
    if isinstance(first, nn.Conv2d):
        wide: nn.Module = nn.Conv2d(
            first.in_channels * times,
            first.out_channels * count,
            first.kernel_size,  # type: ignore[arg-type]
            first.stride,  # type: ignore[arg-type]
            first.padding,  # type: ignore[arg-type]
            first.dilation,  # type: ignore[arg-type]
            first.groups * times,
            first.bias is not None,
            device="meta",
        )
    else:
        assert isinstance(first, nn.BatchNorm2d)
        wide = nn.BatchNorm2d(
            first.num_features * count,
            first.eps,
            first.momentum,
            first.affine,
            first.track_running_stats,
            device="meta",
        )
    # Created without memory (on meta), then given the concatenated tensors of all copies.
    states = [copy.state_dict() for copy in copies]
    joined = {
        name: torch.cat([state[name] for state in states]) if tensor.ndim else tensor.clone()
        for name, tensor in states[0].items()
    }
    wide.load_state_dict(joined, assign=True)
    return wide


class EdgeMixtures(nn.Module):
    """The mixtures on all edges that leave one state (RARTS thesis, (3.6)).

    Args:
        operations: the candidates, in the order of the mixing weights.
        rows: the row of each edge in the mixing weights.
        channels: channels of the state.
        stride: stride of the edges.
        partial: the candidates read one in ``partial`` channels; the others bypass them, see
            `with_bypass`.
    """

    def __init__(
        self,
        operations: Mapping[str, Build],
        rows: Sequence[int],
        channels: int,
        stride: int,
        partial: int = 1,
    ) -> None:
        super().__init__()
        if channels % partial:
            raise RamifyError(
                f"{channels} channels are not a multiple of partial={partial}: give a number that "
                "divides them."
            )
        channels //= partial
        self.channels, self.partial = channels, partial
        self.rows = list(rows)
        self.columns = {name: column for column, name in enumerate(operations)}
        self.wide, self.shared, self.apart = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        # `none` needs no work, and an operation without weights is the same on all edges. Chains
        # are concatenated; all other operations run edge by edge.
        for name, build in operations.items():
            copies = [build(channels, stride, True) for _ in rows]
            if isinstance(copies[0], Zero):
                continue
            if not any(True for _ in copies[0].parameters()):
                self.shared[name] = copies[0]
            elif all(is_chain(copy) for copy in copies):
                self.wide[name] = SideBySide(copies)  # type: ignore[arg-type]
            else:
                self.apart[name] = nn.ModuleList(copies)
        self.nothing = Zero(stride)

    def forward(self, x: Tensor, mixing: Tensor, used: Used) -> list[Tensor]:
        """The output of each edge.

        Args:
            x: the state, (N, C, H, W).
            mixing: the weights of all edges of the cell, (E, O).
            used: which of these weights may be nonzero; the others need no work.

        Returns:
            A tensor (N, C, H', W') for each of `rows`.
        """
        if self.partial == 1:
            return self._mixed(x, mixing, used)
        found = self._mixed(x[:, : self.channels], mixing, used)
        return with_bypass(found, x[:, self.channels :], self.nothing.stride)

    def _mixed(self, x: Tensor, mixing: Tensor, used: Used) -> list[Tensor]:
        """The mixed output of the candidates, (N, C / partial, H', W') for each edge."""
        # First the chains, all edges at once; then add the others, edge by edge.
        mine = mixing[self.rows]
        brought: dict[int, Tensor] = {}
        total = self._side_by_side(x, mine, used)
        if total is not None:
            brought = dict(enumerate(total.split(total.shape[1] // len(self.rows), dim=1)))
        weights = [row.unbind() for row in mine.unbind()]
        for name in (*self.shared, *self.apart):
            for edge, y in self._one_by_one(name, x, self._uses(name, used)):
                weight = weights[edge][self.columns[name]]
                before = brought.get(edge)
                brought[edge] = weight * y if before is None else torch.addcmul(before, weight, y)
        return [
            brought[edge] if edge in brought else self.nothing(x) for edge in range(len(self.rows))
        ]

    def _side_by_side(self, x: Tensor, mine: Tensor, used: Used) -> Tensor | None:
        """The output of the chains on all edges, (N, B C, H', W')."""
        reading = Reading(x, len(self.rows))
        totals: dict[bool, Tensor] = {}  # whether in sublattices -> the sum
        for name, chains in self.wide.items():
            if any(self._uses(name, used)):
                assert isinstance(chains, SideBySide)
                pixels = chains.pixels(*x.shape[2:])
                y = chains(reading, pixels, mine[:, self.columns[name]])
                apart = pixels == "sublattices"
                totals[apart] = totals[apart].add_(y) if apart in totals else y
        if True in totals:
            joined = from_sublattices(totals[True])
            return totals[False].add_(joined) if False in totals else joined
        return totals.get(False)

    def _one_by_one(self, name: str, x: Tensor, uses: list[bool]) -> Iterator[tuple[int, Tensor]]:
        """(edge, output) of an operation on the edges that use it."""
        edges = [edge for edge, needed in enumerate(uses) if needed]
        if name in self.shared and edges:
            y = self.shared[name](x)
            yield from ((edge, y) for edge in edges)
        elif edges:
            copies = list(self.apart[name].children())
            yield from ((edge, copies[edge](x)) for edge in edges)

    def _uses(self, name: str, used: Used) -> list[bool]:
        return [used[row][self.columns[name]] for row in self.rows]

    def state_of(self, name: str, edge: int) -> dict[str, Tensor]:
        """The `state_dict` of one operation on one of the edges."""
        if name in self.wide:
            wide = self.wide[name]
            assert isinstance(wide, SideBySide)
            return wide.state_of(edge)
        if name in self.apart:
            return list(self.apart[name].children())[edge].state_dict()
        return self.shared[name].state_dict() if name in self.shared else {}


def with_bypass(found: Sequence[Tensor], rest: Tensor, stride: int) -> list[Tensor]:
    """Concatenate the outputs of the candidates with the channels that bypass them, and shuffle.

    Args:
        found: the output of the candidates on each edge, (N, C / partial, H', W').
        rest: the other channels of the state, (N, C - C / partial, H, W); they are pooled with 2×2
            windows if the stride is 2.
        stride: stride of the edges.

    Returns:
        For each edge, (N, C, H', W'), with the channels of the parts interleaved.

    Source: PC-DARTS (Xu and others, 2020), without its edge normalisation.
    """
    if stride == 2:
        rest = F.max_pool2d(rest, 2, stride=2, ceil_mode=True)
    joined = [torch.cat([y, rest], dim=1) for y in found]
    parts = joined[0].shape[1] // found[0].shape[1]
    return [y.unflatten(1, (parts, -1)).transpose(1, 2).flatten(1, 2) for y in joined]
