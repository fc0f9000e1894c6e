"""The theorems: their studies against other computations, and the command, at a size of seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.theory import convex, curvature, neurons, noise, particles
from experiments.theory.__main__ import main


def test_the_particles_rest_at_an_optimum_and_its_gradient_is_the_slope() -> None:
    still = particles.optimum()
    assert np.abs(particles.loss_and_gradient(still)[1]).max() < 1e-7
    loss, slope = particles.loss_and_gradient(particles.START)
    near = particles.START + np.array([1e-6, 0.0])
    assert (particles.loss_and_gradient(near)[0] - loss) / 1e-6 == pytest.approx(slope[0], rel=1e-4)


def test_no_distribution_nearby_is_better_than_the_split_to_second_order() -> None:
    still = particles.optimum()
    for radius in (0.1, 0.02):
        measured, expected = particles.split(still, radius)
        best = particles.steepest(still, radius, 21)
        assert measured == pytest.approx(expected, rel=radius**2)
        assert measured <= best == pytest.approx(expected, rel=radius**2)


def test_the_lemma_bounds_the_error_of_drawn_networks() -> None:
    pairs = neurons.lemma(1, 8)
    assert all(0 < error < bound for error, bound in pairs)


def test_a_split_brings_what_the_theorem_asks_for() -> None:
    found = neurons.descent(1, 4, training=False)
    assert found["neurons"] == [1, 3, 5, 7, 9]
    assert found["loss"] == sorted(found["loss"], reverse=True)
    assert all(share >= 1 for share in found["share"])
    assert found["allowed"]["0.01"] > found["allowed"]["0.1"] > 4


def test_binary_splits_bring_what_the_theorem_asks_for_while_weights_are_at_least_1() -> None:
    found = neurons.descent(1, 4, training=False, copies=2, width=3)
    assert found["neurons"][:3] == [3, 4, 5]
    assert found["loss"] == sorted(found["loss"], reverse=True)
    assert all(share >= 1 for share in found["share"])
    assert found["allowed"]["0.1"] > neurons.descent(1, 0, training=False)["allowed"]["0.1"]
    alone = neurons.Network(torch.zeros(1, neurons.INPUTS), torch.full((1,), 0.5))
    assert neurons._chosen([], alone) is None


def test_the_gap_of_a_convex_lagrangian_falls_below_the_bound() -> None:
    found = convex.study(200)
    assert found["gap"] == sorted(found["gap"], reverse=True)
    assert all(0 < gap < bound for gap, bound in zip(found["gap"], found["bound"], strict=True))
    assert max(convex.rates().values()) < 1 / (3 * convex.SMOOTHNESS)
    # the largest curvature is that of the Lagrangian where h'' = 3 in both losses
    rows = torch.tensor([[4.0, -1, -3], [-1, 4, 3], [-3, 3, 6]])
    assert 9 < torch.linalg.eigvalsh(rows)[-1] < convex.SMOOTHNESS


def test_the_curvature_of_a_least_squares_loss() -> None:
    found = {row["rank"]: row for row in curvature.study(20)}
    assert all(row["off"] < 1e-9 for row in found.values())
    assert found[1]["shares"] == pytest.approx([1] * 20)
    assert all(0 <= share <= 1 + 1e-9 for row in found.values() for share in row["shares"])
    assert max(found[8]["shares"]) < 0.99
    # against the derivatives of the loss itself
    a, b, z, move = torch.randn(3, 5), torch.randn(3), torch.randn(5), torch.randn(5)

    def loss(z: torch.Tensor) -> torch.Tensor:
        return (a @ z - b).square().sum() / 2

    slope = torch.func.grad(loss)(z)
    true = move @ torch.func.hessian(loss)(z) @ move / 2
    expected = (slope @ move) ** 2 / (4 * loss(z)) / true
    torch.testing.assert_close(curvature.shares(a, b, z, move[None])[0], expected)


def test_the_gap_of_noisy_steps_ends_at_the_exact_floor_below_the_bound() -> None:
    rate = noise.largest_rate()
    curve = noise.gaps(rate, chains=2000, steps=300)
    held = noise.constants(rate)
    assert curve[-1] == pytest.approx(noise.floor(rate), rel=0.15)
    assert noise.floor(rate) < 2 * held["M"] * held["L"] * rate / held["mu"]
    assert rate <= 1 / (3 * held["L"])
    assert rate == pytest.approx(1 / (4 * held["C"] * held["L"]))


def test_the_command_goes_on_from_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--places", "5", "--draws", "3", "--splits", "2", "--chains", "4", "--steps", "12"]
    arguments += ["--problems", "2"]
    main(["--out", str(tmp_path), *arguments])
    first = (tmp_path / "results.jsonl").read_bytes()
    text = (tmp_path / "results.md").read_text()
    assert "Theorem 2.5" in text
    assert "more than" in text
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    for module in (particles, neurons, noise, convex, curvature):
        monkeypatch.setattr(module, "study", None)  # nothing is computed again
    main(["--out", str(tmp_path), *arguments])
    assert (tmp_path / "results.jsonl").read_bytes() == first
