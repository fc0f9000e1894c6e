"""Networks by name: the built-in ones, and the user's own as ``package.module:build``."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from ramify.arguments import check_kind
from ramify.errors import RamifyError
from ramify.imports import made, object_at
from ramify.models import digits_net, mlp, mobilenet, mobilenet_v2, preresnet, resnet, swin, vgg

Builder = Callable[..., nn.Module]

_BUILDERS: dict[str, Builder] = {
    "digits_net": digits_net.build,
    "mlp": mlp.build,
    "vgg19": vgg.build,
    "mobilenet_v1": mobilenet.build,
    "mobilenet_v2": mobilenet_v2.build,
    "preresnet": preresnet.build,
    "preresnet20": partial(preresnet.build, depth=20),
    "preresnet56": partial(preresnet.build, depth=56),
    "preresnet164": partial(preresnet.build, depth=164),
    "resnet20": resnet.build,
    "resnet_staged": resnet.build_staged,
    "swin": swin.build,
}

NAMES = tuple(_BUILDERS)


def build(name: str, *, dataset_shape: tuple[int, ...], classes: int, **settings: Any) -> nn.Module:
    """Build a network for a data set.

    Args:
        name: a built-in network, or ``package.module:function`` for the user's own, imported by
            Python's rules and also from the current directory. The function gets those of the
            keyword arguments ``in_channels``, ``in_features`` and ``classes`` that its signature
            names.
        dataset_shape: shape of one sample, (C, H, W) for images; ``in_channels`` is its first
            entry, ``in_features`` the product of all.
        classes: number of outputs, K: classes, targets of a regression, or tokens of a vocabulary.
        **settings: further keyword arguments for the function, such as ``width`` or ``depth``.

    Returns:
        The network, with newly initialised weights.

    Raises:
        RamifyError: if the name is unknown, the function does not accept these arguments, or it
            does not return a module.

    Example:
        >>> net = build("vgg19", dataset_shape=(3, 32, 32), classes=10, width=16)
        >>> sum(parameter.numel() for parameter in net.parameters())
        35674
    """
    check_kind(name, "name", str, optional=False)
    check_kind(dataset_shape, "dataset_shape", tuple, list, optional=False)
    builder = _find(name)
    width = settings.get("width")
    if isinstance(width, int) and width < 1:
        raise RamifyError(f"the width is {width} channels: give 1 or more.")
    model = made(
        builder,
        name,
        "model",
        settings,
        in_channels=dataset_shape[0],
        in_features=math.prod(dataset_shape),
        classes=classes,
    )
    if not isinstance(model, nn.Module):
        raise RamifyError(
            f"{name} returned a {type(model).__name__}, where a torch.nn.Module is expected: return"
            " the network from it."
        )
    return model


def _find(name: str) -> Builder:
    if name in _BUILDERS:
        return _BUILDERS[name]
    known = f"one of {', '.join(NAMES)}, or package.module:function for one of your own"
    builder = object_at(name, "model", known, NAMES)
    if isinstance(builder, nn.Module):
        raise RamifyError(
            f"{name} is a network, where a function that builds one is expected, since every seed "
            "starts from scratch: give the class, or a function that returns the network."
        )
    if not callable(builder):
        raise RamifyError(
            f"{name} is a {type(builder).__name__}, where a function that returns a network is "
            "expected: correct the name after the colon."
        )
    return builder
