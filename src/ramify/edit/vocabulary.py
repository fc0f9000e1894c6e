"""`ramify.keep_tokens`: cuts a vocabulary to the kept tokens, in the embedding and the head.

The rows of an embedding are not channels: the token ids in the inputs look them up. So the caller
chooses the tokens to keep, and gives the model their new ids from then on.

Legend: `V` tokens, `K` of them kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves, tree_map

from ramify.arguments import each_of, is_whole
from ramify.edit.apply import carry_out, several_followers
from ramify.edit.carry import Follower, Swap
from ramify.edit.optimizers import several
from ramify.edit.plan import Plan, check_current
from ramify.errors import RamifyError
from ramify.tracing import ChannelGraph
from ramify.tracing.contraction import LOOKS_UP, MOVES
from ramify.tracing.dims import Atom, Term, resolve
from ramify.tracing.indexing import Change, Index, sources, touches
from ramify.tracing.recorder import arguments, call, record
from ramify.tracing.unharmed import unharmed
from ramify.tracing.untouched import alone
from ramify.tracing.verify.comparison import near_equal

_NUMBERS = re.compile(r"^(padding|pad)_idx$|_token_(id|idx|index)$")
"""Names of attributes that hold a token id, such as `pad_token_id` and `padding_idx`."""


def keep_tokens(
    graph: ChannelGraph,
    tokens: Iterable[int],
    *,
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    followers: Follower | Iterable[Follower] = (),
) -> ChannelGraph:
    r"""Cut the vocabulary of a model to some tokens, in the embedding and the head.

    With kept tokens :math:`t_0 < t_1 < \dots < t_{K-1}`, token :math:`t_j` gets the id :math:`j`,
    and the logits of the kept tokens stay the same. This is checked on the inputs of the trace,
    with removed tokens replaced by :math:`t_0`. The ids of special tokens (`pad_token_id`,
    `padding_idx`) and a configuration's `vocab_size` are updated.

    Args:
        graph: the graph of the model, from `ramify.trace` on inputs that hold token ids.
        tokens: the ids of the tokens to keep, special ones included, in any order.
        optimizer: the optimizer (or several) whose state is updated too.
        followers: models or state dictionaries with the same names and shapes, which are edited
            too.

    Returns:
        The graph of the edited model, on the same inputs with the new token ids.

    Raises:
        RamifyError: the inputs index no embedding, an id is not in the vocabulary, a special
            token would be removed, or the outputs would change. Nothing has changed then.

    Example:
        >>> import ramify, torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 20))
        >>> graph = ramify.trace(net, torch.tensor([[3, 7, 12]]))
        >>> before = net(torch.tensor([[3, 12]]))
        >>> graph = ramify.keep_tokens(graph, [3, 5, 12])  # which are 0, 1 and 2 from now on
        >>> net[0].num_embeddings, net[1].out_features
        (3, 3)
        >>> torch.allclose(net(torch.tensor([[0, 2]])), before[..., [3, 5, 12]], atol=1e-6)
        True
    """
    with alone():
        check_current(graph)
        places, rows = _looked_up(graph)
        kept = _checked(tokens, rows[0].size)
        optimizers, following = several(optimizer), several_followers(followers)
        with unharmed(graph.model, *optimizers, *following):
            return _keep(graph, places, rows, kept, optimizers, following)


def _keep(
    graph: ChannelGraph,
    places: set[int],
    rows: Sequence[Atom],
    kept: Index,
    optimizers: Sequence[Optimizer],
    followers: Sequence[Follower],
) -> ChannelGraph:
    size, number = rows[0].size, np.zeros(rows[0].size, dtype=np.int64)
    change = Change(kept, np.ones(len(kept)))
    changes = dict.fromkeys([*rows, *_heads(graph, size)], change)
    # A run without the removed tokens, and its outputs for the kept ones.
    stays = np.where(np.isin(np.arange(size), kept), np.arange(size), kept[0])
    known = _renumbered(graph.inputs, places, stays)
    before = record(graph.model, lambda: call(graph.model, known), known)
    expected = []
    for ref, result in zip(graph.tapes[0].outputs, before.results, strict=True):
        for dim, term in enumerate(graph.flow.history[0][ref.index]):
            if touches(whole := resolve(term), changes):
                index = torch.from_numpy(sources(whole, changes)).to(result.device)
                result = result.index_select(dim, index)
        expected.append(result)
    # New ids for the special tokens and for the tokens in the inputs.
    number[kept] = np.arange(len(kept))
    swap = Swap()
    for owner, name, value in _special(graph.model, kept, number):
        swap.attribute(owner, name, value)

    def check(edited: ChannelGraph) -> None:
        if not near_equal(replace(before, results=expected), edited.tapes[0]):
            raise RamifyError(
                "with these tokens alone the model does not compute what it did before: its "
                "forward uses the numbers of tokens in a way that the trace did not see"
            )

    return carry_out(
        graph,
        Plan(changes, []),
        optimizers,
        followers,
        swap=swap,
        check=check,
        renew=lambda given: _renumbered(given, places, number[stays]),
    )


def _looked_up(graph: ChannelGraph) -> tuple[set[int], list[Atom]]:
    """Find the input tensors that hold token ids, and the embedding rows that they look up.

    Returns:
        (their indices among the tensors of the inputs, the axes of the rows).

    Raises:
        RamifyError: there is no such tensor.
    """
    tape, found = graph.tapes[0], list[tuple[Term, int]]()
    made_of = {index: place for place, index in enumerate(sorted(tape.inputs))}
    for op in tape.ops:
        inputs = op.inputs()
        if op.name in LOOKS_UP | {"aten::embedding"} and len(inputs) == 2:
            name, place = tape.names.get(inputs[0].index), made_of.get(inputs[1].index)
            if name is not None and place is not None:
                found.append((resolve(graph.flow.param_dims[name][0]), place))
        elif op.name in MOVES and len(inputs) == 1 and inputs[0].index in made_of:
            made_of.update((ref.index, made_of[inputs[0].index]) for ref in op.results())
    size = max((term.size for term, _ in found), default=0)
    rows = {term: None for term, _ in found if isinstance(term, Atom) and term.size == size}
    if not rows:
        raise RamifyError(
            f"no embedding of {type(graph.model).__name__} looks up what the model was traced on: "
            "trace it on token numbers"
        )
    return {place for term, place in found if term in rows}, list(rows)


def _heads(graph: ChannelGraph, size: int) -> list[Atom]:
    """The axes of the outputs that have an entry for each token."""
    own = getattr(graph.model, "get_output_embeddings", None)
    if callable(own) and own() is None:  # a transformers model without an output per token
        return []
    terms = (term for ref in graph.tapes[0].outputs for term in graph.flow.history[0][ref.index])
    wholes = dict.fromkeys(map(resolve, terms))
    return [term for term in wholes if isinstance(term, Atom) and term.size == size]


def _checked(tokens: Iterable[int], size: int) -> Index:
    """The kept tokens in order.

    Returns:
        (K,), each once.

    Raises:
        RamifyError: an id is not in the vocabulary, or no token is given.
    """
    given = each_of(tokens, "tokens", "numbers of tokens")
    for token in given:
        if not is_whole(token) or not 0 <= token < size:
            raise RamifyError(
                f"the model has tokens 0 to {size - 1}, and one of those to keep is {token!r}"
            )
    if not given:
        raise RamifyError("no token would be left: name those to keep")
    return np.unique(np.array(given, dtype=np.int64))


def _renumbered(inputs: Any, places: set[int], number: Index) -> Any:
    """The inputs with new token ids; numbers that are no ids, such as -100, stay."""
    table = torch.from_numpy(number)
    seen: dict[int, int] = {}
    for leaf in tree_leaves(arguments(inputs)):
        if isinstance(leaf, Tensor):
            seen.setdefault(id(leaf), len(seen))

    def renumber(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or seen.get(id(leaf)) not in places:
            return leaf
        inside = (leaf >= 0) & (leaf < len(number))
        new = table.to(leaf.device)[leaf.long().clamp(0, len(number) - 1)].to(leaf.dtype)
        return torch.where(inside, new, leaf)

    return tree_map(renumber, inputs)


def _special(
    model: nn.Module, kept: Index, number: Index
) -> Iterator[tuple[Any, str, int | list[int]]]:
    """The attributes that hold the ids of special tokens, and the vocabulary size.

    Yields:
        (module or configuration, attribute, new value).

    Raises:
        RamifyError: a special token would be removed.
    """
    size = len(number)
    owners: dict[int, Any] = {id(module): module for module in model.modules()}
    for module in list(owners.values()):
        for name in ("config", "generation_config"):
            config = vars(module).get(name)
            for each in (config, *vars(config).values()) if hasattr(config, "to_dict") else ():
                if hasattr(each, "to_dict"):
                    owners[id(each)] = each
    for owner in owners.values():
        for name, value in list(vars(owner).items()):
            if name == "vocab_size" and value == size and isinstance(owner, nn.Module):
                yield owner, name, len(kept)
            if not _NUMBERS.search(name):
                continue
            held = value if isinstance(value, list) else [value]
            if not held or not all(type(token) is int and 0 <= token < size for token in held):
                continue
            for token in held:
                if token not in kept:
                    raise RamifyError(
                        f"token {token} is the `{name}` of a {type(owner).__name__}: keep it too, "
                        f"or set that to None first"
                    )
            new = [int(number[token]) for token in held]
            yield owner, name, new if isinstance(value, list) else new[0]
