"""`ramify.testing.check_method`: the checks that every method of this library passes."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ramify.cost import CostModel
from ramify.edit import Edit, Prune, Split
from ramify.edit.apply import apply
from ramify.errors import RamifyError
from ramify.methods import Method, Proposal, Trial
from ramify.probe.targets import targets
from ramify.select import TopFraction
from ramify.testing.networks import NETWORKS, Batch
from ramify.tracing import ChannelGraph, ChannelGroup, trace
from ramify.tracing.recorder import modes_kept, tensors_of

ROUNDING = 1e-9
"""The tolerance of preserved float64 outputs, relative to the largest output."""


def check_method(
    method: Method, *, random: bool = False, stepwise: bool = False, tolerance: float = 1e-3
) -> None:
    r"""Check that a method satisfies the contract of :class:`ramify.Method` on four small networks.

    A convolution with a norm, a residual stream, a depthwise block and an attention block are
    traced. The check tests on each of them:

    * the proposals are edits that the graph allows, best first, with finite gains and scores, and
      the cost of the edit alone;
    * a second call gives the same proposals, even if the model is in train mode; the same samples
      in other batches do too, and permuting the channels permutes the proposals;
    * the model, its hooks and modes, the optimizer and all random states stay unchanged;
    * float32 gives as many proposals as float64, and they are finite;
    * splits with zero offsets change nothing, and a prune equals zeroing the channel where it is
      read;
    * rules select from the proposals, and the selected edits can be applied with an optimizer;
    * the inner product of the gains with the true decreases of the loss is positive, unless no edit
      changes the loss (neurons that nothing reads yet gain by training).

    A method may refuse a network with a `RamifyError`, but not all of them.

    Args:
        method: the method to check.
        random: whether the method is random: other channel orders may give other proposals.
        stepwise: whether the method takes one step per batch: other batches may give other
            proposals.
        tolerance: the tolerance for gains and scores that should be the same, relative to the
            largest of them.

    Raises:
        RamifyError: a property failed; the message names the property and the network.

    Example:
        >>> import ramify
        >>> check_method(ramify.L1())
        >>> check_method(ramify.Net2Net(), random=True)
    """
    refused = []
    for name, make in NETWORKS.items():
        check = _Check(method, name, make, tolerance)
        try:
            base = check.propose(make(torch.float64))
        except RamifyError as error:
            if str(error).startswith(check.title):
                raise
            refused.append(str(error))
            continue
        check.edits(base)
        check.repeats(base)
        if not stepwise:
            check.batches(base)
        if not random:
            check.channel_order(base)
        check.single_precision(base)
        check.preserves(base)
        check.prunes(base)
        check.selects(base)
        check.signs(base)
    if len(refused) == len(NETWORKS):
        raise RamifyError(
            f"{type(method).__name__} refuses all of the networks of the check; the first time it "
            f"said: {refused[0]}"
        )


@dataclass
class _Case:
    """A traced network, its data, and what the method proposed for it."""

    model: nn.Module
    batch: Batch
    graph: ChannelGraph
    proposals: Any


@dataclass
class _Check:
    """The properties, one function each, of a method on one network."""

    method: Method
    network: str
    make: Callable[[torch.dtype], tuple[nn.Module, Batch]]
    tolerance: float

    @property
    def title(self) -> str:
        """The beginning of error messages."""
        return f"{type(self.method).__name__} on {self.network}:"

    def _fail(self, what: str) -> None:
        raise RamifyError(f"{self.title} {what}")

    def propose(self, made: tuple[nn.Module, Batch], *, whole: bool = False) -> _Case:
        """Call the method, and check that everything else stays unchanged."""
        model, (x, y) = made
        graph = trace(model, x[:2])
        optimizer = _optimizer(model, (x, y))
        batches = [(x, y)] if whole else [(x[:5], y[:5]), (x[5:], y[5:])]
        before, state = _state(model, optimizer), _random_state()
        proposals = self.method.propose(graph, _loss, batches)
        if _state(model, optimizer) != before:
            self._fail(
                "propose leaves the model and its optimizer as they were, and something changed: a "
                "parameter, buffer, gradient, mode, hook or attribute"
            )
        if _random_state() != state:
            self._fail(
                "propose leaves the random states as they were, and one changed: draw from a "
                "torch.Generator of your own"
            )
        return _Case(model, (x, y), graph, proposals)

    def edits(self, case: _Case) -> None:
        """Every proposal is an edit that the graph allows, with finite numbers, best first."""
        if not isinstance(case.proposals, list):
            self._fail(f"propose returns a list, and returned {type(case.proposals).__name__}")
        prices = CostModel(case.graph)
        for proposal in case.proposals:
            if not isinstance(proposal, Proposal):
                self._fail(f"propose returns Proposals, and gave a {type(proposal).__name__}")
            self._edit(case, proposal.edit)
            for word, value in (("gain", proposal.gain), ("score", proposal.score)):
                if value is not None and not math.isfinite(value):
                    self._fail(f"every {word} is finite, and that of {_named(proposal)} is {value}")
            if proposal.cost != prices.added([proposal.edit]):
                self._fail(
                    f"the cost of {_named(proposal)} is what the edit alone adds, which "
                    "ramify.cost.CostModel(graph).added([edit]) gives, and is not that"
                )
        values = [proposal.value for proposal in case.proposals]
        if values != sorted(values, reverse=True):
            self._fail("proposals come best first, by score or else by gain, and these do not")

    def _edit(self, case: _Case, edit: Any) -> None:
        if not isinstance(edit, (Prune, Split)):
            self._fail(f"an edit is a Prune or a Split, and one is a {type(edit).__name__}")
        group = case.graph[edit.group]  # raises for a name that the graph does not have
        channels = edit.channel if isinstance(edit.channel, tuple) else (edit.channel,)
        if not all(0 <= channel < group.width for channel in channels):
            self._fail(f"'{group.name}' has {group.width} channels, and one edit is of {channels}")
        if isinstance(edit, Prune):
            if not group.can_prune:
                self._fail(
                    f"'{group.name}' cannot be pruned ({group.reason}), and a Prune of it came"
                )
            return
        if not group.can_split:
            self._fail(f"'{group.name}' cannot be split ({group.reason}), and a Split of it came")
        if abs(sum(edit.weights) - 1) > ROUNDING:
            self._fail(f"the weights of a Split sum to 1, and one has {edit.weights}")
        for name, offset in edit.offsets.items():
            if name not in group.producers:
                self._fail(
                    f"offsets are for producers of '{group.name}', which '{name}' is not: "
                    f"{group.producers}"
                )
            if len(offset) != len(edit.weights) or not bool(torch.isfinite(offset).all()):
                self._fail(
                    f"offsets of '{name}' have one finite kernel for each of the "
                    f"{len(edit.weights)} copies, and one has shape {tuple(offset.shape)}"
                )

    def repeats(self, base: _Case) -> None:
        """A second call, on the model in train mode, gives the same proposals."""
        model, batch = self.make(torch.float64)
        model.train()
        again = self.propose((model, batch))
        self._same(base, again, "a second call, with the model in train mode, gives the same")

    def batches(self, base: _Case) -> None:
        """The same samples in one batch give the same proposals."""
        whole = self.propose(self.make(torch.float64), whole=True)
        self._same(
            base,
            whole,
            "the same samples in other batches give the same, each sample with the same weight",
        )

    def channel_order(self, base: _Case) -> None:
        """Permuting the channels permutes the proposals."""
        model, batch = self.make(torch.float64)
        for group in base.graph.groups:
            if group.can_split or group.can_prune:
                _reverse(model, base.graph, group)
        if not _close(_outputs(model, batch), _outputs(base.model, base.batch)):
            raise AssertionError("channels in another order are another function")
        other = self.propose((model, batch))

        def mirrored(proposal: Proposal) -> Proposal:
            edit = proposal.edit
            last, channel = other.graph[edit.group].width - 1, edit.channel
            if isinstance(edit, Prune) and isinstance(channel, tuple):  # one in each head
                turned = tuple(last - each for each in channel)
                return replace(proposal, edit=Prune(edit.group, turned))
            assert isinstance(channel, int)
            return replace(proposal, edit=replace(edit, channel=last - channel))

        other.proposals = [mirrored(proposal) for proposal in other.proposals]
        self._same(base, other, "channels in another order give the same in that order")

    def single_precision(self, base: _Case) -> None:
        """In float32 there are as many proposals, all of them valid."""
        single = self.propose(self.make(torch.float32))
        if len(single.proposals) != len(base.proposals):
            self._fail(
                "in float32 there are as many proposals as in float64, and there are "
                f"{len(single.proposals)} and {len(base.proposals)}"
            )
        self.edits(single)

    def preserves(self, base: _Case) -> None:
        """Splits without offsets leave the outputs unchanged."""
        splits = [
            Split(edit.group, edit.channel, edit.weights)
            for edit in _best(base, Split)
            if isinstance(edit, Split)
        ]
        model = copy.deepcopy(base.model)
        apply(trace(model, base.batch[0][:2]), splits)
        if not _close(_outputs(model, base.batch), _outputs(base.model, base.batch)):
            self._fail("splits preserve the function at zero offsets, and these do not")

    def prunes(self, base: _Case) -> None:
        """A prune equals zeroing the channel wherever it is read."""
        # A channel that a product of activations reads has no weight columns to set to zero.
        weighted = {t.group.name for t in targets(base.graph) if not t.multiplied}
        edits = [
            edit
            for edit in _best(base, Prune)
            if base.graph[edit.group].name in weighted and isinstance(edit.channel, int)
        ]
        cut, masked = copy.deepcopy(base.model), copy.deepcopy(base.model)
        apply(trace(cut, base.batch[0][:2]), edits)
        for edit in edits:
            group = base.graph[edit.group]
            for slot in group.slots:
                if slot.role == "consumer":
                    columns = torch.from_numpy(base.graph.positions(group, slot)[edit.channel])
                    tensors_of(masked)[slot.name].data.index_fill_(slot.dim, columns, 0)
        if not _close(_outputs(cut, base.batch), _outputs(masked, base.batch)):
            self._fail("a prune equals a zero where the channel is read, and these do not")

    def selects(self, base: _Case) -> None:
        """A rule selects from the proposals, and the selection can be applied."""
        chosen = TopFraction(0.5).select(base.proposals)
        model = copy.deepcopy(base.model)
        optimizer = _optimizer(model, base.batch)
        graph = trace(model, base.batch[0][:2])
        apply(graph, [proposal.edit for proposal in chosen], optimizer=optimizer)
        _loss(model, base.batch).mean().backward()
        optimizer.step()

    def signs(self, base: _Case) -> None:
        """Gains are decreases of the loss: their inner product with the true ones is positive."""
        known = [proposal for proposal in base.proposals if proposal.gain]
        if not known:
            return
        trial = Trial(base.graph, _loss, [base.batch])
        true = [trial.decrease([proposal.edit]) for proposal in known]
        if max(map(abs, true)) <= ROUNDING * float(trial.losses().abs().max()):
            return  # neurons that nothing reads yet gain only by training
        if sum(p.gain * decrease for p, decrease in zip(known, true, strict=True)) <= 0:
            self._fail(
                "a gain is the decrease of the mean loss, above 0 where it falls, and these are not"
            )

    def _same(self, one: _Case, other: _Case, what: str) -> None:
        mine, theirs = _values(one.proposals), _values(other.proposals)
        if mine.keys() != theirs.keys():
            self._fail(f"{what}, and other channels were proposed")
        for column in range(2):
            largest = max((abs(values[column]) for values in mine.values()), default=0.0)
            for key, values in mine.items():
                apart = abs(values[column] - theirs[key][column])
                if not apart <= self.tolerance * largest:
                    word, (kind, group, channel, *_) = ("gain", "score")[column], key
                    self._fail(
                        f"{what}, and the {word} of {kind}('{group}', {channel}) is "
                        f"{values[column]:.6g} and {theirs[key][column]:.6g}"
                    )


def _values(proposals: Sequence[Proposal]) -> dict[tuple[Any, ...], tuple[float, float]]:
    """Gain and score by kind, group, channel and number of copies."""
    found: dict[tuple[Any, ...], tuple[float, float]] = {}
    for proposal in proposals:
        edit = proposal.edit
        copies = len(edit.weights) if isinstance(edit, Split) else 0
        key = (type(edit).__name__, edit.group, edit.channel, copies)
        found[key] = (proposal.gain, 0.0 if proposal.score is None else proposal.score)
    return found


def _best(case: _Case, kind: type[Edit]) -> list[Edit]:
    """The first edit of this kind for each group."""
    found: dict[str, Edit] = {}
    for proposal in case.proposals:
        if isinstance(proposal.edit, kind):
            found.setdefault(case.graph[proposal.edit.group].name, proposal.edit)
    return list(found.values())


def _named(proposal: Proposal) -> str:
    edit = proposal.edit
    return f"{type(edit).__name__}('{edit.group}', {edit.channel})"


def _reverse(model: nn.Module, graph: ChannelGraph, group: ChannelGroup) -> None:
    """Reverse the order of a group's channels in every tensor."""
    for slot in group.slots:
        where = torch.from_numpy(graph.positions(group, slot))
        rows = tensors_of(model)[slot.name].data.movedim(slot.dim, 0)
        rows[where] = rows[where.flip(0)].clone()


