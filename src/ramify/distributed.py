"""Data parallelism: means over the samples of all ranks, and the same network on each of them.

Every process (rank) holds the whole network and its own share of the data. Inside :func:`together`,
each mean over samples that a method or the training loop takes is over the samples of all ranks, so
all ranks propose, select and apply the same edits. Outside of it, and in a single process, nothing
here has an effect.

Shape letters: `R` ranks.
"""

from __future__ import annotations

import contextlib
import hashlib
import pickle  # of values that the ranks of one program exchange
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ramify.errors import RamifyError, module_in_words
from ramify.peers import reasons_shared, wait_for
from ramify.tracing import check_whole
from ramify.tracing.recorder import tensors_of

T = TypeVar("T")
Digest = tuple[tuple[int, ...], str, str]
"""(shape, dtype, a hash of the bytes) of a tensor."""

_group: ContextVar[dist.ProcessGroup | None] = ContextVar("process_group", default=None)


@contextlib.contextmanager
def together(group: dist.ProcessGroup | None = None) -> Iterator[None]:
    """Make methods take their means over the samples of all ranks.

    Every rank must enter this context and make the same calls inside, each with its own batches.
    `method.propose` then returns the same proposals on every rank: those of a single process with
    all the batches. It has no effect if `torch.distributed` is not initialised.

    If one rank ends in an error, the waiting ranks end too, with its reason in their errors. The
    ranks cannot communicate after that.

    Args:
        group: the ranks that work together; all ranks by default.

    Yields:
        Nothing.

    Example:
        >>> import ramify, torch
        >>> from torch import nn
        >>> net, x = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)), torch.ones(4, 2)
        >>> loss = lambda model, x: model(x).square().squeeze(1)
        >>> with ramify.together():
        ...     proposals = ramify.SplittingDescent().propose(ramify.trace(net, x), loss, [x])
        >>> len(proposals)
        3
    """
    ready = dist.is_available() and dist.is_initialized()
    found = (group or dist.group.WORLD) if ready else None
    chosen = found if found is not None and dist.get_world_size(found) > 1 else None
    outermost = chosen is not None and _group.get() is None
    token = _group.set(chosen)
    try:
        with reasons_shared(chosen) if chosen and outermost else contextlib.nullcontext():
            yield
    finally:
        _group.reset(token)


def world_size() -> int:
    """The number of ranks that work together: 1 outside of :func:`together`."""
    group = _group.get()
    return 1 if group is None else dist.get_world_size(group)


def rank() -> int:
    """The rank of this process: 0 outside of :func:`together`."""
    group = _group.get()
    return 0 if group is None else dist.get_rank(group)


def is_rank_zero() -> bool:
    """Whether this process is the one that writes files and reports: rank 0, or the only one."""
    return rank() == 0


