"""Bypasses blocks: computes the outputs of a model without them, without removing them."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from ramify.tracing.blocks import Block


@contextlib.contextmanager
def bypassed(model: nn.Module, blocks: Iterable[Block]) -> Iterator[None]:
    """Let blocks run, but return their input stream instead of their output.

    Args:
        model: the traced model.
        blocks: some of its blocks.

    Yields:
        Nothing.
    """
    with at_ends(model, blocks, lambda block, stream, output: _with_stream(output, stream)):
        yield


@contextlib.contextmanager
def at_ends(
    model: nn.Module, blocks: Iterable[Block], then: Callable[[Block, Tensor, Any], Any]
) -> Iterator[None]:
    """Call a function at the end of every run of some blocks.

    Args:
        model: the traced model.
        blocks: some of its blocks.
        then: called with the block, its input stream and its output; it may return a replacement
            of the output, or None to keep it.

    Yields:
        Nothing.
    """
    streams: dict[Block, Tensor] = {}

    def hold(block: Block) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            streams[block] = _stream_of(block, args, named).clone()

        return hook

    def end(block: Block) -> Any:
        return lambda _, args, output: then(block, streams.pop(block), output)

    with contextlib.ExitStack() as handles:
        for block in blocks:
            first, last = (model.get_submodule(block.members[n]) for n in (0, -1))
            pre_hook = first.register_forward_pre_hook(hold(block), with_kwargs=True)
            handles.enter_context(pre_hook)
            handles.enter_context(last.register_forward_hook(end(block)))
        yield


def stream_made(output: Any) -> Tensor:
    """The stream in the output of a block: a mapping's first tensor, else the first element."""
    if isinstance(output, Mapping):
        return next(value for value in output.values() if isinstance(value, Tensor))
    made: Tensor = output if isinstance(output, Tensor) else output[0]
    return made


def _with_stream(output: Any, stream: Tensor) -> Any:
    """The output of a module, with its stream replaced by another tensor."""
    if isinstance(output, Tensor):
        return stream
    if isinstance(output, Mapping):
        changed: Any = copy.copy(output)
        changed[next(key for key, value in output.items() if isinstance(value, Tensor))] = stream
        return changed
    if hasattr(output, "_replace"):
        return output._replace(**{output._fields[0]: stream})
    return type(output)((stream, *output[1:]))


def _stream_of(block: Block, args: tuple[Any, ...], named: Mapping[str, Any]) -> Tensor:
    """The stream among the arguments of a block."""
    stream: Tensor = (
        args[block.stream] if isinstance(block.stream, int) else named[str(block.stream)]
    )
    return stream