# Recorded state ---------------------------------------------------------------------------


def _optimizer(model: nn.Module, batch: Batch) -> torch.optim.Optimizer:
    """An optimizer with moments; the step that created them is undone."""
    kept = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters())
    with modes_kept(model):
        model.eval()
        _loss(model, batch).mean().backward()
    optimizer.step()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(kept[name])
    return optimizer


def _state(model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    """Everything that must stay unchanged in a model and optimizer, comparable with `==`."""
    tensors = [
        (name, id(t), _bytes(t), None if t.grad is None else _bytes(t.grad), t.requires_grad)
        for name, t in tensors_of(model).items()
    ]
    modules = [(name, _plain(vars(module))) for name, module in model.named_modules()]
    return tensors, modules, _plain(optimizer.state_dict())


def _bytes(tensor: Tensor) -> tuple[Any, ...]:
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return values, tuple(tensor.shape), tensor.dtype


def _plain(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return [(str(key), _plain(value)) for key, value in tree.items()]
    if isinstance(tree, (list, tuple)):
        return [_plain(value) for value in tree]
    if isinstance(tree, Tensor):
        return _bytes(tree)
    return tree if isinstance(tree, (int, float, str, bool, type(None))) else id(tree)


def _random_state() -> Any:
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    return torch.get_rng_state().tolist(), random.getstate(), (kind, list(keys), rest)


def _outputs(model: nn.Module, batch: Batch) -> Tensor:
    with torch.no_grad():
        found: Tensor = copy.deepcopy(model).eval()(batch[0])
    return found


def _close(one: Tensor, other: Tensor) -> bool:
    return float((one - other).abs().max()) <= ROUNDING * float(other.abs().max())


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    return cross_entropy(model(batch[0]), batch[1], reduction="none")
