"""`ramify.trace`: finds the channel groups of any model that runs."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from ramify.arguments import each_of, texts_of
from ramify.errors import RamifyError, in_one_line, module_in_words
from ramify.tracing.branches import freeze_unseen_branches, unseen
from ramify.tracing.decisions import Decisions, choices_of
from ramify.tracing.flow import DimFlow
from ramify.tracing.grouped import freeze_blocks
from ramify.tracing.groups import ChannelGraph, Renew, build_graph
from ramify.tracing.inputs import OF_INPUTS, check_values, runnable
from ramify.tracing.propagate import propagate
from ramify.tracing.recorder import Tape, aliases_of, call, record, tensors_of
from ramify.tracing.rules.norms import BATCH_NORMS
from ramify.tracing.rules.registry import has_own_rule
from ramify.tracing.shapes_only import ShapesOnly
from ramify.tracing.sizes import SizedRun, Use
from ramify.tracing.unharmed import unharmed
from ramify.tracing.untouched import alone
from ramify.tracing.verify.comparison import ReferenceRun
from ramify.tracing.verify.other_size import other_sizes, restrict_to_common
from ramify.tracing.verify.rule_check import check_rules
from ramify.tracing.verify.trial_growth import TrialGrowth
from ramify.tracing.verify.trial_results import TrialResults
from ramify.tracing.writes import Execute

SPREAD = (
    "and each rank has a part of it: trace, edit and save the model before it is spread over the "
    "ranks, or a copy that holds whole tensors"
)
GATES = "ramify_gates"
"""The name of the width gates of `ramify.gate` in a model."""

MOST_TURNS = 8
"""How many alternative routings are tried to reach further parameters."""

_OBJECTS = 100_000
"""The number of new objects after which Python collects garbage during a trace."""

Run = tuple[Any, bool]
"""(inputs, whether in train mode)"""

Operations = list[tuple[str, str, list[tuple[int, ...]]]]
"""(operation, module, shapes of its results) of each operation"""

_OF_LAYOUT = frozenset({"aten::clone", "aten::view", "aten::_unsafe_view"})
"""The operations that a reshape becomes, depending on the strides of its input."""

_OF_A_NORM = frozenset({"aten::add_", *(f"aten::{name}" for name in BATCH_NORMS)})
"""The operations that a batch norm has in train mode alone, such as the count of its batches."""


class TraceSettings(NamedTuple):
    """The checked arguments of `trace`: further inputs, and the others by their names."""

    also: tuple[Any, ...]
    edit_outputs: bool
    unused: tuple[str, ...]


def trace(
    model: nn.Module,
    inputs: Any,
    *,
    also: Sequence[Any] = (),
    edit_outputs: bool = False,
    unused: Sequence[str] = (),
) -> ChannelGraph:
    r"""Find the channel groups of a model by running it and recording its operations.

    The model runs in eval mode without gradients, and also in train mode if it then runs other
    operations. Then every group is grown once as a trial, and groups for which the run fails are
    not offered for edits. Parameters, buffers, modes, hooks and random states stay unchanged.

    Args:
        model: any module whose forward runs.
        inputs: a tensor, tuple or dict: `model(x)`, `model(*t)` or `model(**d)`.
        also: further inputs, to reach branches that the first one does not take.
        edit_outputs: allow edits of the model's outputs (say, to change the number of classes).
        unused: modules or parameters that no forward calls (say, those of another method), which
            edits leave alone. If a forward branches on data, unreached parameters may be behind a
            branch; the channels around them are then frozen unless they are named here.

    Returns:
        The graph; `print(graph)` lists every group, with the reason if it is frozen.

    Raises:
        RamifyError: the model cannot be traced.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> graph = trace(net, torch.randn(3, 4))
        >>> graph["0"].width, graph["0"].can_split, graph["0"].consumers
        (8, True, ('2.weight',))
    """
    if not isinstance(model, nn.Module):
        raise RamifyError(f"trace takes a torch.nn.Module, but got a {type(model).__name__}")
    if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        raise RamifyError(
            f"the model is wrapped in {type(model).__name__}: trace its `.module`, and wrap it "
            "again after an edit"
        )
    check_ungated(model)
    check_whole(model)
    for name, tensor in tensors_of(model).items():
        if nn.parameter.is_lazy(tensor):
            raise RamifyError(
                f"'{name}' has no shape yet (a lazy module): run the model once first"
            )
        if tensor.is_meta:
            raise RamifyError(
                f"'{name}' has no values (device 'meta'), and groups are proven on values: load "
                "the weights first, or trace and edit a copy with random ones, and give this model "
                "its shape by ramify.reshape(model, ramify.recipe_of(copy))"
            )
        if isinstance(tensor, FakeTensor):
            raise RamifyError(
                f"'{name}' has no values (a FakeTensor), and groups are proven on values: build "
                "and trace the model outside of FakeTensorMode"
            )
    for name, parameter in model.named_parameters():
        if bool(parameter.isnan().any()):
            raise RamifyError(
                f"parameter '{name}' holds values that are not numbers (nan), so that no outputs "
                "can be compared: load the weights, or go back to an earlier checkpoint"
            )
    check_writable(model)
    names = tuple(texts_of(unused, "unused", "names of modules"))
    settings = TraceSettings(_further(also), edit_outputs, names)
    all_inputs = (inputs, *settings.also)
    check_values(*all_inputs)
    with alone(), unharmed(model):
        try:
            return _trace(model, inputs, settings, None)
        except Exception as error:
            if isinstance(error, RamifyError) or not isinstance(error, OF_INPUTS):
                raise
            # Raises a readable error if the model itself fails.
            usable = [runnable(model, each) for each in all_inputs]
            if all(one is other for one, other in zip(usable, all_inputs, strict=True)):
                raise RamifyError(
                    "the model runs on these inputs, but not while its operations are recorded "
                    f"({in_one_line(error)}): its forward may trace functions itself, as "
                    "torch.func.linearize does; make that part a custom operation "
                    "(torch.library.custom_op), with a rule of ramify.rule"
                ) from error
        return _trace(model, usable[0], settings._replace(also=tuple(usable[1:])), None)


def check_ungated(model: nn.Module) -> None:
    """Check that a model to trace or edit has no gates.

    Raises:
        RamifyError: gates multiply its weights.
    """
    if any(name.rpartition(".")[2] == GATES for name, _ in model.named_modules()):
        raise RamifyError(
            f"the model holds gates ('{GATES}'), which multiply its weights: ramify.fold them first"
        )


def check_whole(model: nn.Module) -> None:
    """Check that a model to trace, edit or save holds whole tensors.

    Raises:
        RamifyError: its tensors are sharded over ranks, as by FSDP.
    """
    for name, module in model.named_modules():
        if type(module).__name__ == "FullyShardedDataParallel":
            raise RamifyError(f"{module_in_words(name)} is wrapped in FSDP, {SPREAD}")
    for name, tensor in tensors_of(model).items():
        if any(kind.__name__ == "DTensor" for kind in type(tensor).__mro__):
            where = module_in_words(name.rpartition(".")[0])
            raise RamifyError(f"'{name}' of {where} is a DTensor, as of fully_shard, {SPREAD}")


def check_writable(model: nn.Module) -> None:
    """Check that the tensors of a model to trace or edit can be written.

    Raises:
        RamifyError: they were created in inference mode, and inference mode is off.
    """
    if torch.is_inference_mode_enabled():
        return
    for name, tensor in tensors_of(model).items():
        if tensor.is_inference():
            raise RamifyError(
                f"'{name}' was made under torch.inference_mode, so that nothing outside of it can "
                "change or train it: build the model, or a copy of it, outside of that mode"
            )


def _further(also: Any) -> tuple[Any, ...]:
    """The further inputs, each in the form of the first."""
    if isinstance(also, (Tensor, Mapping)):
        raise RamifyError(
            f"`also` must be a list of further inputs, but got a {type(also).__name__}: give [it]"
        )
    return tuple(each_of(also, "also", "further inputs"))


def _trace(
    model: nn.Module, inputs: Any, settings: TraceSettings, known: TrialResults | None
) -> ChannelGraph:
    with _garbage_looked_for_less():
        return _traced(model, inputs, settings, known)


@contextlib.contextmanager
def _garbage_looked_for_less() -> Iterator[None]:
    """Collect garbage less often inside the block, and only among the new objects.

    A trace creates so many objects that Python would scan all existing ones again and again.
    """
    before = gc.get_freeze_count()  # objects that are frozen already stay frozen
    first, *others = gc.get_threshold()
    try:
        if not before:
            gc.freeze()
        if first:  # at 0 collection is off
            gc.set_threshold(max(first, _OBJECTS), *others)
        yield
    finally:
        gc.set_threshold(first, *others)
        if not before:
            gc.unfreeze()


def _traced(
    model: nn.Module, inputs: Any, settings: TraceSettings, known: TrialResults | None
) -> ChannelGraph:
    also, edit_outputs, unused = settings
    flow = empty_flow(model)
    results = known or TrialResults()
    # Run the model and follow the dimensions; also in train mode if that differs.
    references = [follow_run(model, flow, (inputs, False), edit_outputs)]
    if known is None:
        also = (*_other_branches(model, flow, inputs, edit_outputs), *also)
        settings = settings._replace(also=also)
    runs: list[Run] = [(x, False) for x in (inputs, *also)]
    references += [follow_run(model, flow, run, edit_outputs) for run in runs[1:]]
    evaluated = _operations(model, references[0].tape)
    for execute in () if results.same_in_training else (ShapesOnly(model), None):
        training = _train(model, inputs, execute)
        if training is None:
            continue
        results.same_in_training = _operations(model, training[0]) == evaluated
        if results.same_in_training:
            break
        if execute is None or (
            _of_torch_alone(training[0])
            and not _same_but_for_layout(_operations(model, training[0]), evaluated)
        ):
            runs.append((inputs, True))
            references.append(_follow(flow, ReferenceRun(), *training, edit_outputs))
            break
    if not unused:
        others = _turned_runs(model, flow, inputs, references[0].tape, edit_outputs)
        references += others
        runs += [runs[0]] * len(others)
    # Freeze channels that a user's rule gets wrong or that may be behind an untaken branch.
    for reference in references:
        check_rules(reference)
    modes = (training for _, training in runs)
    seen = list(zip(modes, (reference.tape for reference in references), strict=True))
    freeze_unseen_branches(flow, unseen(model, flow, unused), seen)
    freeze_blocks(model, flow)
    shared = _shared_memory(model)
    # Grow every group once, unless an earlier trace of the same forward did.
    if known is None:
        TrialGrowth(
            model=model,
            flow=flow,
            runs=runs,
            references=references,
            edit_outputs=edit_outputs,
            shared=shared,
            results=results,
        ).run()
    else:
        known.restrict(flow)
    return build_graph(
        model,
        inputs,
        flow,
        [reference.tape for reference in references],
        results,
        shared,
        lambda known, renew: _trace(model, *_renewed(inputs, settings, renew), known),
    )


def _renewed(
    inputs: Any, settings: TraceSettings, renew: Renew | None
) -> tuple[Any, TraceSettings]:
    """The inputs and settings of a trace, or the same with other inputs."""
    if renew is None:
        return inputs, settings
    return renew(inputs), settings._replace(also=tuple(map(renew, settings.also)))


def _turned_runs(
    model: nn.Module, flow: DimFlow, inputs: Any, first: Tape, edit_outputs: bool
) -> list[ReferenceRun]:
    """Run with other choices (other experts), as long as that reaches more parameters.

    Args:
        model: the model.
        flow: its dimensions, which these runs extend.
        inputs: the inputs of the model.
        first: the run with the model's own choices.
        edit_outputs: whether edits may reach the model's outputs.

    Returns:
        The runs with their decisions, which a trial growth repeats.
    """
    found: list[ReferenceRun] = []
    for turn in range(1, min(choices_of(first), MOST_TURNS)):
        missed = set(unseen(model, flow))
        if not missed:
            break
        reference = ReferenceRun()
        try:
            tape, uses = _record(model, (inputs, False), reference, turn)
        except Exception:  # these choices cannot be replaced by others
            break
        used = {tape.names.get(ref.index) for op in tape.ops for ref in op.inputs()}
        if used & missed:
            found.append(_follow(flow, reference, tape, uses, edit_outputs))
    return found


def _other_branches(
    model: nn.Module, flow: DimFlow, inputs: Any, edit_outputs: bool
) -> tuple[Any, ...]:
    """Keep from the latest run only what also holds at another input size that the model takes.

    Returns:
        The inputs of that size, if the model runs other operations on them and must be traced on
        them too.
    """
    traced = flow.tape
    for other in other_sizes(inputs):
        second = empty_flow(model)
        run, shapes = (other, False), ShapesOnly(model)
        try:
            try:
                tape, uses = _record(model, run, execute=shapes)
            except Exception as error:
                of_python = isinstance(error, (AssertionError, ValueError))  # which saw no values
                if of_python or shapes.explains(error):
                    continue
                tape, uses = _record(model, run)
            differs = not _kinds(tape) <= _kinds(traced)
            if differs:
                _record(model, run)  # with values, as in the trace
        except Exception:  # the model takes only this size, or these axes mean something else
            continue
        propagate(second, tape, uses=uses)
        second.protect_outputs(edit_outputs)
        restrict_to_common(flow, second, traced)
        return (other,) if differs else ()
    return ()


def _kinds(tape: Tape) -> set[tuple[str, str]]:
    """The (operation, module) pairs of a run, regardless of counts and sizes."""
    return {(op.name, op.module) for op in tape.ops if op.name not in _OF_LAYOUT}


def empty_flow(model: nn.Module) -> DimFlow:
    """The dimensions of a model before any run: the shapes of its parameters and buffers.

    Args:
        model: the model.

    Returns:
        The flow, to which runs add.

    Raises:
        RamifyError: a tensor has no shape.
    """
    tensors = tensors_of(model)
    for name, tensor in tensors.items():
        if tensor.is_nested:
            raise RamifyError(
                f"'{name}' is a nested tensor, which has no shape that channels could be read "
                "from: keep its parts as tensors of their own"
            )
    return DimFlow(
        param_shapes={name: tuple(tensor.shape) for name, tensor in tensors.items()},
        aliases=aliases_of(model),
        buffers=frozenset(name for name, _ in model.named_buffers()),
    )


def follow_run(model: nn.Module, flow: DimFlow, run: Run, edit_outputs: bool) -> ReferenceRun:
    """Run a model and follow its dimensions, adding them to the flow."""
    reference = ReferenceRun()
    return _follow(flow, reference, *_record(model, run, reference), edit_outputs)


def _record(
    model: nn.Module,
    run: Run,
    reference: ReferenceRun | None = None,
    turn: int = 0,
    execute: Execute | None = None,
) -> tuple[Tape, list[Use]]:
    inputs, training = run
    watch, decisions = None, Decisions(turn=turn)
    if reference is not None:
        watch, reference.decisions = reference.watcher(), decisions.noted
    run_sized = SizedRun(model, lambda: call(model, inputs), has_own_rule)
    decided = decisions.of(run_sized)
    tape = record(model, decided, inputs, training=training, watch=watch, execute=execute)
    return tape, run_sized.uses


def _train(model: nn.Module, inputs: Any, execute: Execute | None) -> tuple[Tape, list[Use]] | None:
    with contextlib.suppress(Exception):  # it cannot train on these inputs, or needs their values
        return _record(model, (inputs, True), execute=execute)
    return None


def _of_torch_alone(tape: Tape) -> bool:
    """Whether all operations are torch's own, whose result shapes are known not to need values."""
    return all(op.name.startswith("aten::") for op in tape.ops)


