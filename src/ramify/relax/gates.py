"""Gates: a learnable scalar per channel, where it is read or made, or per block.

Shape letters: `W` channels of a group.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ramify.arguments import each_of
from ramify.edit.plan import check_current
from ramify.errors import RamifyError, did_you_mean
from ramify.relax.block_gates import block_factors, gated_blocks, of_channels
from ramify.relax.gated import (
    Factor,
    GatedWeight,
    gate_factors,
    gated_weights,
    multiplied,
    put_under,
    take_out,
)
from ramify.relax.producer_gates import made_factors, why_not_made
from ramify.tracing import GATES, ChannelGraph, ChannelGroup
from ramify.tracing.blocks import Block
from ramify.tracing.groups import run_of
from ramify.tracing.recorder import tensors_of
from ramify.tracing.verify.comparison import near_equal

Names = str | tuple[str, ...]
PLACES = ("consumers", "producers")
_MOST_REASONS = 2
"""How many groups a message gives reasons for."""


@dataclass(frozen=True, eq=False)
class Site:
    """Where one gate parameter is applied.

    Attributes:
        names: the groups that share it, or the block.
        width: the number of gates.
        factors: for each name, what the gates multiply, by tensor name.
    """

    names: tuple[str, ...]
    width: int
    factors: tuple[Mapping[str, Sequence[Factor]], ...]


class Gates(nn.Module):
    """The gates of a model: one parameter per group, per set of groups that share it, or per block.

    Iterating gives every parameter once; `gates[name]` and `items()` use the names of groups and
    blocks. In a state dictionary they have the name of their (first) group, with `/` for each `.`.

    Attributes:
        groups: for each parameter in order, the groups that it gates, or the block.

    Example:
        >>> import ramify
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> graph = ramify.trace(net, torch.randn(1, 4))
        >>> gates = ramify.gate(graph)
        >>> gates
        Gates(0: 3)
        >>> [(name, tuple(alpha.shape)) for name, alpha in gates.items()]
        [('0', (3,))]
    """

    def __init__(
        self, model: nn.Module, groups: Sequence[tuple[str, ...]], alphas: Sequence[Tensor]
    ) -> None:
        super().__init__()
        self._model = (model,)  # a tuple, so that the model is not a submodule of its own submodule
        self._keys: dict[str, str] = {}
        self.groups = tuple(groups)
        for names, alpha in zip(groups, alphas, strict=True):
            key = names[0].replace(".", "/")
            key = f"{key}/" if hasattr(self, key) else key
            self.register_parameter(key, nn.Parameter(alpha))
            self._keys.update(dict.fromkeys(names, key))

    @property
    def model(self) -> nn.Module:
        """The gated model."""
        return self._model[0]

    def forward(self, x: Tensor) -> Tensor:
        """The identity, for a model that calls all of its submodules, as `nn.Sequential` does."""
        return x

    def __getitem__(self, name: str) -> nn.Parameter:
        """The gates of a group: (W,)."""
        if name not in self._keys:
            near = did_you_mean(name, self._keys)
            raise RamifyError(f"there are no gates on '{name}'{near}: `gates.items()` lists them")
        return self._parameters[self._keys[name]]  # type: ignore[return-value]

    def key(self, name: str) -> str:
        """The name of a group's parameter in this module."""
        return self._keys[name]

    def __iter__(self) -> Iterator[nn.Parameter]:
        """Every parameter once."""
        return self.parameters()

    def __len__(self) -> int:
        """The number of parameters."""
        return len(self.groups)

    def items(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(group, its gates) for every group, in forward order; shared gates once per group."""
        return ((name, self[name]) for names in self.groups for name in names)

    def check(self, threshold: float = 1e-8) -> None:
        """Raise an error if a search has collapsed.

        Args:
            threshold: gates up to this count as zero.

        Raises:
            RamifyError: the gates of a group are not all finite, or are all zero; it names the
                group.
        """
        for name, alpha in self.items():
            if not bool(torch.isfinite(alpha).all()):
                raise RamifyError(
                    f"the gates of '{name}' are not all finite: go back to the last checkpoint, "
                    "with a smaller learning rate for the gates"
                )
            if not bool((alpha.detach().abs() > threshold).any()):
                raise RamifyError(
                    f"all {alpha.numel()} gates of '{name}' are zero, which would leave the layer "
                    "without a channel: go back to the last checkpoint, with a weaker penalty"
                )

    def extra_repr(self) -> str:
        """Every group and its width."""
        each = (f"{' = '.join(names)}: {self[names[0]].numel()}" for names in self.groups)
        return "\n".join(each)


def gate(
    graph: ChannelGraph,
    groups: Iterable[Names] | None = None,
    *,
    blocks: bool | Iterable[str | Block] = False,
    at: Literal["consumers", "producers"] = "consumers",
) -> Gates:
    r"""Put a learnable scalar on every channel, by default where its consumers read it.

    .. math:: \tilde x_c = \alpha_c\, x_c

    for each consumer's own read of channel c. The gate multiplies the consumer's columns (a
    parametrization), so that no norm layer cancels it, folding it in is exact, and the cost is that
    of a product with the weight. At :math:`\alpha = 1`, where the gates start, the model's output
    is bit-identical to before (under `torch.no_grad`, where torch may sum in another order for
    tensors that are not parameters, equal up to rounding). Where two activations are multiplied and
    summed over the channels (q·kᵀ), both are read, and the rows that make one of them are
    multiplied by :math:`\alpha_c^2`.

    With `at="producers"` the gate is where the channel is made, before the activation: it
    multiplies the rows and biases of every layer that makes channel c, and is folded into these.
    Before a ReLU this is equivalent while the gate is positive; before other activations it is not.

    The gate of a residual block multiplies the last weights of its branches: where it is 0 the
    block passes on its stream, and dropping it changes nothing.

    The gates are registered as `ramify_gates`, so that they are saved, moved and copied with the
    model. Parameters stay the same objects. Weights in half precision get float32 gates.

    Args:
        graph: the graph of the model, from `ramify.trace`.
        groups: the groups to gate, by any names that `graph[...]` takes; the groups of a tuple
            share one gate per channel (A on queries, keys and values alike). By default, every
            group that can be pruned exactly and whose every read can be scaled; none for an empty
            list.
        blocks: the residual blocks to gate, by names or as in `graph.blocks`; True for all that can
            be dropped and whose branches end in their own weights.
        at: where the gates of channels are applied: at ``consumers`` or at ``producers``. The
            second is for groups without per-channel values (such as norms) between their layers,
            where the operations in between map zeros to zeros.

    Returns:
        The gates, all ones: the architecture parameters of a search.

    Raises:
        RamifyError: a group or block that cannot be gated, with the reason; the model is unchanged.

    Example:
        >>> import ramify, torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> graph = ramify.trace(net, torch.randn(3, 4))
        >>> gates = ramify.gate(graph)
        >>> gates["0"].shape, [name for name, _ in net.named_parameters()][-1]
        (torch.Size([8]), 'ramify_gates.0')
        >>> scores = ramify.fold(net)
        >>> [name for name, _ in net.named_parameters()]
        ['0.weight', '0.bias', '2.weight', '2.bias']

    Source: RARTS thesis, (4.1) and section 4.3.2.
    """
    check_current(graph)
    if isinstance(graph.model, torch.jit.ScriptModule):
        raise RamifyError(
            "the model is a script of torch.jit, whose weights no gate can multiply: gate the "
            "model that was scripted, and script it after ramify.fold"
        )
    if hasattr(graph.model, GATES):
        raise RamifyError(
            f"the model has an attribute '{GATES}', a name that is reserved for gates: rename it"
        )
    if not isinstance(at, str) or at not in PLACES:
        raise RamifyError(f"at is {at!r}: give one of {', '.join(PLACES)}")
    chosen = _sites(graph, groups, gated_blocks(graph, blocks), at)
    gates, _ = _gated(graph, chosen)
    if gates is None:
        free = groups is None and blocks in (True, False)
        chosen = [site for site in chosen if _takes_effect(graph, site, by_default=free)]
        gates, seen = _gated(graph, _not_empty(graph, chosen, at))
        if gates is None:
            raise RamifyError(f"these groups cannot be gated together: {seen}")
    return gates


def fold(gated: Gates | nn.Module | ChannelGraph) -> dict[str, Tensor]:
    """Multiply the gates into the weights that they gate, and remove them.

    The output of the model is unchanged, bit-identical under the same conditions as for `gate`.
    Names, order and `Parameter` objects are those from before the gates, so that an optimizer over
    them and the graph that was gated stay valid.

    Args:
        gated: the gates, their model, or its graph.

    Returns:
        Group name -> its gates (W,), the scores of its channels; block name -> its gate (1,).

    Raises:
        RamifyError: there are no gates, or a gate is not finite; the model is unchanged.

    Example:
        >>> import ramify
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> graph = ramify.trace(net, torch.randn(1, 4))
        >>> _ = ramify.gate(graph)["0"].data.copy_(torch.tensor([0.5, 1.0, 0.0]))
        >>> ramify.fold(net)
        {'0': tensor([0.5000, 1.0000, 0.0000])}

    Source: RARTS thesis, (4.1): a gate is a factor of the weights.
    """
    gates = _gates_of(gated)
    scores = {name: alpha.detach().clone() for name, alpha in gates.items()}
    for name, alpha in scores.items():
        if not bool(torch.isfinite(alpha).all()):
            raise RamifyError(
                f"the gates of '{name}' are not all finite, and would spoil the weights: go back "
                "to the last checkpoint"
            )
    every = list(gated_weights(gates.model, gates))
    for module, name, held in every:
        if len(held) > 1:
            raise RamifyError(
                f"'{name}' of a {type(module).__bases__[0].__name__} was parametrized again after "
                "it was gated: remove what came later first"
            )
    # A shared weight has several identical parametrizations.
    once = {id(held.original): held for _, _, held in every}
    with torch.no_grad(), torch.autocast(next(iter(gates)).device.type, enabled=False):
        for held in once.values():
            held.original.copy_(held())
    _remove(gates)
    torch.clear_autocast_cache()
    return scores


def remaining(scores: Mapping[str, Tensor], graph: ChannelGraph) -> dict[str, float]:
    """The remaining fraction of every gated group's channels after a cut.

    Args:
        scores: the result of `fold`; gates of blocks are ignored.
        graph: the graph of the model after the cut.

    Returns:
        Group name -> current width over width when gated.

    Example:
        >>> import ramify
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> graph = ramify.trace(net, torch.randn(1, 4))
        >>> remaining({"0": torch.ones(4)}, graph)  # 3 of 4 channels are left
        {'0': 0.75}
    """
    own = of_channels(scores, graph)
    return {name: graph[name].width / len(alpha) for name, alpha in own.items()}


def _sites(
    graph: ChannelGraph, groups: Iterable[Names] | None, blocks: Sequence[Block], at: str
) -> list[Site]:
    """Where gates are applied: on groups, and on blocks."""
    sites = []
    for tied in _chosen(graph, groups, at):
        names = tuple(group.name for group in tied)
        sites.append(Site(names, tied[0].width, tuple(_factors(graph, g, at) for g in tied)))
    for block in blocks:
        if any(block.name in site.names for site in sites):
            raise RamifyError(f"'{block.name}' is a group and a block: gate one of them")
        sites.append(Site((block.name,), 1, (block_factors(graph, block),)))
    return _not_empty(graph, sites, at)


def _factors(graph: ChannelGraph, group: ChannelGroup, at: str) -> dict[str, list[Factor]]:
    """What the gates of a group multiply."""
    return (gate_factors if at == "consumers" else made_factors)(graph, group)


def _chosen(
    graph: ChannelGraph, asked: Iterable[Names] | None, at: str
) -> list[tuple[ChannelGroup, ...]]:
    """The groups to gate; those of one tuple share a gate."""
    chosen: list[tuple[ChannelGroup, ...]] = []
    if asked is None:
        return [(g,) for g in graph.groups if g.prune_exact and not _why_not(graph, g, at)]
    # Check the request: each group once, each can be gated, groups of a tuple equally wide.
    seen = set[str]()
    for names in each_of(asked, "groups", "names of groups"):
        tied = tuple(graph[name] for name in (names if isinstance(names, tuple) else (names,)))
        for group in tied:
            why = _why_not(graph, group, at)
            if why:
                raise RamifyError(f"'{group.name}' cannot be gated: {why}")
            if group.name in seen:
                raise RamifyError(f"'{group.name}' is listed twice: give each group once")
            seen.add(group.name)
        if len({group.width for group in tied}) > 1:
            widths = ", ".join(f"'{group.name}' {group.width}" for group in tied)
            raise RamifyError(f"groups that share their gates are equally wide, not {widths}")
        chosen += [tied] if tied else []
    return chosen


def _not_empty(graph: ChannelGraph, chosen: list[Site], at: str) -> list[Site]:
    if not chosen:
        every = ((g.name, _why_not(graph, g, at)) for g in graph.groups if g.can_prune)
        reasons = [f"; '{name}' cannot be gated: {why}" for name, why in every if why]
        raise RamifyError(
            "there is no group to gate: print(graph) says what each group allows, and why"
            + "".join(reasons[:_MOST_REASONS])
        )
    return chosen


def _why_not(graph: ChannelGraph, group: ChannelGroup, at: str) -> str:
    """Why a group cannot be gated; empty if it can."""
    if not (group.can_split and group.can_prune):
        return group.reason
    # Every module that reads (makes) the channels must allow a parametrization of its weight.
    factors, tensors = _factors(graph, group, at), tensors_of(graph.model)
    does = "reads" if at == "consumers" else "makes"
    for alias, name in graph.flow.aliases.items():
        if name not in factors:
            continue
        owner = graph.model.get_submodule(alias.rpartition(".")[0])
        if isinstance(owner, parametrize.ParametrizationList):
            return f"'{alias}' {does} it under a parametrization; remove that first"
        if isinstance(owner, torch.jit.ScriptModule):
            return f"'{alias}' {does} it in a script of torch.jit, whose weights take no gates"
        if isinstance(owner, nn.RNNBase):
            kind = type(owner).__name__
            return f"'{alias}' {does} it, and {kind} does not read a parametrized weight"
        if not tensors[name].is_floating_point():
            return f"'{alias}' {does} it in {tensors[name].dtype}"
    return "" if at == "consumers" else why_not_made(graph, group)


def _ones(graph: ChannelGraph, site: Site) -> Tensor:
    """Gates of ones, with the type and device of what they multiply."""
    tensors = tensors_of(graph.model)
    read = [tensors[name] for factors in site.factors for name in factors]
    dtype = functools.reduce(torch.promote_types, [tensor.dtype for tensor in read])
    # Steps of a search are smaller than the resolution of half precision near 1.
    dtype = torch.promote_types(dtype, torch.float32)
    return torch.ones(site.width, dtype=dtype, device=read[0].device)


def _gated(graph: ChannelGraph, chosen: Sequence[Site]) -> tuple[Gates | None, str]:
    """Attach gates, and run the model to check that they scale its weights as intended.

    Returns:
        (the gates, or None if the check fails, what was seen); the model is then unchanged.
    """
    model = graph.model
    # The factors of each weight: those of all gates on the channels that it reads.
    names = [site.names for site in chosen]
    gates = Gates(model, names, [_ones(graph, site) for site in chosen])
    factors: dict[str, list[tuple[str, Factor]]] = {}
    for site in chosen:
        for own in site.factors:
            for name, each in own.items():
                factors.setdefault(name, []).extend((gates.key(site.names[0]), f) for f in each)
    under = [
        (alias, GatedWeight(gates, factors[name], *_place(model, alias)))
        for alias, name in graph.flow.aliases.items()
        if name in factors
    ]
    # A check: with gates other than 1, the gated model must agree with the model whose weights are
    # multiplied by them.
    with torch.no_grad():
        for alpha in gates:  # arbitrary values, different for each channel
            alpha.copy_(torch.linspace(0.5, 1.5, alpha.numel() + 1)[1:])
    with multiplied(model, dict(under)):
        expected = run_of(graph)
    try:
        for alias, gated in under:
            path, _, name = alias.rpartition(".")
            put_under(model.get_submodule(path), name, gated)
        model.register_module(GATES, gates.train(model.training))
        try:
            seen = "" if near_equal(expected, run_of(graph)) else "a gate there changes nothing"
        except Exception as error:
            seen = f"{type(error).__name__}: {error}"
    except BaseException:
        _remove(gates)
        raise
    if seen:
        _remove(gates)
        return None, seen
    with torch.no_grad():
        for alpha in gates:
            alpha.fill_(1.0)
    return gates, ""


def _takes_effect(graph: ChannelGraph, site: Site, *, by_default: bool) -> bool:
    """Whether the forward reads the weights where their gates are."""
    alone, seen = _gated(graph, [site])
    if alone is not None:
        _remove(alone)
    elif not by_default:
        raise RamifyError(
            f"the forward reads the weights of '{site.names[0]}' past any gate ({seen}): leave it "
            "out, or read them as attributes of their modules"
        )
    return alone is not None


def _place(model: nn.Module, name: str) -> tuple[tuple[str, ...], bool]:
    """(names of its module's tensors, in order, whether state dicts include this tensor)."""
    path, _, own = name.rpartition(".")
    module = model.get_submodule(path)
    order = (*module._parameters, *module._buffers)
    return order, own not in module._non_persistent_buffers_set


def _remove(gates: Gates) -> None:
    """Remove the gates from their model; the weights are those without them."""
    for module, name, _ in list(gated_weights(gates.model, gates)):
        take_out(module, name)
    gates.model._modules.pop(GATES, None)


def _gates_of(gated: Gates | nn.Module | ChannelGraph) -> Gates:
    model = gated.model if isinstance(gated, ChannelGraph) else gated
    if not isinstance(model, nn.Module):
        raise RamifyError(
            f"fold takes gates, a model or its graph, and not a {type(model).__name__}"
        )
    found = [module for module in model.modules() if isinstance(module, Gates)]
    if len(found) != 1:
        raise RamifyError(
            f"fold takes gates, or a model that was gated once, and this {type(model).__name__} "
            f"holds {len(found) or 'no'} gates: ramify.gate puts them there"
        )
    gates = found[0]
    if gates.model._modules.get(GATES) is not gates:
        raise RamifyError("these gates were folded already: the model has none now")
    return gates
