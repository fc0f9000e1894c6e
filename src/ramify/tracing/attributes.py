"""Finds the module attributes that hold sizes of dimensions, which an edit must update."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from ramify.tracing.attention.multihead import is_stock
from ramify.tracing.dims import Atom, Fixed, Prod, Sum, Term, product, resolve
from ramify.tracing.flow import DimFlow
from ramify.tracing.grouped import SETTING
from ramify.tracing.indexing import Attributes


def attributes_of(model: nn.Module, flow: DimFlow) -> Attributes:
    """Every module attribute that holds the sizes of terms."""
    found: dict[tuple[str, str], tuple[Term, ...]] = {}
    modules = dict(model.named_modules())

    def bind(path: str, name: str, terms: Sequence[Term]) -> None:
        held = vars(modules[path]).get(name)  # not a property, whose value follows by itself
        sizes = tuple(term.size for term in terms)
        if type(held) is list:
            held = tuple(held)
        if held == sizes or (len(sizes) == 1 and held == sizes[0] and type(held) is int):
            found.setdefault((path, name), tuple(map(resolve, terms)))

    for path, name, slot in _standard(modules, flow):
        bind(path, name, slot)
    for module_name, name, terms in flow.sized_attributes:
        if module_name in modules:
            bind(module_name, name, terms)
    for (path, name), at in flow.attribute_dims:
        if at is not None and path in modules:
            bind(path, name, _terms_in(path, name, vars(modules[path]).get(name, ()), flow))
    for module_name, module in modules.items():
        terms_here = _terms_of(module_name, module, flow)
        for name, value in vars(module).items():
            if type(value) is int and value > 1 and (module_name, name) not in found:
                meant = _meant(name, value, terms_here)
                bind(module_name, name, [meant] if meant is not None else [])
        if is_stock(module):
            found[module_name, "__class__"] = tuple(terms_here)
    for module_name, widths in flow.in_blocks:
        found[module_name, SETTING] = (*found.get((module_name, SETTING), ()), *widths)
    return [(path, name, tuple(map(resolve, terms))) for (path, name), terms in found.items()]


def _standard(
    modules: Mapping[str, nn.Module], flow: DimFlow
) -> Iterator[tuple[str, str, Sequence[Term]]]:
    """The dimensions that the attributes of torch's own layers hold."""
    for path, module in modules.items():
        for kinds, holder, names in _STANDARD:
            slot = _held(path, holder, flow) if isinstance(module, kinds) else None
            if slot is not None and names == ("normalized_shape",):
                yield path, names[0], slot
            elif slot is not None:
                yield from ((path, n, [term]) for n, term in zip(names, slot, strict=False))
        slot = _held(path, "weight", flow)
        if slot is not None:
            yield from ((path, n, [term]) for n, term in _of_groups(module, slot))


_STORED_AS = (
    "{}",
    "{}_orig",
    "{}_v",
    "parametrizations.{}.original",
    "parametrizations.{}.original1",
)
"""The names of a weight, including those under a parametrization that keeps its shape."""


def _held(path: str, name: str, flow: DimFlow) -> Sequence[Term] | None:
    """The dimensions of a tensor of a module, or of the one that it is computed from."""
    for pattern in _STORED_AS:
        tensor = f"{path}.{pattern.format(name)}".lstrip(".")
        if tensor in flow.aliases:
            return flow.param_dims[flow.aliases[tensor]]
    return None


def _of_groups(module: nn.Module, slot: Sequence[Term]) -> Iterator[tuple[str, Term]]:
    """The dimensions counted by the channel and group attributes of a convolution or group norm.

    They follow from the weight alone, so they also hold if a function uses the weight.

    Yields:
        (attribute, the dimension that it counts).
    """
    terms = [resolve(term) for term in slot]
    if isinstance(module, nn.GroupNorm):
        groups = _leading(terms[0], module.num_groups)
        yield from [("num_groups", groups)] if groups is not None else []
    if not isinstance(module, nn.modules.conv._ConvNd):
        return
    whole, inside = ("in_channels", "out_channels") if module.transposed else _OUT_IN
    yield whole, terms[0]
    groups = _leading(terms[0], module.groups)
    if module.groups == 1:
        yield inside, terms[1]
    elif groups is not None:
        yield "groups", groups
        yield inside, product([groups, terms[1]])


_OUT_IN = "out_channels", "in_channels"


def _leading(term: Term, size: int) -> Term | None:
    """The leading factor of a term with this size, which counts blocks of channels."""
    if term.size == size:
        return term
    parts = term.parts if isinstance(term, Prod) else ()
    found = (product(parts[:at]) for at in range(1, len(parts)))
    return next((head for head in found if head.size == size), None)