def _follow(
    flow: DimFlow, reference: ReferenceRun, tape: Tape, uses: Sequence[Use], edit_outputs: bool
) -> ReferenceRun:
    propagate(flow, tape, uses=uses)
    reference.keep(tape, flow)
    flow.protect_outputs(edit_outputs)
    return reference


def _operations(model: nn.Module, tape: Tape) -> Operations:
    """The operations of a run, except those by which layers differ by design in train mode."""
    left_out, own_norms = set(), set()
    for name, module in model.named_modules():
        norm = isinstance(module, nn.modules.batchnorm._NormBase)
        if norm and not type(module).forward.__module__.startswith("torch."):
            own_norms.add(name)  # a forward of its own may do anything else in train mode
        elif norm or isinstance(module, nn.modules.dropout._DropoutNd):
            left_out.add(name)
    return [
        (op.name, op.module, [tape.shape(ref) for ref in op.results()])
        for op in tape.ops
        if op.module not in left_out and not (op.module in own_norms and op.name in _OF_A_NORM)
    ]


def _same_but_for_layout(one: Operations, other: Operations) -> bool:
    """Whether two runs differ at most in copies and views, which depend on strides."""
    left, right = ([op for op in each if op[0] not in _OF_LAYOUT] for each in (one, other))
    return left == right


def _shared_memory(model: nn.Module) -> dict[str, str]:
    """Different parameters that share memory: name -> name of the other one."""
    spans = []
    for name, tensor in tensors_of(model).items():
        if tensor.numel() and tensor.layout is torch.strided:
            steps = zip(tensor.shape, tensor.stride(), strict=True)
            last = sum((size - 1) * stride for size, stride in steps)
            start = tensor.data_ptr()
            spans.append((start, start + (last + 1) * tensor.element_size(), name))
    shared: dict[str, str] = {}
    furthest, owner = 0, ""
    for start, end, name in sorted(spans):
        if start < furthest:
            shared[name] = owner
            shared.setdefault(owner, name)
        if end > furthest:
            furthest, owner = end, name
    return shared
