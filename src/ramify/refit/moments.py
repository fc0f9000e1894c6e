"""First and second moments of a reader's inputs and targets, which give its best weight.

Shape letters: `N` samples, `G` groups of a convolution (1 elsewhere), `F` features that one group
reads, `O` outputs of one group, `R` rows (samples times positions).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ramify import distributed
from ramify.refit.readers import Geometry, Reader
from ramify.refit.symmetric import add_upper, mirror

ROOM = 1e15
"""Numbers up to this size, and down to its inverse, can be squared in single precision."""

CHUNK = 2**23
"""The number of unfolded patch entries kept at once."""

WIDEST = 8192
"""A reader with more features is not refitted: its moments would exceed half a gigabyte."""


@dataclass
class Moments:
    r"""Sums over rows, in double precision.

    While rows are added, `xx`, `xy` and the rest are about the mean of the first rows: for numbers
    whose variation is small relative to their mean, single-precision products would lose the
    variation.

    Attributes:
        rows: the number of rows.
        x: (G, F), :math:`\sum \phi`.
        y: (G, O), :math:`\sum y`.
        xx: (G, F, F), :math:`\sum \phi \phi^T`; while rows are added, only its upper half.
        xy: (G, F, O), :math:`\sum \phi y^T`.
        yy: (G, O), :math:`\sum y^2`.
        about: what has been subtracted from the inputs (G, F, 1) and from the targets (G, O, 1) of
            the rows so far; None: nothing.
    """

    rows: Tensor
    x: Tensor
    y: Tensor
    xx: Tensor
    xy: Tensor
    yy: Tensor
    about: tuple[Tensor, Tensor] | None = field(default=None, init=False)

    @classmethod
    def zeros(cls, groups: int, features: int, outputs: int, device: torch.device) -> Moments:
        """Moments of no rows."""
        shapes = (
            (),
            (groups, features),
            (groups, outputs),
            (groups, features, features),
            (groups, features, outputs),
            (groups, outputs),
        )
        return cls(*(torch.zeros(s, dtype=torch.float64, device=device) for s in shapes))

    def parts(self) -> list[Tensor]:
        """The sums, in order."""
        return [self.rows, self.x, self.y, self.xx, self.xy, self.yy]

    def add(self, phi: Tensor, y: Tensor) -> None:
        """Add rows; once all are added, `over_ranks` completes the sums.

        Args:
            phi: (G, F, R), the inputs.
            y: (G, O, R), the targets.
        """
        phi, y = roomy(phi, y)
        if self.about is None:
            self.about = phi.mean(2, keepdim=True), y.mean(2, keepdim=True)
        phi, y = phi - self.about[0], y - self.about[1]
        self.rows += phi.shape[2]
        self.x += phi.sum(2)
        self.y += y.sum(2)
        add_upper(self.xx, phi, phi)
        self.xy += phi @ y.transpose(1, 2)
        self.yy += y.square().sum(2)

    def finish(self) -> None:
        """Convert to sums about zero, once all rows are added."""
        if self.about is not None:
            m, n = (mean.double() for mean in self.about)
            x, y = self.x[:, :, None], self.y[:, :, None]
            whole_x, whole_y = x + self.rows * m, y + self.rows * n
            left = torch.cat((x, m), 2)
            self.xx.baddbmm_(left, torch.cat((m, whole_x), 2).transpose(1, 2))
            self.xy.baddbmm_(left, torch.cat((n, whole_y), 2).transpose(1, 2))
            self.yy += (n * (y + whole_y))[:, :, 0]
            self.x, self.y, self.about = whole_x[:, :, 0], whole_y[:, :, 0], None
        mirror(self.xx)

    def of_outputs(self, which: slice) -> Moments:
        """The same sums for some outputs only; `xx` is not copied."""
        return replace(self, y=self.y[:, which], xy=self.xy[:, :, which], yy=self.yy[:, which])

    def __add__(self, other: Moments) -> Moments:
        """The sums over the rows of both."""
        return Moments(*(a + b for a, b in zip(self.parts(), other.parts(), strict=True)))


def roomy(*tensors: Tensor) -> list[Tensor]:
    """Convert tensors to a type in which they can be squared, single precision or wider."""
    wide = functools.reduce(torch.promote_types, (t.dtype for t in tensors), torch.float32)
    largest = [_largest(t) for t in tensors if t.numel()]
    if any(size and not 1 / ROOM < size < ROOM for size in largest):
        wide = torch.promote_types(wide, torch.float64)
    return [tensor.to(wide) for tensor in tensors]


def _largest(tensor: Tensor) -> float:
    """The largest magnitude; ten times faster where memory is contiguous."""
    strides = tensor.stride()
    found = tensor.permute(sorted(range(tensor.dim()), key=lambda dim: -strides[dim]))
    if not found.is_contiguous() or found.is_complex():
        return float(torch.linalg.vector_norm(tensor, torch.inf))
    least, most = torch.aminmax(found)
    return max(-float(least), float(most))


def folded(
    reader: Reader, number: int, folds: int, x: Tensor, y: Tensor
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The rows of one batch, its samples assigned to folds in blocks.

    Args:
        reader: the operation.
        number: the number of the batch, which decides which fold gets the first block.
        folds: the number of folds.
        x: the input of the operation.
        y: a tensor of the shape of its output.

    Yields:
        The number of the fold, (G, F, R) and (G, O, R).
    """
    dim = 1 if reader.turned else 0
    parts = zip(x.tensor_split(folds, dim), y.tensor_split(folds, dim), strict=True)
    for block, (some, made) in enumerate(parts):
        if some.shape[dim]:
            for phi, rows in rows_of(reader, some, made):
                yield (block + number) % folds, phi, rows