def _terms_in(path: str, name: str, values: Sequence[int], flow: DimFlow) -> list[Term]:
    """The dimensions whose sizes came from the numbers of a tuple; other numbers stay."""
    holder = path, name
    return [flow.attribute_dims.get((holder, n), Fixed(size)) for n, size in enumerate(values)]


def _terms_of(path: str, module: nn.Module, flow: DimFlow) -> list[Term]:
    """The dimensions of the tensors of a module and its children."""
    found: list[Term] = []
    held = [(path, module), *((f"{path}.{n}".lstrip("."), m) for n, m in module.named_children())]
    for prefix, each in held:
        for name, _ in each.named_parameters(recurse=False):
            slot = flow.param_dims[flow.aliases[f"{prefix}.{name}".lstrip(".")]]
            found += [term for term in map(resolve, slot) if not isinstance(term, Fixed)]
    return found


def _alike(one: Term, other: Term) -> bool:
    """Whether two resolved terms hold the same axes in the same order."""
    parts = [term.parts if isinstance(term, (Prod, Sum)) else () for term in (one, other)]
    if type(one) is not type(other) or len(parts[0]) != len(parts[1]):
        return False
    same = one is other or (isinstance(one, Fixed) and one.size == other.size)
    return same or (bool(parts[0]) and all(map(_alike, *parts)))


_WIDTHS = re.compile("channel|feature|width|planes|dim|hidden|embed|inner|units|size|^n[fx]$|^d_")
_COUNTS = re.compile("window|patch|kernel|image|img|max|vocab|num_|batch|pool|cell|grid|limit")


def _meant(name: str, value: int, terms: Sequence[Term]) -> Term | None:
    """Guess by name and size the dimension of an attribute that no forward read.

    Such an attribute has no effect; it is only kept up to date for readers.

    Returns:
        The dimension; None if the name and the sizes do not determine it.
    """
    wholes = [term for term in terms if term.size == value]
    if re.search("all_head|attn_dim|inner_dim", name):
        wholes = [term for term in wholes if isinstance(term, Prod)]
        return wholes[0] if wholes else None
    factors = [term.parts for term in terms if isinstance(term, Prod)]
    if re.search("head_(dim|size)|dim_head|size_per_head|d_kv", name):
        found = [parts[-1] for parts in factors if parts[-1].size == value]
    elif re.search("experts", name):
        found = [term for term in wholes if isinstance(term, Atom) and term.ranked]
    elif re.search("groups|n_rep", name):
        found = [part for parts in factors for part in parts[1:-1] if part.size == value]
    elif re.search("key_value|kv", name):
        found = [parts[0] for parts in factors if len(parts) == 2 and parts[0].size == value]
    elif "head" in name:
        inner = (product(parts[at:-1]) for parts in factors for at in range(len(parts) - 2, -1, -1))
        found = [term for term in inner if term.size == value]
    elif _WIDTHS.search(name) is None or _COUNTS.search(name) is not None:
        found = []
    else:
        found = wholes if all(_alike(term, wholes[0]) for term in wholes) else []
    return found[0] if found else None


_STANDARD: list[tuple[tuple[type[nn.Module], ...], str, tuple[str, ...]]] = [
    ((nn.Linear,), "weight", ("out_features", "in_features")),
    ((nn.Embedding, nn.EmbeddingBag), "weight", ("num_embeddings", "embedding_dim")),
    ((nn.Bilinear,), "weight", ("out_features", "in1_features", "in2_features")),
    ((nn.modules.batchnorm._NormBase,), "weight", ("num_features",)),
    ((nn.modules.batchnorm._NormBase,), "running_mean", ("num_features",)),
    ((nn.GroupNorm,), "weight", ("num_channels",)),
    ((nn.LayerNorm, nn.RMSNorm), "weight", ("normalized_shape",)),
    ((nn.PReLU,), "weight", ("num_parameters",)),
    ((nn.MultiheadAttention,), "in_proj_weight", ("", "embed_dim")),
    ((nn.MultiheadAttention,), "in_proj_weight", ("", "kdim")),
    ((nn.MultiheadAttention,), "in_proj_weight", ("", "vdim")),
    ((nn.MultiheadAttention,), "q_proj_weight", ("", "embed_dim")),
    ((nn.MultiheadAttention,), "k_proj_weight", ("", "kdim")),
    ((nn.MultiheadAttention,), "v_proj_weight", ("", "vdim")),
    ((nn.RNNBase,), "weight_ih_l0", ("", "input_size")),
    ((nn.RNNBase,), "weight_hh_l0", ("", "hidden_size")),
    ((nn.RNNBase,), "weight_hr_l0", ("proj_size", "hidden_size")),
    ((nn.RNNCellBase,), "weight_ih", ("", "input_size")),
    ((nn.RNNCellBase,), "weight_hh", ("", "hidden_size")),
]
