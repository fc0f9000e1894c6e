"""Old names that still work."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

import ramify
from ramify.cost import Cost


def test_the_splitting_index_has_its_old_name_too() -> None:
    edit, cost = ramify.Split("g", 0), Cost(1, 1)
    old = ramify.Proposal(edit, 1.0, cost, index=-2.0)
    assert old == ramify.Proposal(edit, 1.0, cost, splitting_index=-2.0)
    assert old.index == old.splitting_index == -2.0
    assert dataclasses.replace(old, gain=3.0).splitting_index == -2.0
    assert dataclasses.replace(old, index=3.0).splitting_index == 3.0
    assert pickle.loads(pickle.dumps(old)) == copy.deepcopy(old) == old
    with pytest.raises(TypeError, match="splitting_index"):
        ramify.Proposal(edit, 1.0, cost, 1.0, index=1.0)


def test_best_of_each_has_its_old_name_too() -> None:
    old = ramify.SplittingDescent(every=True)
    assert old == ramify.SplittingDescent(best_of_each=True)
    assert old.every
    assert old.best_of_each
    assert dataclasses.replace(old, every=False) == ramify.SplittingDescent()
    assert [field.name for field in dataclasses.fields(old)].count("every") == 0
