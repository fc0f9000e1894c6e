"""What else an edited model is used for: other sizes, training, half precision, writing."""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

import ramify
from benchmarks.zoo.comparing import MASKED, Wrong, any_loss, outputs, same
from ramify import ChannelGraph, ChannelGroup

Change = Callable[[Tensor], Tensor]
TOKENS = 4
"""So many are generated."""


def other_sizes(model: nn.Module, inputs: Any) -> tuple[Any, str]:
    """Inputs of other sizes that the model takes: batch and space or length, or one of the two.

    Args:
        model: as it is before edits.
        inputs: what it was traced with.

    Returns:
        The inputs, None where there are none, and what differs in words.
    """
    tries: list[tuple[str, tuple[Change, ...]]] = [
        ("batch and size", (_more_samples, _larger)),
        ("size", (_larger,)),
        ("batch", (_more_samples,)),
    ]
    for what, changes in tries:
        found = inputs
        for change in changes:
            found = tree_map(lambda x, c=change: c(x) if isinstance(x, Tensor) else x, found)
        sizes = [leaf.shape for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]
        if sizes == [leaf.shape for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]:
            continue
        try:
            outputs(model, found)
        except Exception:  # whatever a model says of sizes that it does not take
            continue
        return found, what
    return None, "it takes the sizes of the trace alone"


def _more_samples(x: Tensor) -> Tensor:
    return torch.cat([x, x[:1]]) if x.dim() else x


def _larger(x: Tensor) -> Tensor:
    """Images half as large again, sequences of tokens by three longer; all else stays."""
    if x.dim() >= 4:
        wider = torch.cat([x, x[..., : x.shape[-1] // 2]], -1)
        return torch.cat([wider, wider[..., : x.shape[-2] // 2, :]], -2)
    if x.dim() == 2 and not x.is_floating_point():
        return torch.cat([x[:, :3], x], 1)
    return x


def trains(graph: ChannelGraph, original: Callable[[], tuple[nn.Module, Any]]) -> str | None:
    """A step of SGD in train mode: every weight stays finite.

    Args:
        graph: of the edited model.
        original: makes the model as it was, and its inputs.

    Returns:
        Why it does not apply: the model as it was does not train on these inputs either.

    Raises:
        Wrong: something is not finite.
    """
    try:
        _step(graph.model, graph.inputs)
    except Wrong:
        raise
    except Exception:  # whatever a model says of inputs that it does not train on
        try:
            _step(*original())
        except Exception:
            return "nor does the original"
        raise
    return None


def _step(model: nn.Module, inputs: Any) -> None:
    model.train()
    try:
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
        any_loss(model, inputs).backward()
        optimizer.step()
        optimizer.zero_grad()
    finally:
        model.eval()
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise Wrong(f"'{name}' is not finite after a step")


def in_bfloat16(
    model: nn.Module, inputs: Any, prune: Callable[[ChannelGraph], ChannelGraph]
) -> str | None:
    """Traced, pruned and run in bfloat16; where the original does not run so either, say it."""
    other = copy.deepcopy(model)  # some keep tensors of a pass, which no second backward takes
    try:
        any_loss(other, inputs).backward()
        fine = all(bool(p.grad.isfinite().all()) for p in other.parameters() if p.grad is not None)
    except Exception:
        fine = False
    if not fine:
        return "nor does the original"
    pruned = prune(ramify.trace(model, inputs))
    for tensor in outputs(pruned.model, pruned.inputs):
        if tensor.dtype is torch.bfloat16 and bool(tensor.isnan().any()):
            raise Wrong("outputs in bfloat16 are not numbers")
    return None


def generates(graph: ChannelGraph) -> str | None:
    """Tokens written with a cache are those written without."""
    model: Any = graph.model
    if not getattr(model, "can_generate", lambda: False)():
        return "it writes no text"
    ids = graph.inputs.get("input_ids") if isinstance(graph.inputs, dict) else None
    if ids is None:
        return "it writes no text from tokens alone"
    settings = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False}
    more = (
        {"decoder_start_token_id": 0}
        if model.config.is_encoder_decoder
        else {"attention_mask": torch.ones_like(ids)}
    )
    with torch.no_grad():
        plain, cached = (
            model.generate(ids, use_cache=cache, **settings, **more) for cache in (False, True)
        )
    if not torch.equal(plain, cached):
        raise Wrong("tokens written with a cache are others")
    return None


def pretrained(model: Any, inputs: Any) -> str | None:
    """`save_pretrained` and `from_pretrained` of the model's own library give the same outputs.

    Half of the channels of one kind of group go from every layer alike, kind by kind; a kind that a
    warning says no configuration can tell counts as none.

    Args:
        model: as it is before edits.
        inputs: what it is called with.

    Returns:
        Why there is nothing to compare.
    """
    if not hasattr(model, "save_pretrained"):
        return "its library has none"
    kinds: dict[str, list[ChannelGroup]] = {}
    for group in ramify.trace(model, inputs).groups:
        if group.can_prune and group.width > 1:
            kinds.setdefault(group.name.rpartition(".")[2], []).append(group)
    told = [kind for kind, groups in kinds.items() if _told(copy.deepcopy(model), inputs, groups)]
    return None if told else f"no configuration tells one of {len(kinds)} kinds of groups"


def _told(model: Any, inputs: Any, groups: Sequence[ChannelGroup]) -> bool:
    """Whether the configuration tells that half of the channels of some groups are gone."""
    edits = [ramify.Prune(g.name, channel) for g in groups for channel in range(g.width // 2)]
    ramify.apply(ramify.trace(model, inputs), edits)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model.save_pretrained(folder)
        if any("no configuration can say" in str(warning.message) for warning in said):
            return False
        # Experts of odd widths are computed one after the other, as the warning of the edit says.
        way = getattr(model.config, "_experts_implementation", None)
        again = type(model).from_pretrained(
            folder, **({"experts_implementation": way} if way else {})
        )
    same("the model and that of from_pretrained", outputs(model, inputs),
         outputs(again.eval(), inputs), MASKED[torch.float32])  # fmt: skip
    return True
