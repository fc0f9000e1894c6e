"""Training: Adam on the mean squared error, with the gradient in closed form, in NumPy.

For tensors this small, autograd and single torch operations are almost all overhead: the closed
form in NumPy trains the same network in a tenth of the time. The tests compare the gradient with
autograd and the steps with `torch.optim.Adam`.

Shape letters: `S` points, `W` neurons.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments.s2d.rbf.network import RBF
from experiments.s2d.rbf.task import Task

RATE = 0.005
FIRST, SECOND, GUARD = 0.9, 0.999, 1e-8  # Adam's β₁, β₂ and ε, as torch has them
EVERY = 100  # iterations between two points of a loss curve
REPORT = 500  # iterations between two calls of `tick`
FLOOR = -700.0  # exp is many times slower where it underflows; e^-700 is 1e-304

Tick = Callable[[int], None]
Numbers = NDArray[np.float64]


@dataclass
class Adam:
    """Adam over the parameters of one network, as rows θ₁, θ₂ and w.

    Attributes:
        first: (3, W), running mean of gradients.
        second: (3, W), running mean of their squares.
        steps: number of steps so far.
    """

    first: Numbers
    second: Numbers
    steps: int = 0

    def step(self, values: Numbers, gradient: Numbers) -> None:
        """Update the values (3, W) in place, with the papers' learning rate."""
        self.steps += 1
        self.first += (1 - FIRST) * (gradient - self.first)
        self.second += (1 - SECOND) * (gradient * gradient - self.second)
        root = np.sqrt(self.second / (1 - SECOND**self.steps)) + GUARD
        values -= RATE / (1 - FIRST**self.steps) * self.first / root


def optimizer_of(net: RBF) -> Adam:
    """A new Adam at the papers' learning rate."""
    zeros = np.zeros((3, net.hidden.out_features))
    return Adam(zeros, zeros.copy())


def gradient(values: Numbers, points: Numbers, y: Numbers, into: Numbers) -> float:
    r"""The gradient of the mean squared error with respect to every parameter.

    With :math:`z_{js} = \theta_{j1} x_s + \theta_{j2}`, :math:`a = e^{-z^2/2}` and
    :math:`r = w a - y`:

    .. math:: \partial_{w_j} = \tfrac{2}{S} \sum_s r_s a_{js}, \quad
              \partial_{\theta_{j2}} = -\tfrac{2}{S} \sum_s r_s w_j a_{js} z_{js}, \quad
              \partial_{\theta_{j1}} = -\tfrac{2}{S} \sum_s r_s w_j a_{js} z_{js} x_s

    Args:
        values: (3, W), rows θ₁, θ₂ and w.
        points: (2, S), rows x and ones.
        y: (S,).
        into: (3, W), receives the gradient.

    Returns:
        The mean squared error.
    """
    out = values[2]
    z = values[:2].T @ points
    a = np.square(z)
    a *= -0.5
    np.maximum(a, FLOOR, out=a)
    np.exp(a, out=a)
    residual = out @ a
    residual -= y
    loss = float(residual @ residual) / len(y)
    residual *= 2.0 / len(y)
    into[2] = a @ residual
    a *= z
    a *= residual
    into[:2] = points @ a.T
    into[:2] *= -out
    return loss


def fit(
    net: RBF, task: Task, optimizer: Adam, iterations: int, tick: Tick, frozen: int = 0
) -> list[float]:
    """Train for a number of iterations.

    Args:
        net: the network, changed in place.
        task: the fitting task.
        optimizer: of the network.
        iterations: Adam steps.
        tick: called from time to time with the iterations done since the last call.
        frozen: number of first neurons whose incoming weights are not trained.

    Returns:
        The loss before every `EVERY`-th iteration.
    """
    x, y = task.x[:, 0].numpy(), task.y[:, 0].numpy()
    points = np.stack([x, np.ones_like(x)])
    parameters = (net.hidden.weight, net.hidden.bias, net.out.weight)
    rows = [parameter.detach().view(-1).numpy() for parameter in parameters]
    values, slopes, curve = np.stack(rows), np.empty((3, len(rows[0]))), []
    for iteration in range(iterations):
        loss = gradient(values, points, y, slopes)
        slopes[:2, :frozen] = 0.0  # and with no moments yet, Adam leaves these alone
        optimizer.step(values, slopes)
        if iteration % EVERY == 0:
            curve.append(loss)
        if (iteration + 1) % REPORT == 0:
            tick(REPORT)
    for row, trained in zip(rows, values, strict=True):
        row[:] = trained  # the memory of the network's own parameters
    tick(iterations % REPORT)
    return curve
