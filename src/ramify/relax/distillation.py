"""Distillation from the full model while a pruned one is fine-tuned.

Shape letters: `S` samples, `K` classes; `...` positions of a sequence or an image, if any.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ramify.arguments import arguments_checked, form_of, is_number
from ramify.errors import RamifyError, in_one_line
from ramify.probe.loss import Loss
from ramify.tracing.recorder import evaluating


def divergence(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    r"""The distance of the student's softened probabilities from the teacher's.

    .. math:: L_{KD,s} = \sum_i \sigma_i(\hat U_s / T) \log
              \frac{\sigma_i(\hat U_s / T)}{\sigma_i(U_s / T)}

    As in the thesis and in TAS, which it follows, this is without the factor T² of Hinton and
    others: the gradient falls as 1/T², so a weight of T² gives their loss.

    Args:
        student: logits U (S, ..., K).
        teacher: logits Û (S, ..., K).
        temperature: T.

    Returns:
        One number per sample, (S,), the mean over positions if a sample has several.

    Source: RARTS thesis, section 4.2.1.
    """
    log_p = (student / temperature).log_softmax(-1)
    log_q = (teacher / temperature).log_softmax(-1)
    each = functional.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1)
    return each.reshape(len(each), -1).mean(1)


def teacher_of(model: nn.Module) -> nn.Module:
    """A copy of a model, to teach it while it changes.

    Tensors that its modules keep of earlier runs, such as the weight that an old weight norm
    computed or features that a forward stored, are copied without their history.

    Args:
        model: the model.

    Returns:
        The copy.

    Raises:
        RamifyError: `copy.deepcopy` cannot copy the model.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for leaf in tree_leaves(list(vars(module).values())):
            if isinstance(leaf, Tensor) and not leaf.is_leaf:
                memo[id(leaf)] = leaf.detach().clone()
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise RamifyError(
            "the network teaches the smaller one, and no copy of it can be made by copy.deepcopy "
            f"({in_one_line(error, 200)}): give another network of its class with its weights as "
            "`teacher`, or teacher=None"
        ) from error


@arguments_checked
def distilled(
    loss: Loss, teacher: nn.Module, temperature: float = 4.0, weight: float = 1.0
) -> Loss:
    r"""A loss plus the distance from a teacher's outputs, `L + weight · L_KD`.

    The teacher gets the same inputs as the model, in evaluation mode and without gradients, so any
    loss that calls its model once per batch works. Outputs are logits (S, ..., K), or objects that
    have them as `.logits`.

    Args:
        loss: `loss(model, batch)`, one loss per sample, (S,).
        teacher: the full model; it is left unchanged.
        temperature: T, 4 in the thesis.
        weight: the weight of L_KD, 1 in the thesis.

    Returns:
        A loss with the same arguments.

    Raises:
        RamifyError: T is not above 0; or, in a call, the model is not called exactly once, or the
            logits of model and teacher differ in shape.

    Example:
        >>> import torch
        >>> teacher, student = nn.Linear(4, 3), nn.Linear(4, 3)
        >>> def loss(model, batch):
        ...     return functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
        >>> batch = torch.randn(5, 4), torch.zeros(5, dtype=torch.long)
        >>> taught = distilled(loss, teacher)
        >>> bool((taught(student, batch) > loss(student, batch)).all())
        True
        >>> torch.equal(taught(teacher, batch), loss(teacher, batch))
        True

    Source: RARTS thesis, section 4.2.1.
    """
    if not (is_number(temperature) and temperature > 0):
        raise RamifyError(f"the temperature is {temperature!r}; give a number above 0.")

    def taught(model: nn.Module, batch: Any) -> Tensor:
        if _is_script(model):
            raise RamifyError(
                "the model is a script of torch.jit, whose outputs distillation cannot see: train "
                "without a teacher, or train the model that was scripted"
            )
        # Record the model's only call in the loss, and give the teacher the same arguments.
        calls: list[tuple[Any, Any, Any]] = []

        def keep(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            calls.append((args, kwargs, output))

        with model.register_forward_hook(keep, with_kwargs=True):
            losses = loss(model, batch)
        if len(calls) != 1:
            raise RamifyError(
                f"the loss called its model {len(calls)} times, and distillation follows one call; "
                "give a loss that calls the model once a batch."
            )
        [(args, kwargs, output)] = calls
        with evaluating(teacher):
            target = _logits(teacher(*args, **kwargs))
        own = _logits(output)
        if own.shape != target.shape:
            raise RamifyError(
                f"the model gives logits of shape {tuple(own.shape)} and the teacher "
                f"{tuple(target.shape)}; take a teacher of the same classes."
            )
        # One divergence per sample is added to one loss per sample.
        apart = divergence(own, target, temperature)
        if losses.dim() and losses.shape != apart.shape:
            raise RamifyError(
                f"the loss gives numbers of shape {tuple(losses.shape)} and the logits are those "
                f"of {len(apart)} samples; return one loss a sample, or the mean."
            )
        return losses + weight * apart

    return taught


def takes_softmax(model: nn.Module, loss: Loss, batch: Any) -> bool:
    """Whether a loss takes the softmax of its model's output, so that distillation makes sense.

    Args:
        model: the network.
        loss: `loss(model, batch)`.
        batch: one batch.

    Returns:
        Whether a softmax over as many entries as the last dimension of the output is computed after
        the model has run; False for a script of torch.jit, whose outputs cannot be seen.

    Example:
        >>> x, y = torch.randn(5, 4), torch.zeros(5, dtype=torch.long)
        >>> takes_softmax(nn.Linear(4, 3), lambda m, b: functional.cross_entropy(m(b), y), x)
        True
        >>> takes_softmax(nn.Linear(4, 3), lambda m, b: m(b).square().mean(1), x)
        False
    """
    if _is_script(model):
        return False
    seen = _SoftmaxBehindModel()
    with (
        model.register_forward_hook(lambda _, __, output: seen.note(output)),
        evaluating(model),
        seen,
    ):
        loss(model, batch)
    return seen.found


def _is_script(model: nn.Module) -> bool:
    """Whether a model takes no forward hooks."""
    return isinstance(model, torch.jit.ScriptModule)


class _SoftmaxBehindModel(TorchDispatchMode):
    """Detects a softmax of the model's output."""

    def __init__(self) -> None:
        super().__init__()
        self.classes: int | None = None
        self.found = False

    def note(self, output: Any) -> None:
        """Record that the model has run."""
        logits = getattr(output, "logits", output)
        if isinstance(logits, Tensor) and logits.ndim > 1:
            self.classes = logits.shape[-1]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in (torch.ops.aten._log_softmax.default, torch.ops.aten._softmax.default):
            self.found |= args[0].shape[-1] == self.classes
        return func(*args, **(kwargs or {}))


def _logits(output: Any) -> Tensor:
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.ndim < 2:
        raise RamifyError(
            f"distillation takes logits of shape (samples, ..., classes), and the model gives "
            f"{form_of(logits)}; give a model whose output they are, or hold them as .logits."
        )
    return logits
