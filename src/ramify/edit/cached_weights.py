"""Renews what modules cache or compute from their weights, after an edit of these."""

from __future__ import annotations

from torch import nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ramify.edit.carry import Follower
from ramify.tracing.modes import enter_mode, set_attribute
from ramify.tracing.recorder import modes_kept


def renew_cached(*models: Follower) -> None:
    """Make models drop values cached from their weights, as they do when training begins.

    A weight that a hook of torch computes before each forward is computed anew.

    Args:
        *models: networks; state dictionaries have nothing to renew.
    """
    for model in models:
        if not isinstance(model, nn.Module):
            continue
        for module in model.modules():
            for hook in module._forward_pre_hooks.values():
                if isinstance(hook, WeightNorm):
                    set_attribute(module, hook.name, hook.compute_weight(module))
                elif isinstance(hook, SpectralNorm):
                    weight = hook.compute_weight(module, do_power_iteration=False)
                    set_attribute(module, hook.name, weight)
                elif isinstance(hook, BasePruningMethod):
                    set_attribute(module, hook._tensor_name, hook.apply_mask(module))
        if any(type(module).train is not nn.Module.train for module in model.modules()):
            with modes_kept(model):
                enter_mode(model, True)
