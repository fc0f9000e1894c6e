"""Training: Adam on the mean squared error, with the gradient in closed form.

Autograd on tensors this small is almost all overhead; the closed form trains the same network in a
quarter of the time, and the tests hold it to autograd.

Shape letters: `S` points, `W` neurons.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Adam

from experiments.s2d.rbf.network import RBF
from experiments.s2d.rbf.task import Task

RATE = 0.005
EVERY = 100  # iterations between two points of a loss curve
REPORT = 500  # iterations between two calls of `tick`
FLOOR = -700.0  # exp is many times slower where it underflows; e^-700 is 1e-304

Tick = Callable[[int], None]


def optimizer_of(net: RBF) -> Adam:
    """A fresh Adam at the papers' learning rate."""
    return Adam(net.parameters(), lr=RATE, fused=True)


def gradient(net: RBF, x: Tensor, y: Tensor) -> Tensor:
    r"""Set `.grad` of every parameter to that of the mean squared error.

    With :math:`z_{sj} = \theta_{j1} x_s + \theta_{j2}`, :math:`a = e^{-z^2/2}` and
    :math:`r = a w - y`:

    .. math:: \partial_{w_j} = \tfrac{2}{S} \sum_s r_s a_{sj}, \quad
              \partial_{\theta_{j2}} = -\tfrac{2}{S} \sum_s r_s w_j a_{sj} z_{sj}, \quad
              \partial_{\theta_{j1}} = -\tfrac{2}{S} \sum_s r_s w_j a_{sj} z_{sj} x_s

    Args:
        net: the network.
        x: (S, 1).
        y: (S, 1).

    Returns:
        The mean squared error, a scalar.
    """
    weight, bias, out = net.hidden.weight, net.hidden.bias, net.out.weight
    with torch.no_grad():
        z = torch.addmm(bias.unsqueeze(1), weight, x.T)
        a = z.square().mul_(-0.5).clamp_(min=FLOOR).exp_()
        residual = (out[0] @ a).sub_(y[:, 0])
        scaled = residual * (2.0 / len(x))
        out.grad = (a @ scaled).unsqueeze(0)
        slopes = a.mul_(z).mul_(scaled)
        bias.grad = slopes.sum(1).mul_(out[0]).neg_()
        weight.grad = (slopes @ x).mul_(out.T).neg_()
        return residual.square().mean()


def fit(
    net: RBF, task: Task, optimizer: Adam, iterations: int, tick: Tick, frozen: int = 0
) -> list[float]:
    """Train for some iterations.

    Args:
        net: the network, changed in place.
        task: what it is fitted to.
        optimizer: of the network.
        iterations: Adam steps.
        tick: called now and then with the iterations done since the last call.
        frozen: the incoming weights of this many first neurons stay as they are.

    Returns:
        The loss before every `EVERY`-th iteration.
    """
    curve = []
    for iteration in range(iterations):
        loss = gradient(net, task.x, task.y)
        if frozen:
            for parameter in net.hidden.parameters():
                assert parameter.grad is not None
                parameter.grad[:frozen] = 0.0  # and with no moments yet, Adam leaves them alone
        optimizer.step()
        if iteration % EVERY == 0:
            curve.append(float(loss))
        if (iteration + 1) % REPORT == 0:
            tick(REPORT)
    tick(iterations % REPORT)
    return curve
