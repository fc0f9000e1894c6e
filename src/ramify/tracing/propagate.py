"""The pass over a tape, which identifies the dimensions of all tensors operation by operation.

Each operation has one rule (`rules/`), which defines how dimensions flow through it and which ones
become equal. An operation without a rule freezes its inputs, with its name in the reason, so that
no wrong group is formed.
"""

from __future__ import annotations

from collections.abc import Sequence

from ramify.errors import module_in_words
from ramify.tracing.contraction import LOOKS_UP, MOVES, NUMBER_SCALES, Provenance
from ramify.tracing.dims import Atom, Fixed, unify
from ramify.tracing.flow import DimFlow
from ramify.tracing.numbers import pass_numbers, settle_ranked
from ramify.tracing.recorder import Op, Tape
from ramify.tracing.rules.registry import DimRule, rule_for
from ramify.tracing.size_relations import relate
from ramify.tracing.sizes import Use, holders
from ramify.tracing.traced_op import TracedOp

READS_VALUES = (
    "aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal", "aten::nonzero",
)  # fmt: skip
"""Operations that return a value to Python, or a size that depends on values, as in branches."""


def propagate(
    flow: DimFlow, tape: Tape, samples: Atom | None = None, uses: Sequence[Use] = ()
) -> None:
    """Follow the dimensions through one tape, adding them to the flow.

    Args:
        flow: the dimensions so far.
        tape: the recorded run.
        samples: the first dimension of every input that has one entry for each sample.
        uses: the sizes that the forward took from attributes.
    """
    flow.tape, flow.tensor_dims, flow.provenance = tape, {}, {}
    flow.unruled, flow.scalable = {}, None
    flow.numbers, flow.number_read = {}, None
    flow.history.append(flow.tensor_dims)
    # Parameters have atoms as dimensions; inputs and constants have fixed sizes.
    for index, shape in enumerate(tape.shapes):
        name = tape.names.get(index)
        if name is not None:
            flow.tensor_dims[index] = list(flow.param_dims[name])
            flow.provenance[index] = Provenance(frozenset([name]), moved=True)
        elif index in tape.inputs or index in tape.constants:
            kind = "the model's input"
            if index not in tape.inputs:
                kind = "a tensor that is no parameter, buffer or input (a constant, a cache)"
            flow.tensor_dims[index] = [Fixed(size, f"{kind} has this size") for size in shape]
            if samples is not None and index in tape.inputs and shape[:1] == (samples.size,):
                flow.tensor_dims[index][0] = samples
            flow.provenance[index] = None
    for position, op in enumerate(tape.ops):
        _apply_rule(flow, op, position)
        _note_provenance(flow, op)
        pass_numbers(flow, op, position)
    for use in uses:
        _note_use(flow, use)
    relate(flow, uses)
    settle_ranked(flow)


def _note_use(flow: DimFlow, use: Use) -> None:
    """Tie the dimensions that take their size from the same attribute."""
    for holder, term in holders(use.size, flow.dims(use.ref)[use.dim]):
        (path, name), place = holder
        known = flow.attribute_dims.setdefault(holder, term)
        unify(known, term, f"'{name}' of module '{path}' is the size of both")
        if place is None:
            flow.sized_attributes.append((path, name, (term,)))


def _apply_rule(flow: DimFlow, op: Op, position: int) -> None:
    """Apply the operation's rule to get the dimensions of its results; without one, freeze."""
    if op.name in READS_VALUES:
        flow.reads_data.add(op.module)
    rule = rule_for(op.func)
    if rule is not None:
        misfit = _misfit(flow, rule, op, position)
        if misfit is None:
            return
        what = "was called in a way that its dimension rule does not know"
        what += f" ({misfit})" if rule.own else ""
    elif op.results() or op.is_mutable:
        what = "has no dimension rule"
    else:  # no results, so nothing flows
        return
    traced = TracedOp(flow, op, position)
    traced.freeze_tensors(op.inputs(), what)
    flow.unruled[position] = traced.reason(what)
    for ref in op.results():
        traced.replace(ref, [traced.fixed(n) for n in traced.shape(ref)])
    # Input weights cannot be followed further; the graph still lists them, with this reason.
    for ref in op.inputs():
        known = flow.provenance.get(ref.index)
        for name in known.names if known is not None else ():
            flow.opaque.setdefault(name, (len(flow.contractions), traced.reason(what)))


def _misfit(flow: DimFlow, rule: DimRule, op: Op, position: int) -> str | None:
    """Call a rule; None if it gave every result dimensions of the right sizes, else the reason."""
    # A user's rule may fail in any way; built-in rules only fail on unsupported arguments.
    caught = Exception if rule.own else (AssertionError, LookupError, TypeError, ValueError)
    try:
        rule.function(TracedOp(flow, op, position, rule.acts_as))
        for ref in op.results():
            if ref.index not in flow.tensor_dims:
                return "it gave no dimensions for a result"
            sizes, shape = tuple(term.size for term in flow.dims(ref)), flow.tape.shape(ref)
            if sizes != shape:
                return f"it gave sizes {sizes} for a result of shape {shape}"
    except caught as error:
        return f"{type(error).__name__}: {error}"
    return None


def _note_provenance(flow: DimFlow, op: Op) -> None:
    """Record the parameters behind the results, and whether only their entries were moved."""
    inputs, results = op.inputs(), op.results()
    if op.name in LOOKS_UP and op.args[0].index in flow.provenance:  # rows of a weight, by index
        inputs = [op.args[0]]
    made_of = [flow.provenance.get(ref.index) for ref in inputs]
    weights = [known for known in made_of if known is not None]
    for ref in results:
        if ref.index in flow.provenance and ref in inputs and flow.provenance[ref.index] is None:
            continue
        if not weights or len(weights) < len(made_of):
            flow.provenance[ref.index] = None
            continue
        scaled = op.name in NUMBER_SCALES and len(inputs) == 1
        moved = (op.name in MOVES | LOOKS_UP or scaled) and all(known.moved for known in weights)
        names = frozenset().union(*(known.names for known in weights))
        flow.provenance[ref.index] = Provenance(names, moved)
    for ref in inputs:
        if ref.index in flow.tape.names:
            where = f"{op.name} in {module_in_words(op.module)}"
            flow.reached.setdefault(flow.tape.names[ref.index], where)
