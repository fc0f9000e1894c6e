"""Derived networks: published counts, drop-path, auxiliary heads, stacks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ramify
from ramify import cost
from ramify.cells import DARTS, DARTS_IMAGENET, DARTS_V2, NATS, Genotype, Parts
from ramify.cells.darts_space import AuxiliaryHead
from tests.cells.spaces import nats_strings


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_published_darts_networks():
    with torch.device("meta"):
        supernet = DARTS.supernet(channels=16, cells=8)
        plain = DARTS.network(DARTS_V2, channels=36, cells=20)
        headed = DARTS.network(DARTS_V2, channels=36, cells=20, auxiliary=True)
        imagenet = DARTS_IMAGENET.network(DARTS_V2, channels=48, cells=14, classes=1000)
    # Without its logits, as the search of the public code prints it: 1.930618MB.
    assert parameters(supernet) - 2 * 14 * 8 == 1_930_618
    assert parameters(plain) == 3_349_342
    head = AuxiliaryHead(576, 10)
    assert parameters(headed) == 3_349_342 + parameters(head)
    assert parameters(imagenet) == 4_718_752


@pytest.mark.parametrize(
    "classes, base, cells, count",
    [(10, 73_306, 5, 15), (100, 79_156, 5, 5), (120, 80_456, 5, 5), (10, 73_306, 1, 100)],
)
def test_parameters_of_nats_are_the_structural_count(classes, base, cells, count):
    for text in nats_strings(count):
        with torch.device("meta"):
            network = NATS.network(text, channels=16, cells=cells, classes=classes)
        ones, threes = text.count("nor_conv_1x1"), text.count("nor_conv_3x3")
        expected = base + (28_000 * ones + 243_040 * threes) * cells // 5
        assert parameters(network) == expected, text


@pytest.mark.parametrize(
    "classes, pixels, base, each", [(10, 32, 7.78305, 3.93216), (120, 16, 1.9534, 0.98304)]
)
def test_macs_of_nats_are_the_structural_count(classes, pixels, base, each):
    for text in nats_strings(2, seed=classes):
        network = NATS.network(text, channels=16, cells=5, classes=classes).eval()
        kinds = cost.model_cost(network, torch.randn(1, 3, pixels, pixels)).by_kind
        # The benchmark counts the additions of the classifier's bias as well.
        found = (kinds["conv"] + kinds["linear"] + classes) / 1e6
        ones, threes = text.count("nor_conv_1x1"), text.count("nor_conv_3x3")
        assert found == pytest.approx(base + each * (ones + 9 * threes), abs=1e-5), text


def test_nodes_that_nothing_reaches_are_zeros():
    network = NATS.network(
        "|none~0|+|none~0|none~1|+|none~0|none~1|nor_conv_3x3~2|", channels=4, cells=1
    ).eval()
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(network(x)[0], network(2 * x)[1])


def test_drop_path_drops_edges_of_samples_and_keeps_the_mean():
    genotype = Genotype.parse("|skip_connect~0|+|none~0|none~1|+|none~0|nor_conv_1x1~1|none~2|")
    network = NATS.network(genotype, channels=4, cells=1, drop_path=0.25)
    x = torch.randn(4000, 4, 2, 2)
    cell = network.layers[0]
    whole = cell.eval()([x])
    cell.train()
    network.drop_path.rate = 0.0
    whole = cell([x])  # with the statistics of the batch
    network.drop_path.rate = 0.25
    found = cell([x])
    dropped = (found == 0).flatten(1).all(1)
    assert abs(dropped.float().mean() - 0.25) < 0.03
    kept = ~dropped
    assert torch.allclose(found[kept], whole[kept] / 0.75, atol=1e-6)
    network.eval()
    assert torch.equal(cell([x]), cell([x]))


def test_drop_path_leaves_identities_alone():
    genotype = Genotype.parse("|skip_connect~0|+|none~0|none~1|+|none~0|skip_connect~1|none~2|")
    network = NATS.network(genotype, channels=4, cells=1, drop_path=0.9)
    x = torch.randn(8, 4, 2, 2)
    assert torch.equal(network.layers[0].train()([x]), x)


@pytest.mark.parametrize("space, pixels", [(DARTS, 32), (DARTS_IMAGENET, 224)])
def test_the_auxiliary_head_reads_the_cell_two_thirds_up(space, pixels):
    network = space.network(DARTS_V2, channels=4, cells=5, auxiliary=True, classes=7)
    x = torch.randn(2, 3, pixels, pixels)
    logits, auxiliary = network.train().forward_with_auxiliary(x)
    assert logits.shape == auxiliary.shape == (2, 7)
    assert network(x).shape == (2, 7)
    auxiliary.square().sum().backward()
    reached = [layer.prepare[1][1].weight.grad is not None for layer in network.layers]
    assert reached == [True, True, True, True, False]  # 2 · 5 // 3 = 3
    assert network.head[2].weight.grad is None


def test_what_cannot_be_built_is_said():
    text = nats_strings(1)[0]
    with pytest.raises(ramify.RamifyError, match="has no auxiliary head"):
        NATS.network(text, channels=4, cells=1, auxiliary=True)
    with pytest.raises(ramify.RamifyError, match="build it with auxiliary=True"):
        NATS.network(text, channels=4, cells=1).forward_with_auxiliary(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ramify.RamifyError, match="drop_path=1.0 is not a probability"):
        NATS.network(text, channels=4, cells=1, drop_path=1.0)
    with pytest.raises(ramify.RamifyError, match="channels is 0"):
        NATS.network(text, channels=0, cells=1)
    with pytest.raises(ramify.RamifyError, match="give 3 or more, two of which reduce"):
        DARTS.supernet(channels=4, cells=2)
    with pytest.raises(ramify.RamifyError, match="reads maps of 5×5"):
        AuxiliaryHead(4, 2)(torch.zeros(1, 4, 5, 5))


@pytest.mark.parametrize("pixels", [15, 17])
def test_images_of_odd_size(pixels):
    supernet = DARTS.supernet(channels=2, cells=3)
    x = torch.randn(2, 3, pixels, pixels)
    genotype = DARTS.derive(supernet)
    assert supernet(x).shape == (2, 10)
    assert DARTS.network(genotype, channels=2, cells=3)(x).shape == (2, 10)


def test_names_that_cannot_be_are_refused():
    with pytest.raises(ramify.RamifyError, match="has 'a~b', which cannot be the name"):
        NATS(operations={"a~b": lambda c, s, searching: nn.Identity()})
    with pytest.raises(ramify.RamifyError, match="never derives pool, which is none of"):
        NATS(never=("pool",))
    with pytest.raises(ramify.RamifyError, match="no operation that can be derived"):
        NATS(never=tuple(NATS.operations))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"keep": 0}, "space NATS has keep=0: give 1 or more"),
        ({"states": 0}, "space NATS has states=0: give 1 or more"),
        ({"kinds": ()}, "name each kind of cell, once"),
        ({"kinds": ("cell", "cell")}, "name each kind of cell, once"),
        ({"kinds": ("other",)}, "a cell of kind 'cell', and its kinds are other"),
        ({"inputs": 2}, "a cell cell 1 modules in prepare, and cells have 2 input states"),
    ],
)
def test_spaces_that_do_not_fit_together_are_refused(change, message):
    with pytest.raises(ramify.RamifyError, match=message):
        NATS(**change).supernet(channels=2, cells=1)


def test_a_stack_without_cells_is_refused():
    space = NATS(stack=lambda plan: Parts([nn.Identity()], [nn.Identity()], nn.Flatten()))
    with pytest.raises(ramify.RamifyError, match="returned no cell"):
        space.supernet(channels=3, cells=1)
