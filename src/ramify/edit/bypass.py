"""Blocks passed over: what a model computes without them, while they still stand."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from ramify.tracing.blocks import Block


@contextlib.contextmanager
def bypassed(model: nn.Module, blocks: Iterable[Block]) -> Iterator[None]:
    """Blocks run, and return their own stream in place of what they make of it.

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
    """Something is done at the end of every run of some blocks.

    Args:
        model: the traced model.
        blocks: some of its blocks.
        then: called with a block, the stream that it was given, and what it returned; it may return
            something else, or None to leave that.

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
    """The stream among what a block returned: of a mapping the first tensor, else what is first."""
    if isinstance(output, Mapping):
        return next(value for value in output.values() if isinstance(value, Tensor))
    made: Tensor = output if isinstance(output, Tensor) else output[0]
    return made


def _with_stream(output: Any, stream: Tensor) -> Any:
    """What a module returned, with another tensor in the first place."""
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
    """The stream among what a block is given."""
    stream: Tensor = (
        args[block.stream] if isinstance(block.stream, int) else named[str(block.stream)]
    )
    return stream
