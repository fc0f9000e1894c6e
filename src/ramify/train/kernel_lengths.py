r"""Kernels that a batch norm follows, brought back to the length that they had when fresh.

Where a batch norm takes what a kernel makes, the kernel's length means nothing to the loss, and its
gradient lies across it: every step makes it longer. The same step then turns it by less, so that
training goes on as with a rate divided by the square of the length,

.. math:: \eta_{\text{effective}} = \eta / \lVert \theta \rVert^2.

After a few epochs at a high rate kernels are two to three times as long as fresh ones. A network
that grows then has a rate four to nine times lower than one of its new shape that is trained
from fresh weights, and generalises worse. With kernels of the first length again it computes the
same and trains at the full rate.

Source: T. van Laarhoven, "L2 regularization versus batch and weight normalization", 2017;
E. Hoffer, R. Banner, I. Golan, D. Soudry, "Norm matters", 2018.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ramify.edit.rescale import rescale
from ramify.refit.readers import Norm, Reader, course_of
from ramify.store.state import NetworkInTraining
from ramify.tracing import ChannelGraph
from ramify.tracing.groups import run_of
from ramify.tracing.recorder import tensors_of

LEAST_VARIANCE = 1000.0
"""In units of a norm's ε: below it ε is no longer nothing, and the function would change."""


def kernel_lengths(graph: ChannelGraph) -> dict[str, float]:
    """The mean length of the kernels of each weight that a batch norm follows.

    Args:
        graph: of the network.

    Returns:
        The lengths by the weight's name; nothing where no batch norm follows a weight.
    """
    tensors = tensors_of(graph.model)
    return {
        reader.name: float(_lengths(tensors[reader.name], reader).mean())
        for reader, _ in _normalised(graph)
    }


def restore_lengths(
    graph: ChannelGraph, subject: NetworkInTraining, wanted: Mapping[str, float]
) -> None:
    """Bring kernels to lengths that they had, the network staying the same function.

    Args:
        graph: of the network as it is.
        subject: the network, with its optimizer and its followers, which follow.
        wanted: from `kernel_lengths`.
    """
    tensors, factors = tensors_of(subject.model), dict[str, Tensor]()
    for reader, norm in _normalised(graph):
        if reader.name not in wanted:
            continue
        weight, variance = tensors[reader.name].detach(), tensors[norm.variance].detach()
        lengths = _lengths(weight, reader)  # (G, O)
        least = (LEAST_VARIANCE * norm.eps / variance.double()).sqrt().to(lengths)
        least = least.view_as(lengths)
        ratio = torch.maximum(wanted[reader.name] / lengths, least)
        # Kernels of no length have no other, and where ε counts already, any would be another net.
        ratio = torch.where((lengths > 0) & (least <= 1), ratio, torch.ones_like(ratio))
        factors[reader.name] = _placed(weight, reader.entries, ratio[:, None, :])
        if reader.bias is not None and reader.bias_entries is not None:
            bias = tensors[reader.bias].detach()
            factors[reader.bias] = _placed(bias, reader.bias_entries, ratio)
        own = ratio.reshape(-1)
        factors[norm.mean] = own.to(tensors[norm.mean])
        factors[norm.variance] = own.square().to(variance)
    if factors:
        rescale(subject.model, factors, subject.optimizer, subject.followers)


def _normalised(graph: ChannelGraph) -> Iterator[tuple[Reader, Norm]]:
    """Every reader whose outputs a batch norm takes channel by channel, with that norm."""
    course, tensors = course_of(run_of(graph)), tensors_of(graph.model)
    for reader in course.readers:
        norm = course.behind.get(reader.position)
        groups, _, made = reader.entries.shape
        if norm is not None and not reader.turned and tensors[norm.mean].numel() == groups * made:
            yield reader, norm


def _lengths(weight: Tensor, reader: Reader) -> Tensor:
    """(G, O), the length of the kernel of each output."""
    flat = weight.detach().reshape(-1).double()
    return flat[reader.entries.to(flat.device)].square().sum(1).sqrt()


def _placed(tensor: Tensor, entries: Tensor, factors: Tensor) -> Tensor:
    """Factors of entries, where these lie in a tensor; 1 elsewhere."""
    out = torch.ones(tensor.numel(), dtype=torch.float64, device=tensor.device)
    out[entries.to(out.device)] = factors.expand(entries.shape)
    return out.view(tensor.shape).to(tensor)
