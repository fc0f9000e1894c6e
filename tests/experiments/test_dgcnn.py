import pytest
import torch
from torch.nn import functional

import ramify
from experiments.s2d.points import dgcnn
from ramify.commands.jobs import try_model
from ramify.errors import RamifyError
from ramify.models import build


@pytest.fixture
def net():
    model = dgcnn.build(classes=5, width=4, neighbours=4)
    for layer in model.edges:
        torch.nn.init.uniform_(layer.norm.running_mean)
        torch.nn.init.uniform_(layer.norm.running_var, 0.5, 2)
    return model.eval()


def test_size_at_the_usual_widths():
    model = dgcnn.build()
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_809_576
    assert [layer.conv.out_channels for layer in model.edges] == [64, 64, 128, 256]
    assert [layer.neighbours for layer in model.edges] == [20] * 4


def test_width_is_that_of_every_edge_layer():
    model = build("experiments.s2d.points.dgcnn:build", dataset_shape=(3, 32), classes=10, width=8)
    assert [layer.conv.weight.shape[:2] for layer in model.edges] == [(8, 6), *[(8, 16)] * 3]
    assert [model.embedding[0].out_channels, model.head[0].out_features] == [128, 64]
    assert model.head[4].out_features == 32


def test_nearest_points():
    points, metric = torch.randn(3, 11, 5), torch.rand(5)
    found = dgcnn.nearest(points, metric, 4)
    distances = torch.cdist(points * metric.sqrt(), points * metric.sqrt())
    assert torch.equal(found, distances.argsort(dim=2)[:, :, :4])
    assert torch.equal(found[:, :, 0], torch.arange(11).expand(3, -1))  # itself comes first


def test_copies_of_a_channel_share_what_it_counts_for():
    points = torch.randn(2, 30, 3)
    twice = points[:, :, [0, 1, 2, 2, 2]]
    shared = torch.tensor([1, 1, 0.5, 0.25, 0.25])
    expected = dgcnn.nearest(points, torch.ones(3), 6)
    assert torch.equal(dgcnn.nearest(twice, shared, 6), expected)
    assert not torch.equal(dgcnn.nearest(twice, torch.ones(5), 6), expected)


def test_edge_layer_point_by_point(net):
    layer, features = net.edges[1], torch.randn(2, 4, 9)
    found = dgcnn.nearest(features.transpose(1, 2), layer.metric, 4)
    for cloud in range(2):
        for i in range(9):
            own, results = features[cloud, :, i], []
            for j in found[cloud, i]:
                edge = torch.cat([features[cloud, :, j] - own, own])
                made = layer.norm((layer.conv.weight[:, :, 0, 0] @ edge)[None, :, None, None])
                results.append(functional.leaky_relu(made.flatten(), 0.2))
            expected = torch.stack(results).max(0).values
            torch.testing.assert_close(layer(features)[cloud, :, i], expected)


def test_the_order_of_the_points_does_not_matter(net):
    clouds = torch.randn(2, 3, 20)
    torch.testing.assert_close(net(clouds[:, :, torch.randperm(20)]), net(clouds))


def test_the_graph_follows_the_features(net):
    clouds = torch.randn(1, 3, 20)
    features = net.edges[0](clouds)
    first = dgcnn.nearest(clouds.transpose(1, 2), torch.ones(3), 4)
    second = dgcnn.nearest(features.transpose(1, 2), torch.ones(4), 4)
    assert not torch.equal(first.sort(2).values, second.sort(2).values)


def test_every_layer_splits_without_a_change(net):
    clouds = torch.randn(2, 3, 20)
    before = net(clouds)
    graph = ramify.trace(net, clouds[:1])
    able = [group for group in graph.groups if group.can_split]
    assert [group.width for group in able] == [4, 4, 4, 4, 64, 32, 16]
    assert set(graph["edges.0.conv"].consumers) == {
        "edges.1.metric",
        "edges.1.conv.weight",
        "embedding.0.weight",
    }
    ramify.apply(graph, [ramify.Split(group.name, 2, (0.25, 0.75)) for group in able])
    assert net.edges[1].metric.tolist() == [1, 1, 0.25, 1, 0.75]
    assert net.edges[1].conv.weight.shape == (5, 10, 1, 1)
    torch.testing.assert_close(net(clouds), before)
    net.edges[1].reset_parameters()
    assert net.edges[1].metric.tolist() == [1] * 5


def test_fewer_points_than_neighbours(net):
    with pytest.raises(RamifyError, match=r"does not run on inputs of shape \(1, 3, 3\)"):
        try_model(net, torch.randn(1, 3, 3))


def test_what_each_sample_loses_can_be_told_in_every_layer(net):
    clouds, labels = torch.randn(5, 3, 20), torch.arange(5)

    def loss(model, batch):
        return functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    graph = ramify.trace(net, clouds[:1])
    proposals = ramify.GaussNewton().propose(graph, loss, [(clouds, labels)])
    splits = {
        (proposal.edit.group, proposal.edit.channel)
        for proposal in proposals
        if isinstance(proposal.edit, ramify.Split)
    }
    able = [group for group in graph.groups if group.can_split]
    assert splits == {(group.name, channel) for group in able for channel in range(group.width)}
