import pytest
import torch

import ramify
from experiments.s2d.prototype.network import TEMPERATURE, PrototypeNet
from ramify.models import build


@pytest.fixture
def net():
    model = PrototypeNet(in_features=12, classes=4, width=3).double()
    model.prototypes.data.normal_()
    return model


def images(count=6):
    return torch.randn(count, 1, 3, 4, dtype=torch.float64)


def near(model, batch):
    """The second term of the loss alone, one number a sample."""
    return model.explain(batch)[1]


def test_it_is_the_softmin_average_of_the_votes(net):
    x = images()
    distances = torch.cdist(x.flatten(1), net.prototypes).square() / 12
    weights = torch.softmax(-distances / TEMPERATURE, dim=1)
    torch.testing.assert_close(net(x), weights @ net.head.weight.T)


def test_the_soft_distance_is_near_the_smallest_one(net):
    x = images()
    distances = torch.cdist(x.flatten(1), net.prototypes).square() / 12
    soft = net.explain(x)[1]
    exact = -TEMPERATURE * torch.logsumexp(-distances / TEMPERATURE, dim=1)
    torch.testing.assert_close(soft, exact)
    smallest = distances.min(1).values
    assert ((soft < smallest) & (soft > smallest - TEMPERATURE * 1.1)).all()  # at most τ log 3


def test_its_prototypes_are_channels_that_split_without_a_change(net):
    x = images()
    before = net.explain(x)
    graph = ramify.trace(net, x)
    group = graph["prototypes"]
    assert (group.producers, group.carriers) == (("prototypes",), ())
    assert set(group.consumers) == {"head.weight", "share"}
    assert group.can_split
    assert group.can_prune
    ramify.apply(graph, [ramify.Split("prototypes", 1, (0.5, 0.5))])
    assert net.prototypes.shape == (4, 12)
    torch.testing.assert_close(net.share, torch.tensor([[1, 0.5, 1, 0.5]]).double())
    for now, then in zip(net.explain(x), before, strict=True):
        torch.testing.assert_close(now, then)


def test_the_splitting_index_of_a_single_prototype_in_closed_form():
    model = PrototypeNet(in_features=12, classes=4, width=1).double()
    x = images(20)
    graph = ramify.trace(model, x[:1])
    (proposal,) = ramify.SplittingDescent(eigen="exact").propose(graph, near, [x])
    gaps = x.flatten(1) - model.prototypes.detach()
    spread = torch.linalg.eigvalsh(gaps.T @ gaps / 20)[-1]
    assert proposal.splitting_index == pytest.approx(
        float(2 / 12 - 4 * spread / (12**2 * TEMPERATURE))
    )


def test_fresh_weights_of_a_resized_network():
    model = PrototypeNet(in_features=12, classes=4, width=2)
    ramify.apply(ramify.trace(model, torch.randn(2, 12)), [ramify.Split("prototypes", 0)])
    assert model.share.tolist() == [[0.5, 1, 0.5]]
    old = model.prototypes.detach().clone()
    model.reset_parameters()
    assert model.share.tolist() == [[1, 1, 1]]
    assert not torch.equal(model.prototypes, old)
    assert model.prototypes.std().item() == pytest.approx(0.1, rel=0.3)


def test_built_by_name():
    model = build(
        "experiments.s2d.prototype.network:build", dataset_shape=(1, 28, 28), classes=10, width=5
    )
    assert model.prototypes.shape == (5, 784)
