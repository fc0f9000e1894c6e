r"""Rescale kernels before a batch norm to the norm ("length") that they had at initialisation.

If a batch norm follows a kernel, the loss does not depend on the kernel's norm, and the gradient is
orthogonal to the kernel: every step increases its norm. A step of the same size then changes its
direction less, so that training proceeds as if the learning rate were divided by the squared norm,

.. math:: \eta_{\text{effective}} = \eta / \lVert \theta \rVert^2.

After a few epochs at a high rate, norms are two to three times those of new kernels. A network that
is then grown trains at a rate four to nine times lower than a network of its new shape trained
from scratch, and generalises worse. Rescaling the kernels to their initial norm keeps the function
of the network and restores the full rate.

Source: T. van Laarhoven, "L2 regularization versus batch and weight normalization", 2017;
E. Hoffer, R. Banner, I. Golan, D. Soudry, "Norm matters", 2018.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ramify.edit.rescale import rescale
from ramify.refit.readers import Norm, Reader, course_of
from ramify.store.state import NetworkInTraining
from ramify.tracing import ChannelGraph
from ramify.tracing.groups import run_of
from ramify.tracing.recorder import tensors_of
from ramify.train.norm_statistics import norms_in_training

LEAST_VARIANCE = 1000.0
"""In units of a norm's ε: below it ε is not negligible, and rescaling would change the function."""


def kernel_lengths(graph: ChannelGraph) -> dict[str, float]:
    """The mean norm of the kernels in each weight before a batch norm.

    Args:
        graph: the graph of the network.

    Returns:
        The norms by the weight's name; weights that no batch norm follows are left out, and so are
        those before a frozen one, on whose norm the loss depends.
    """
    tensors, trained = tensors_of(graph.model), norms_in_training(graph.model)
    norms = [one for one in graph.model.modules() if isinstance(one, _BatchNorm)]
    frozen = {id(one.running_mean) for one in norms if one not in trained}
    return {
        reader.name: float(_lengths(tensors[reader.name], reader).mean())
        for reader, norm in _normalised(graph)
        if id(tensors[norm.mean]) not in frozen
    }


def restore_lengths(
    graph: ChannelGraph, subject: NetworkInTraining, wanted: Mapping[str, float]
) -> None:
    """Rescale kernels to earlier norms without changing the function of the network.

    Args:
        graph: the graph of the present network.
        subject: the network, with its optimizer and its followers, which are rescaled along.
        wanted: the norms, from `kernel_lengths`.
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
        # A zero kernel cannot be rescaled; if ε matters already, rescaling changes the function.
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
    """Every reader whose outputs a batch norm normalises channel by channel, with that norm."""
    course, tensors = course_of(run_of(graph)), tensors_of(graph.model)
    for reader in course.readers:
        norm = course.behind.get(reader.position)
        groups, _, made = reader.entries.shape
        if norm is not None and not reader.turned and tensors[norm.mean].numel() == groups * made:
            yield reader, norm


def _lengths(weight: Tensor, reader: Reader) -> Tensor:
    """(G, O), the norm of the kernel of each output."""
    flat = weight.detach().reshape(-1).double()
    return flat[reader.entries.to(flat.device)].square().sum(1).sqrt()


def _placed(tensor: Tensor, entries: Tensor, factors: Tensor) -> Tensor:
    """The factors at the positions of these entries in a tensor; 1 elsewhere."""
    out = torch.ones(tensor.numel(), dtype=torch.float64, device=tensor.device)
    out[entries.to(out.device)] = factors.expand(entries.shape)
    return out.view(tensor.shape).to(tensor)
