"""Checks of an edited network, its optimizer, weight average and files against the expectation."""

from __future__ import annotations

import copy
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ramify
from benchmarks.fuzz_edits import expected
from benchmarks.fuzz_edits.axes import Edits
from benchmarks.fuzz_edits.draws import Asked
from benchmarks.fuzz_edits.expected import Law, Tensors, tensors_of, values_of
from benchmarks.fuzz_edits.optimizers import gradients_of, law_of
from benchmarks.fuzz_edits.work import Work, outputs, step

NEAR = {torch.float64: 1e-10, torch.float32: 1e-4}
DROPOUTS = (nn.Dropout, nn.Dropout1d)


class Wrong(Exception):
    """Something differs from the expectation."""


class Pass(nn.Module):
    """Returns one of a block's inputs."""

    def __init__(self, which: int) -> None:
        super().__init__()
        self.which = which

    def forward(self, *given: Any) -> Any:
        """That input."""
        return given[self.which]


class Check:
    """Compares an edited network with the expectation.

    Args:
        work: the edited work.
        old: a copy from before the edits.
        graph: the graph before the edits.
        asked: the edits.
    """

    def __init__(self, work: Work, old: Work, graph: ramify.ChannelGraph, asked: Asked) -> None:
        self.work, self.old, self.graph, self.asked = work, old, graph, asked
        self.dims, self.near = work.program.dims(), NEAR[work.dtype]
        self.was, self.edits = tensors_of(old.net), Edits()
        self.oracles: list[str] = []

    def all(self, followed: bool, saved: bool) -> list[str]:
        """Run all comparisons.

        Args:
            followed: whether the weight average was passed to the edits.
            saved: whether to save the network and load it again.

        Returns:
            The names of the comparisons.

        Raises:
            Wrong: something differs from the expectation under every interpretation of the edits.
        """
        problems: list[str] = []
        for edits in expected.readings(self.dims, self.graph, self.asked.channels):
            self.edits = edits
            try:
                self.outputs()
                if not self.asked.blocks:
                    self.states()
                    if followed:
                        own, was = tensors_of(self.work.follower), tensors_of(self.old.follower)
                        self.values("average", own, was)
            except Wrong as error:
                problems.append(str(error))
                continue
            break
        else:
            # Readings of other axes end at the shapes: what is right until the outputs says most.
            by_stage = sorted(problems, key=lambda text: ("shape" in text, "values" in text))
            raise Wrong((by_stage or ["no axis of the network is what a group names"])[0])
        if saved:
            self.files()
        self.training()
        return self.oracles

    def outputs(self) -> None:
        """Compare the tensors and outputs of the network."""
        p, edits = self.work.program, self.edits
        if not self.asked.blocks:
            self.values("network", tensors_of(self.work.net), self.was)
        alone = {axis: copies for axis, copies in edits.copies.items() if not axis.paired}
        asked = replace(edits, copies=alone if edits.moves or self.asked.blocks else {})
        whole = expected.built(p, self.dims, self.was, asked, self.work.dtype)
        if self.asked.blocks:
            self.same("passed over", list(self.passed(whole)))
            return
        how = "built wider" if edits.moves else "built smaller" if edits.gone else "as it was"
        self.same(how, [whole])
        if edits.gone and not edits.moves and expected.can_mask(edits):
            zeros = copy.deepcopy(self.old.net).eval()
            expected.load(zeros, expected.masked(self.dims, self.was, edits.gone, reads=True))
            self.same("masked", [zeros])

    def values(self, what: str, own: Tensors, was: Tensors) -> None:
        """Check that every tensor has the expected shape, and the expected values if known."""
        members = self.edits.members()
        moved = {move.name for move in self.edits.moves}
        for name, dims in self.dims.items():
            new = expected.carried(was[name], dims, members, values_of)
            if name not in own or own[name].shape != new.shape:
                shape = tuple(own[name].shape) if name in own else None
                raise Wrong(f"{what}: {name} has shape {shape} for {tuple(new.shape)}")
            if name in moved or not expected.is_lawful(dims, self.edits):
                continue
            if not torch.allclose(own[name], new, rtol=1e-6, atol=0, equal_nan=True):
                raise Wrong(f"{what}: {name} has other values")

    def same(self, what: str, networks: Sequence[nn.Module]) -> None:
        """Check that outputs equal those of one of these networks, at every size and mode."""
        self.oracles.append(what)
        least = None
        for other in networks:
            apart = max(self.apart(other))
            least = apart if least is None else min(least, apart)
        if least is None or not least < self.near:
            raise Wrong(f"outputs differ by {least} from the network {what}")

    def apart(self, other: nn.Module) -> Iterator[float]:
        """The distances of outputs, at the size of the trace and at others."""
        samples = len(self.work.inputs[0])
        runs = [(self.work.inputs, False), (self.work.sample(samples + 2), False)]
        if self.work.program.any_extent:
            runs.append((self.work.sample(samples, more=2), False))
        drops = any(isinstance(module, DROPOUTS) for module in self.work.net.modules())
        if not drops and not self.asked.blocks:
            runs.append((self.work.inputs, True))
        for inputs, train in runs:
            reference, own = other, self.work.net
            if train:  # changes running statistics
                reference, own = copy.deepcopy((other, own))
            reference.train(train)
            with torch.no_grad():
                try:
                    there = outputs(reference, inputs)
                except (RuntimeError, IndexError, AssertionError):
                    if inputs is self.work.inputs:
                        yield float("inf")
                    continue  # this network accepts no other size
                here = outputs(own.train(train), inputs)
            yield expected.distance(there, here)

    def passed(self, net: nn.Module) -> Iterator[nn.Module]:
        """The network without its dropped blocks, each replaced by either of its inputs."""
        drops = [
            self.graph_block(edit) for edit in self.asked.blocks if isinstance(edit, ramify.Drop)
        ]
        for which in itertools.product((0, 1), repeat=len(drops)):
            without = copy.deepcopy(net)
            for block, number in zip(drops, which, strict=True):
                for place, name in enumerate(block.members):
                    without.set_submodule(name, nn.Identity() if place else Pass(number))
            yield without

    def graph_block(self, edit: ramify.Drop) -> ramify.Block:
        """The block that an edit names."""
        return next(block for block in self.graph.blocks if block.name == edit.block)

    def states(self) -> None:
        """Check that gradients and optimizer states follow from the old ones by their rules."""
        members, own = self.edits.members(), dict(self.work.net.named_parameters())
        for name, was in self.old.net.named_parameters():
            dims = self.dims[name]
            pairs: list[tuple[str, Tensor | None, Tensor | None, Law]]
            pairs = [("gradient", self.old.gradients.get(name), own[name].grad, gradients_of)]
            for before, after in zip(self.old.optimizers, self.work.optimizers, strict=True):
                for key, entry in before.state.get(was, {}).items():
                    if not isinstance(entry, Tensor) or entry.shape != was.shape or not entry.dim():
                        continue
                    pairs.append((key, entry, after.state[own[name]][key], law_of(before, key)))
            for key, entry, found, law in pairs:
                if entry is None:
                    if found is not None:
                        raise Wrong(f"{name} has a gradient that it had not")
                    continue
                new = expected.carried(entry, dims, members, law)
                if found is None or found.shape != new.shape:
                    raise Wrong(f"{key} of {name} has another shape")
                if not expected.is_lawful(dims, self.edits) or (key == "ax" and self.edits.moves):
                    continue
                if not torch.allclose(found, new, rtol=1e-5, atol=1e-30, equal_nan=True):
                    raise Wrong(f"{key} of {name} has other values")

    def training(self) -> None:
        """Check that the optimizers hold every parameter once, and can take another step."""
        held = [p for o in self.work.optimizers for g in o.param_groups for p in g["params"]]
        if sorted(map(id, held)) != sorted(map(id, self.work.net.parameters())):
            raise Wrong("the optimizers hold other parameters than the network")
        for optimizer in self.work.optimizers:
            if {id(p) for p in optimizer.state} - set(map(id, held)):
                raise Wrong("an optimizer keeps the state of a parameter that is gone")
        step(self.work.net.train(), self.work.optimizers, self.work.inputs)
        were, are = (
            all(bool(p.isfinite().all()) for p in net.parameters())
            for net in (self.old.net, self.work.net)
        )
        if were and not are:
            raise Wrong("the step after the edit is not finite")

    def files(self) -> None:
        """Check that saving, loading and reshaping the network keep its outputs."""
        first = self.work.first
        with tempfile.TemporaryDirectory() as place:
            path = ramify.save(self.work.net, Path(place) / "net")
            again = ramify.load(path, build=lambda: copy.deepcopy(first))
        self.same("read again", [again.eval()])
        fresh = ramify.reshape(copy.deepcopy(first), ramify.recipe_of(self.work.net))
        fresh.load_state_dict(self.work.net.state_dict())
        self.same("reshaped", [fresh.eval()])
