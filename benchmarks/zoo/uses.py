"""Further uses of an edited model: other input sizes, training, half precision, saving."""

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
"""The number of generated tokens."""


def other_sizes(model: nn.Module, inputs: Any) -> tuple[Any, str]:
    """Inputs of other sizes that the model accepts: other batch, other space or length, or both.

    Args:
        model: the model before edits.
        inputs: the inputs it was traced with.

    Returns:
        The inputs (None if there are none), and a description of the difference.
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
        except Exception:  # any error of a model for sizes that it does not accept
            continue
        return found, what
    return None, "it takes the sizes of the trace alone"


def _more_samples(x: Tensor) -> Tensor:
    return torch.cat([x, x[:1]]) if x.dim() else x


def _larger(x: Tensor) -> Tensor:
    """Images 1.5 times as large, token sequences three longer; other inputs unchanged."""
    if x.dim() >= 4:
        wider = torch.cat([x, x[..., : x.shape[-1] // 2]], -1)
        return torch.cat([wider, wider[..., : x.shape[-2] // 2, :]], -2)
    if x.dim() == 2 and not x.is_floating_point():
        return torch.cat([x[:, :3], x], 1)
    return x


def trains(graph: ChannelGraph, original: Callable[[], tuple[nn.Module, Any]]) -> str | None:
    """Take a step of SGD in train mode, after which every weight must be finite.

    Args:
        graph: of the edited model.
        original: builds the original model and its inputs.

    Returns:
        Why this does not apply: the original model does not train on these inputs either.

    Raises:
        Wrong: something is not finite.
    """
    try:
        _step(graph.model, graph.inputs)
    except Wrong:
        raise
    except Exception:  # any error of a model for inputs that it cannot train on
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
    """Trace, prune and run in bfloat16; reports if the original cannot run in it either."""
    other = copy.deepcopy(model)  # some models keep tensors that a second backward cannot use
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
    """Check that tokens generated with a cache equal those generated without."""
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
    """Check that `save_pretrained` and `from_pretrained` of the model's library keep its outputs.

    For one kind of group after another, the same half of the channels is removed from every layer.
    Kinds that no configuration can express, according to a warning, are skipped.

    Args:
        model: the model before edits.
        inputs: its inputs.

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
    """Whether the configuration can express that half of the channels of groups are removed."""
    edits = [ramify.Prune(g.name, channel) for g in groups for channel in range(g.width // 2)]
    ramify.apply(ramify.trace(model, inputs), edits)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model.save_pretrained(folder)
        if any("no configuration can say" in str(warning.message) for warning in said):
            return False
        # Experts of odd widths are computed one after another, as the edit's warning says.
        way = getattr(model.config, "_experts_implementation", None)
        again = type(model).from_pretrained(
            folder, **({"experts_implementation": way} if way else {})
        )
    same("the model and that of from_pretrained", outputs(model, inputs),
         outputs(again.eval(), inputs), MASKED[torch.float32])  # fmt: skip
    return True