def over_ranks(folds: list[Moments]) -> list[Moments]:
    """Sum over the rows of all ranks, when all have been added."""
    for fold in folds:
        fold.finish()
    width = len(folds[0].parts())
    flat = distributed.all_sum([part for fold in folds for part in fold.parts()])
    return [Moments(*flat[n : n + width]) for n in range(0, len(flat), width)]


def rows_of(reader: Reader, x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The inputs and outputs of a reader as rows, in chunks.

    Args:
        reader: the operation.
        x: its input.
        y: its output or target, with the outputs of the reader.

    Yields:
        (G, F, R) and (G, O, R).
    """
    groups, features, outputs = reader.entries.shape
    if reader.turned:  # weight @ x: (F, R) and (O, R)
        yield x[None], y[None]
    elif reader.kernel is None:
        yield x.reshape(-1, features).t()[None], y.reshape(-1, outputs).t()[None]
    else:
        places = y[0, 0].numel()
        step = max(1, CHUNK // max(1, groups * features * places))
        for some, made in zip(x.split(step), y.split(step), strict=True):
            phi = patches(some, reader.kernel)
            yield phi.reshape(groups, features, -1), _front(made).reshape(groups, outputs, -1)


def _front(y: Tensor) -> Tensor:
    """(N, C, *space) with the channels first."""
    return y.transpose(0, 1)


def patches(x: Tensor, kernel: Geometry) -> Tensor:
    """The input patches of a convolution at every position of its output.

    Args:
        x: (N, C, *space).
        kernel: the kernel, stride, padding and so on of the convolution.

    Returns:
        (C, *kernel, N, *places): the input for each tap of each channel.
    """
    space = len(kernel.size)
    steps, stride = kernel.dilation, kernel.stride
    if kernel.transposed:
        x, stride = _spread(x, kernel), (1,) * space
    elif any(kernel.padding):
        x = _padded(x, [(p, p) for p in kernel.padding])
    if all(k == 1 for k in kernel.size):
        x = x[(slice(None), slice(None), *(slice(None, None, s) for s in stride))]
        return x.transpose(0, 1)
    for dim, (size, step, jump) in enumerate(zip(kernel.size, steps, stride, strict=True)):
        x = x.unfold(2 + dim, (size - 1) * step + 1, jump)[..., ::step]
    places, taps = range(2, 2 + space), range(2 + space, 2 + 2 * space)
    return x.permute(1, *taps, 0, *places)


def _spread(x: Tensor, kernel: Geometry) -> Tensor:
    """The padded input of a transposed convolution: zeros between its entries and around them."""
    sizes = zip(x.shape[2:], kernel.stride, strict=True)
    wide = x.new_zeros((*x.shape[:2], *((n - 1) * s + 1 for n, s in sizes)))
    wide[(slice(None), slice(None), *(slice(None, None, s) for s in kernel.stride))] = x
    ends = []
    parts = (kernel.size, kernel.dilation, kernel.padding, kernel.output_padding)
    for size, step, padding, more in zip(*parts, strict=True):
        before = step * (size - 1) - padding
        ends.append((before, before + more))
    return _padded(wide, ends)


def _padded(x: Tensor, ends: list[tuple[int, int]]) -> Tensor:
    """Zeros before and after each spatial dimension; negative numbers crop."""
    flat = [n for pair in reversed(ends) for n in pair]
    return torch.nn.functional.pad(x, flat)
