"""The algebra of dimensions: products, sums, and what making two of them equal does."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from ramify.tracing.dims import (
    Atom,
    Fixed,
    Prod,
    Sum,
    Term,
    concat,
    factor,
    freeze,
    leaves,
    product,
    resolve,
    split,
    unify,
)
from ramify.tracing.indexing import (
    Change,
    Scaling,
    kept_positions,
    positions,
    reindex,
    repeated_atoms,
    scales_along,
    sources,
)


def shape(term: Term) -> object:
    """A term as nested tuples: atoms as their sizes, fixed sizes as strings."""
    term = resolve(term)
    if isinstance(term, Atom):
        return term.size
    if isinstance(term, Fixed):
        return str(term.size)
    return ("*" if isinstance(term, Prod) else "+", *map(shape, term.parts))


def scaled_by(atoms: Iterable[Atom]) -> Scaling:
    return lambda term, changes: scales_along(term, changes, frozenset(atoms))


def test_normal_forms() -> None:
    a = Atom(3)
    assert product([Fixed(1), a, Fixed(1)]) is a
    assert shape(product([Fixed(2), Fixed(3), a])) == ("*", "6", 3)
    assert shape(concat([Fixed(2), Fixed(3), a])) == ("+", "5", 3)
    assert shape(concat([a, a])) == ("*", "2", 3)
    assert concat([a]) is a
    assert shape(concat([])) == "0"


def test_unify_merges_and_refines() -> None:
    a, b = Atom(6), Atom(6)
    unify(a, b, "")
    assert resolve(a) is resolve(b)
    c = Atom(6)
    unify(c, product([Atom(2), Atom(3)]), "")
    assert shape(c) == ("*", 2, 3)
    unify(a, c, "")
    assert shape(b) == ("*", 2, 3)
    d, e = Atom(4), Atom(8)
    unify(concat([d, e]), concat([Atom(8), Atom(4)]), "")
    assert (shape(d), shape(e)) == (4, ("+", 4, 4))


def test_what_cannot_be_equal_is_frozen() -> None:
    a, b = product([Atom(2), Atom(9)]), product([Atom(3), Atom(6)])
    unify(a, b, "they meet")
    assert all(leaf.frozen for leaf in [*leaves(a), *leaves(b)])
    c = Atom(4)
    unify(c, Fixed(4, "an input"), "they meet")
    assert c.frozen == "an input"
    d = Atom(6)
    unify(d, product([Fixed(2), d]), "sizes")
    assert "sizes 6 and 12 meet" in d.frozen


def test_an_axis_beside_axes_of_one_channel_stays_free() -> None:
    one, a = Atom(1), Atom(6)
    unify(a, product([one, a]), "they meet")
    assert (a.frozen, one.frozen) == ("", "an axis of one channel is dropped")


def test_flags_survive_refining() -> None:
    a = Atom(6)
    freeze(a, "because")
    pair = factor(a, 2, 3)
    assert pair is not None
    assert [leaf.frozen for leaf in leaves(a)] == ["because", "because"]


def test_factor_and_split() -> None:
    a = Atom(12)
    pair = factor(a, 3, 4)
    assert pair is not None
    assert shape(a) == ("*", 3, 4)
    assert factor(a, 6, 2) is not None
    assert shape(a) == ("*", 3, 2, 2)
    assert factor(product([Atom(3), Atom(5)]), 5, 3) is None
    b = product([Atom(4), Fixed(5)])
    cut = split(b, 10)
    assert cut is not None
    assert shape(b) == ("*", ("+", 2, 2), "5")
    assert split(product([Atom(4), Fixed(5)]), 7) is None
    rows = factor(concat([Atom(6), Atom(4)]), 5, 2)
    assert rows is not None
    assert shape(rows[0]) == ("+", 3, 2)
    assert shape(rows[1]) == 2


def test_a_dimension_never_contains_itself() -> None:
    a = Atom(1)
    unify(a, Prod((Atom(1), a)), "")
    assert resolve(a) is a


def test_an_outer_product_is_seen() -> None:
    a, b = Atom(2), Atom(3)
    assert repeated_atoms(Prod((a, b, a))) == {a}
    assert repeated_atoms(Sum((a, b, a))) == set()
    assert repeated_atoms(Prod((a, Sum((b, a))))) == {a}


def terms(depth: int = 2) -> st.SearchStrategy[Term]:
    leaf = st.one_of(st.integers(1, 3).map(Atom), st.integers(1, 3).map(Fixed))
    if depth == 0:
        return leaf
    parts = st.lists(terms(depth - 1), min_size=2, max_size=3)
    return st.one_of(leaf, parts.map(product), parts.map(concat))


@given(terms(), st.data())
def test_positions_sources_and_scales_agree(term: Term, data: st.DataObject) -> None:
    """After any change, each position holds what the channels that name it say."""
    atoms = list(dict.fromkeys(leaves(term)))
    changes = {}
    for atom in atoms:
        index = st.lists(st.integers(0, atom.size - 1), min_size=1, max_size=4)
        source = np.array(data.draw(index), dtype=np.int64)
        scale = np.array([data.draw(st.sampled_from([0.5, 1.0, -2.0])) for _ in source])
        changes[atom] = Change(source, scale)
    came_from = sources(term, changes)
    scales = scales_along(term, changes, frozenset(atoms))
    expected = np.ones(len(came_from))
    for atom in atoms:
        if atom in repeated_atoms(term):
            return
        old, new = positions(term, atom), positions(term, atom, changes)
        assert old.shape[0] == atom.size
        for channel, where in enumerate(new):
            origin = changes[atom].source[channel]
            assert set(came_from[where]) <= set(old[origin])
            expected[where] *= changes[atom].scale[channel]
    np.testing.assert_allclose(scales, expected)
    values = torch.arange(term.size, dtype=torch.float64)
    moved = reindex(values, [term], changes, [scaled_by(atoms)])
    np.testing.assert_allclose(moved.numpy(), came_from * scales)


@given(terms())
def test_kept_positions_are_where_appending_leaves_them(term: Term) -> None:
    changes = {
        atom: Change(np.r_[np.arange(atom.size), 0], np.ones(atom.size + 1))
        for atom in leaves(term)
    }
    where = kept_positions(term, changes)
    assert np.array_equal(sources(term, changes)[where], np.arange(term.size))


@given(st.lists(st.tuples(st.integers(1, 3), st.booleans()), min_size=1, max_size=3), st.data())
def test_reindexing_several_dimensions(shape: list[tuple[int, bool]], data: st.DataObject) -> None:
    """Appended or in any order, each entry comes from where its dimensions say."""
    values = torch.randn([size for size, _ in shape], dtype=torch.float64)
    whole = [Atom(size) for size, _ in shape]
    changes, expected = {}, values.clone()
    for dim, (atom, (size, appended)) in enumerate(zip(whole, shape, strict=True)):
        drawn = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=3))
        source = np.array([*range(size), *drawn] if appended else drawn, dtype=np.int64)
        scale = np.array([data.draw(st.sampled_from([0.0, 1.0, -2.0])) for _ in source])
        changes[atom] = Change(source, scale)
        rows = expected.movedim(dim, -1)[..., source] * torch.from_numpy(scale)
        expected = rows.movedim(-1, dim)
    moved = reindex(values, whole, changes, [scaled_by([atom]) for atom in whole])
    assert torch.equal(moved, expected)
