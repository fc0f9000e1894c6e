"""Genotypes: text and JSON both ways."""

from __future__ import annotations

import random

import pytest

import ramify
from ramify.cells import DARTS, DARTS_V2, NATS, Genotype
from tests.cells.spaces import ODD, drawn, nats_strings

V2 = """Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0),
('sep_conv_3x3', 1), ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0),
('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1),
('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), ('skip_connect', 2),
('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])"""


def test_the_text_of_darts():
    genotype = Genotype.parse(V2)
    assert genotype == DARTS_V2
    assert genotype["normal"][3] == (("skip_connect", 0), ("dil_conv_3x3", 2))
    assert genotype.text.startswith("Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1)")
    assert "normal_concat=range(2, 6), reduce=[" in genotype.text
    assert genotype.share("skip_connect") == 5 / 16


@pytest.mark.parametrize("space", [DARTS, NATS, ODD], ids=lambda space: space.name)
def test_text_and_json_there_and_back(space):
    generator = random.Random(1)
    for _ in range(50):
        genotype = drawn(space, generator)
        assert space.check(genotype) is genotype
        assert space.parse(genotype.text) == genotype
        assert Genotype.from_json(genotype.to_json()) == genotype
        assert hash(genotype) == hash(space.parse(genotype.text))


def test_strings_of_nats_stay_as_they_are():
    for text in nats_strings(50):
        assert Genotype.parse(text).text == text


def test_several_kinds_without_the_form_of_darts():
    space = DARTS(keep=1, name="LEAN")
    genotype = drawn(space, random.Random(0))
    assert genotype.text.startswith("normal=|")
    assert "; reduce=|" in genotype.text
    assert space.parse(genotype.text) == genotype


@pytest.mark.parametrize(
    "text",
    [
        "",
        "|none~0",
        "|none~0|none|",
        "none~0",
        "|none~0|+",
        "Genotype(",
        "Genotype(normal=[('a', 0)])",
        "Genotype([('a', 0), ('b', 1)])",
        "Genotype(normal=[('a', 0), ('b', 1)], normal_concat=[3])",
        "Genotype(normal=[('a', 0), ('b', 1), ('c', 0)], normal_concat=[2])",
        "Genotype(normal=[__import__('os').getcwd(), ('b', 1)], normal_concat=[2])",
        "Genotype(normal=[('a', 0), ('b', 1)], normal_concat=range(2, 3)) + 1",
    ],
)
def test_other_texts_are_refused(text):
    with pytest.raises(ramify.RamifyError, match="is not the text of a genotype"):
        Genotype.parse(text)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"space": "NATS", "inputs": 1, "cells": 3}'])
def test_other_json_is_refused(text):
    with pytest.raises(ramify.RamifyError, match="not the JSON of a genotype"):
        Genotype.from_json(text)


@pytest.mark.parametrize(
    "space, text, message",
    [
        (DARTS, "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|", "give a genotype of this space"),
        (NATS, "|none~0|+|none~0|none~1|", "has 2 states, those of space NATS have 3"),
        (NATS, "|max~0|+|none~0|none~1|+|none~0|none~1|none~2|", "operation max of the cell cell"),
        (NATS, "|none~1|+|none~0|none~1|+|none~0|none~1|none~2|", "state 1 of the cell cell reads"),
    ],
)
def test_genotypes_of_other_spaces_are_refused(space, text, message):
    with pytest.raises(ramify.RamifyError, match=message):
        space.network(text, channels=4, cells=3)
