"""A vision transformer of the package `transformers` on digits: trained, grown, trained, grown."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import ramify
from ramify.data.digits import load_digits
from ramify.methods import Method

hf = pytest.importorskip("transformers", reason="the extra `transformers` is not installed")
Batch = tuple[Tensor, Tensor]


def vit() -> nn.Module:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = hf.ViTConfig(
        **sizes, intermediate_size=12, image_size=8, patch_size=4, num_channels=1, num_labels=10
    )
    return hf.ViTForImageClassification(config)


def per_sample(model: nn.Module, batch: Batch) -> Tensor:
    return cross_entropy(model(batch[0]).logits, batch[1], reduction="none")


METHODS: dict[str, Method] = {
    "S2D": ramify.SplittingDescent(step=0.03),
    "S3D": ramify.SplittingDescent(step=0.01, signed=3.0),
    "Gauss-Newton": ramify.GaussNewton(epochs=10, radius=0.2),
}


def picked(found: list[ramify.Proposal]) -> list[ramify.Proposal]:
    """The best split of every group, and the best prune of a hidden unit of an MLP."""
    best: dict[str, ramify.Proposal] = {}
    for proposal in found:
        if isinstance(proposal.edit, ramify.Split):
            best.setdefault(proposal.edit.group, proposal)
    taken = {(p.edit.group, p.edit.channel) for p in best.values()}
    prunes = (
        p
        for p in found
        if isinstance(p.edit, ramify.Prune)
        and "mlp" in p.edit.group
        and (p.edit.group, p.edit.channel) not in taken
    )
    return [*best.values(), *list(prunes)[:1]]


@pytest.mark.parametrize("name", METHODS)
def test_a_transformer_grows_by_what_was_predicted(name: str) -> None:
    """Two rounds; heads, channels inside heads and hidden units are edited together."""
    torch.manual_seed(0)
    data, net = load_digits(0), vit()
    x, y = data.x_train[:256], data.y_train[:256]
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)

    def train(epochs: int) -> None:
        net.train()
        for part in [part for _ in range(epochs) for part in torch.randperm(len(x)).split(64)]:
            optimizer.zero_grad()
            per_sample(net, (x[part], y[part])).mean().backward()
            optimizer.step()

    def mean_loss() -> float:
        with torch.no_grad():
            return float(per_sample(net.eval(), (x, y)).double().mean())

    for _ in range(2):
        train(4)
        graph = ramify.trace(net, x[:2])
        chosen = picked(METHODS[name].propose(graph, per_sample, [(x, y)]))
        split = {p.edit.group for p in chosen if isinstance(p.edit, ramify.Split)}
        assert len(chosen) == len(split) + (name == "Gauss-Newton")
        assert split <= {group.name for group in graph.groups if group.can_split}
        assert len(split) >= 5  # of two layers' heads, channels inside heads and hidden units
        before = mean_loss()
        ramify.apply(graph, [proposal.edit for proposal in chosen], optimizer=optimizer)
        grown = sum(p.gain for p in chosen if isinstance(p.edit, ramify.Split))
        rest = sum(p.gain for p in chosen if isinstance(p.edit, ramify.Prune))
        assert grown > 1e-5
        # Splits gain what they say; a prune is no small step, and known within its own size.
        assert abs(before - mean_loss() - grown - rest) <= 0.1 * grown + abs(rest)
    now = mean_loss()
    train(4)
    assert mean_loss() < now