def all_sum(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The sum over ranks of each tensor.

    Args:
        tensors: the same number of tensors, with the same shapes and dtypes, on every rank.

    Returns:
        The sums, on the devices of the tensors; outside of :func:`together` the tensors themselves.
    """
    group = _group.get()
    if group is None or not tensors:
        return list(tensors)
    wide = [torch.promote_types(t.dtype, torch.float32) for t in tensors]
    out = list(tensors)
    for dtype in dict.fromkeys(wide):  # one message for each dtype
        chosen = [n for n, own in enumerate(wide) if own == dtype]
        device = _device(tensors[chosen[0]].device, group)
        flat = torch.cat([tensors[n].detach().to(device, dtype).reshape(-1) for n in chosen])
        wait_for(dist.all_reduce(flat, group=group, async_op=True))
        sizes = [tensors[n].numel() for n in chosen]
        for n, part in zip(chosen, flat.split(sizes), strict=True):
            out[n] = part.view(tensors[n].shape).to(tensors[n])
    return out


def all_mean(values: Sequence[Tensor], samples: int) -> list[Tensor]:
    r"""The mean over the samples of all ranks, :math:`\sum_r S_r m_r / \sum_r S_r`.

    Args:
        values: means over this rank's samples, of the same shapes on every rank.
        samples: the number of this rank's samples.

    Returns:
        The means; outside of :func:`together` the values themselves.
    """
    if _group.get() is None:
        return list(values)
    [everywhere] = all_sum([torch.tensor(float(samples), dtype=torch.float64)])
    share = samples / float(everywhere)
    wide = [value.detach().to(torch.promote_types(value.dtype, torch.float32)) for value in values]
    found = all_sum([value * share for value in wide])
    return [mean.to(value) for mean, value in zip(found, values, strict=True)]


def all_true(flag: bool) -> bool:
    """Whether a flag is true on every rank, so that loops that communicate end together.

    Two ranks may compute values from the same numbers that differ in the last bit.

    Args:
        flag: this rank's flag.

    Returns:
        True if all flags are True; outside of :func:`together` the flag itself.
    """
    [false] = all_sum([torch.tensor(float(not flag))])
    return not bool(false)


def broadcast(value: Any) -> Any:
    """Rank 0's value, on every rank; outside of :func:`together` the value itself.

    Args:
        value: any object that can be pickled.

    Returns:
        The value of rank 0.
    """
    group = _group.get()
    if group is None:
        return value
    device = _device(torch.device("cpu"), group)
    held = _pickled(value if rank() == 0 else None, device)
    size = torch.tensor([len(held)], device=device)
    _send(size, group)
    sent = held if rank() == 0 else held.new_empty(int(size))
    _send(sent, group)
    return value if rank() == 0 else _unpickled(sent)


def from_rank_zero(make: Callable[[], T]) -> T:
    """Call a function on rank 0, and return its result on every rank.

    All ranks wait until rank 0 is done, so that they can read files that it wrote.

    Args:
        make: the function, called only on rank 0.

    Returns:
        Its result; outside of :func:`together`, the result in this process.
    """
    found: T = broadcast(make() if is_rank_zero() else None)
    return found


def all_gather(value: Any) -> list[Any]:
    """The values of all R ranks in rank order; outside of :func:`together` only this one."""
    group = _group.get()
    if group is None:
        return [value]
    device = _device(torch.device("cpu"), group)
    own = _pickled(value, device)
    sizes = [int(size) for size in _gather(torch.tensor([len(own)], device=device), group)]
    padded = torch.cat([own, own.new_zeros(max(sizes) - len(own))])
    found = _gather(padded, group)
    return [_unpickled(one[:size]) for one, size in zip(found, sizes, strict=True)]


def _send(tensor: Tensor, group: dist.ProcessGroup) -> None:
    """Broadcast a tensor from rank 0, in place."""
    first = dist.get_global_rank(group, 0)
    wait_for(dist.broadcast(tensor, src=first, group=group, async_op=True))


def _gather(tensor: Tensor, group: dist.ProcessGroup) -> list[Tensor]:
    """The tensors of all ranks, which have the same shape."""
    found = [torch.empty_like(tensor) for _ in range(dist.get_world_size(group))]
    wait_for(dist.all_gather(found, tensor, group=group, async_op=True))
    return found


def _pickled(value: Any, device: torch.device) -> Tensor:
    return torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8).to(device)


def _unpickled(sent: Tensor) -> Any:
    """Unpickle a value from another rank of this program; no outside data comes here."""
    return pickle.loads(sent.cpu().numpy().tobytes())


def check_same(what: str, value: Any, advice: str) -> None:
    """Raise an error on every rank if the ranks have different values.

    Args:
        what: the value's name, for the error.
        value: this rank's value.
        advice: what to do, the end of the message.

    Raises:
        RamifyError: the values differ; the message names the first rank that differs from rank 0.
    """
    found = all_gather(value)
    for number, other in enumerate(found):
        if other != found[0]:
            raise RamifyError(
                f"{what}: {found[0]} on rank 0 and {other} on rank {number}; {advice}"
            )


def average_gradients(tensors: Iterable[Tensor], samples: int) -> None:
    """Replace every gradient by that of the mean loss over the samples of all ranks.

    Args:
        tensors: the parameters, after `backward` of the mean loss over this rank's samples.
        samples: the number of this rank's samples.
    """
    if _group.get() is None:
        return
    parameters = [p for p in tensors if p.requires_grad]
    gradients = mean_gradients([p.grad for p in parameters], parameters, samples)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient


def mean_gradients(
    gradients: Sequence[Tensor | None], parameters: Sequence[Tensor], samples: int
) -> list[Tensor | None]:
    """The gradients of the mean loss over the samples of all ranks.

    Args:
        gradients: the gradients of the mean over this rank's samples, in the order of the
            parameters; None if this rank's loss does not depend on the parameter.
        parameters: the parameters.
        samples: the number of this rank's samples.

    Returns:
        One gradient per parameter, None if no rank has one; outside of :func:`together` the
        gradients themselves.
    """
    if _group.get() is None:
        return list(gradients)
    reached = torch.tensor([g is not None for g in gradients], dtype=torch.float32)
    [anywhere] = all_sum([reached])
    both = zip(gradients, parameters, strict=True)
    means = all_mean([torch.zeros_like(p) if g is None else g.to_dense() for g, p in both], samples)
    return [m if held else None for m, held in zip(means, anywhere.tolist(), strict=True)]


def share_buffers(model: nn.Module) -> None:
    """Set every buffer to the value of rank 0, as DistributedDataParallel does before each step.

    After the last step the running statistics differ between ranks: call this on every rank before
    proposing. It has no effect if `torch.distributed` is not initialised.

    Args:
        model: this rank's network, not wrapped.

    Example:
        >>> from torch import nn
        >>> share_buffers(nn.BatchNorm2d(3))
    """
    broadcast_tensors(model.buffers())


def broadcast_tensors(tensors: Iterable[Tensor]) -> None:
    """Set every tensor to the value of rank 0, in place; see :func:`share_buffers`.

    Args:
        tensors: the same number of tensors, with the same shapes and dtypes, on every rank.
    """
    with together(_group.get()):
        group = _group.get()
        if group is None:
            return
        for tensor in tensors:
            sent = tensor.detach().to(_device(tensor.device, group)).contiguous()
            _send(sent, group)
            if not torch.equal(sent.to(tensor.device), tensor):
                tensor.data.copy_(sent)


def check_ranks(model: nn.Module, group: dist.ProcessGroup | None = None) -> None:
    """Check that every rank holds the same network, bit for bit.

    Every rank must call it. It has no effect if `torch.distributed` is not initialised.

    Args:
        model: this rank's network, not wrapped.
        group: the ranks to compare; all ranks by default.

    Raises:
        RamifyError: the networks differ; the same message on every rank names the first parameter,
            buffer or module that differs, how it differs, and on which rank. Or the model is
            sharded over the ranks, as by `fully_shard`.

    Example:
        >>> from torch import nn
        >>> check_ranks(nn.Linear(4, 3))
    """
    check_whole(model)
    with together(group):
        if world_size() == 1:
            return
        found = all_gather({name: _digest(t) for name, t in tensors_of(model).items()})
        kinds = all_gather({name: type(m).__name__ for name, m in model.named_modules()})
    for number, other in enumerate(found):
        names = [name for name in found[0] | other if found[0].get(name) != other.get(name)]
        if names:
            here, there = found[0].get(names[0]), other.get(names[0])
            seen = f"{_words(here)} on rank 0 and {_words(there)} on rank {number}"
            if here and there and here[:2] == there[:2]:
                seen = f"{_words(here)} on both, with other values on rank {number} than on rank 0"
            raise RamifyError(
                f"the ranks do not hold the same network: '{names[0]}' has {seen}; seed every rank "
                f"alike, load the same file, {_advice(names[0], model)}and propose "
                "inside ramify.together()"
            )
    for number, modules in enumerate(kinds):
        for name in kinds[0] | modules:
            here, there = (known.get(name, "missing") for known in (kinds[0], modules))
            if here != there:
                raise RamifyError(
                    f"the ranks do not hold the same network: {module_in_words(name)} is {here} on "
                    f"rank 0 and {there} on rank {number}; build it alike on every rank"
                )


def _digest(tensor: Tensor) -> Digest:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    content = flat.view(torch.uint8).numpy().data if flat.numel() else b""
    return tuple(tensor.shape), str(tensor.dtype), hashlib.sha256(content).hexdigest()


def _advice(name: str, model: nn.Module) -> str:
    buffers = {name for name, _ in model.named_buffers()}
    return "share buffers by ramify.share_buffers, " if name in buffers else ""


def _words(digest: Digest | None) -> str:
    return "nothing" if digest is None else f"shape {digest[0]} of {digest[1]}"


def _device(own: torch.device, group: dist.ProcessGroup) -> torch.device:
    """The device for messages of this group: the tensor's own, if the backend supports it."""
    reached = [part.split(":")[0] for part in str(dist.get_backend_config(group)).split(",")]
    if own.type in reached:
        return own
    return torch.device("cpu" if "cpu" in reached else reached[0])
