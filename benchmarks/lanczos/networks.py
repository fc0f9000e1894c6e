"""The networks of the table: the papers' seed networks and a residual network, briefly trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR

from ramify.data import batches
from ramify.data.dataset import Dataset
from ramify.models import build

NETWORKS: dict[str, dict[str, Any]] = {  # name -> what `ramify.models.build` takes
    "vgg19": {"width": 16},
    "mobilenet_v1": {"width": 32},
    "resnet20": {},
}
EPOCHS = {"vgg19": 20, "mobilenet_v1": 12, "resnet20": 5}  # two to three minutes each
BATCH = 128


def trained(name: str, data: Dataset, images: int, epochs: int, folder: Path) -> nn.Module:
    """A network trained for some epochs on the first training images, in evaluation mode.

    Args:
        name: a name in `NETWORKS`.
        data: the data set.
        images: number of images.
        epochs: passes over them.
        folder: the folder that caches the weights.

    Returns:
        The network.
    """
    model = build(name, dataset_shape=data.shape, classes=len(data.classes), **NETWORKS[name])
    path = folder / f"{name}-{images}-{epochs}.safetensors"
    if path.exists():
        load_model(model, path)
        return model.eval()
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    subset = replace(data, x_train=data.x_train[:images], y_train=data.y_train[:images])
    schedule = CosineAnnealingLR(optimizer, T_max=epochs * -(-images // BATCH))
    for epoch in range(epochs):
        for x, y in batches(subset, BATCH, seed=0, epoch=epoch):
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()
    folder.mkdir(parents=True, exist_ok=True)
    save_model(model, str(path))
    return model.eval()


def sample(data: Dataset, count: int) -> list[tuple[Tensor, Tensor]]:
    """The fixed sample in batches: the last training images, which `trained` does not use."""
    x, y = data.x_train[-count:], data.y_train[-count:]
    return list(zip(x.split(BATCH), y.split(BATCH), strict=True))
