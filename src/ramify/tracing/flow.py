"""The data of a trace: the dimensions of every tensor, and which weights read which channels.

`propagate` fills a `DimFlow` from one or several tapes; `roles`, `attributes`, `attention` and
`verify` read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import gcd

from ramify.tracing.attention.producing import RowTracer
from ramify.tracing.contraction import AxisKey, Contraction, Provenance, ScalableProduct
from ramify.tracing.dims import Atom, Sum, Term, factor, forbid_split, freeze, leaves, resolve
from ramify.tracing.recorder import Ref, Tape
from ramify.tracing.sizes import Holder


@dataclass(eq=False)
class DimFlow:
    """The dimensions of one model's tapes; those of parameters are the same in every run.

    Attributes:
        param_shapes: the shape of every parameter and buffer, by name.
        aliases: every name of every parameter and buffer -> its first name.
        buffers: the names that are buffers.
        param_dims: the dimensions of every parameter and buffer, as before any run.
        contractions: every sum over channels, in order.
        reached: the parameters and buffers that some operation read, with the first one in words.
        unruled: the latest tape's operations without a usable rule, with the reason, by position.
        opaque: parameters that such an operation read: (number of earlier contractions, reason).
        sliced: the dimensions that were cut into ranges, as they were before the cut.
        sized_attributes: (module, attribute, dimensions) of attributes that hold sizes, for modules
            that ran.
        attribute_dims: the dimension whose size the forward took from an attribute or its element.
        numbers: the latest tape's tensors whose values are indices, with the dimension that they
            index.
        number_read: the last value that Python read from one: (operation, dimension, value).
        looked_up: dimensions of weights that such indices select from: experts.
        in_blocks: (module, dimensions) whose sizes are whole blocks of memory.
        reads_data: modules whose Python read a tensor's value: their branches may differ.
        history: the dimensions of every tensor of every tape so far, by tensor number.
        scalable: the result of `attention.factors.scalable_products`; None if it was not computed
            since the dimensions last changed.
        tape: the tape of the latest run.
        tensor_dims: the dimensions of the latest tape's tensors, by number.
        provenance: the parameters that each of the latest tape's tensors is computed from; None for
            activations.
    """

    param_shapes: Mapping[str, tuple[int, ...]]
    aliases: Mapping[str, str] = field(default_factory=dict)
    buffers: frozenset[str] = frozenset()
    param_dims: dict[str, list[Atom]] = field(default_factory=dict)
    contractions: list[Contraction] = field(default_factory=list)
    reached: dict[str, str] = field(default_factory=dict)
    unruled: dict[int, str] = field(default_factory=dict)
    opaque: dict[str, tuple[int, str]] = field(default_factory=dict)
    sliced: list[Term] = field(default_factory=list)
    sized_attributes: list[tuple[str, str, tuple[Term, ...]]] = field(default_factory=list)
    attribute_dims: dict[Holder, Term] = field(default_factory=dict)
    numbers: dict[int, Term] = field(default_factory=dict)
    number_read: tuple[int, Term, int] | None = None
    looked_up: list[Term] = field(default_factory=list)
    in_blocks: list[tuple[str, tuple[Term, ...]]] = field(default_factory=list)
    reads_data: set[str] = field(default_factory=set)
    history: list[dict[int, list[Term]]] = field(default_factory=list)
    scalable: dict[Atom, list[ScalableProduct]] | None = None
    tape: Tape = field(default_factory=Tape)
    tensor_dims: dict[int, list[Term]] = field(default_factory=dict)
    provenance: dict[int, Provenance | None] = field(default_factory=dict)
    _row_tracers: list[RowTracer] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, shape in self.param_shapes.items():
            self.param_dims[name] = [Atom(size) for size in shape]
            for atom in self.param_dims[name]:
                atom.frozen = "" if atom.size else "it has no channels"

    def dims(self, ref: Ref) -> list[Term]:
        """The dimensions of a tensor of the latest tape."""
        return self.tensor_dims[ref.index]

    def is_weight(self, ref: Ref) -> bool:
        """Whether a tensor of the latest tape is computed from parameters and buffers only."""
        return self.provenance.get(ref.index) is not None

    def axis_keys(self) -> dict[Atom, AxisKey]:
        """Every leaf of every parameter and buffer, in order, with its first location."""
        found: dict[Atom, AxisKey] = {}
        for name, terms in self.param_dims.items():
            for dim, term in enumerate(terms):
                for position, atom in enumerate(leaves(term)):
                    found.setdefault(atom, (name, dim, position))
        return found

    def row_tracer(self, tape: Tape) -> RowTracer:
        """The tracer from the activations of a tape back to rows of weights, created once."""
        for known in self._row_tracers:
            if known.tape is tape:
                return known
        contractions = {read.op: read for read in self.contractions if read.tape is tape}
        made = RowTracer(tape, self.param_shapes, self.param_dims, contractions)
        self._row_tracers.append(made)
        return made

    def protect_outputs(self, edit: bool) -> None:
        """Freeze the shapes of the model's outputs; with `edit`, they may only lose channels."""
        for ref in self.tape.outputs:
            for term in self.tensor_dims.get(ref.index, []):
                (forbid_split if edit else freeze)(term, "it is an output of the model")
            if ref.index in self.numbers:
                freeze(self.numbers[ref.index], "their numbers are an output of the model")

    def tie_slices(self, positions: Sequence[int]) -> None:
        """Make slices of one axis multiples of their common size, so that their channels are tied.

        Args:
            positions: the indices in `sliced`.
        """
        for position in positions:
            term = resolve(self.sliced[position]) if position < len(self.sliced) else None
            if isinstance(term, Sum):
                common = gcd(*(piece.size for piece in term.parts))
                pair = factor(term, term.size // common, common) if common > 1 else None
                freeze(pair[0] if pair else term, "the forward cuts them at fixed places")
                self.scalable = None
