"""Train a derived network from scratch as in DARTS: auxiliary head, drop-path, cutout.

``S`` is the number of samples in a batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ramify.cells import Network
from ramify.commands.jobs import Job, Setup, Shuffled, load_data, try_classifier
from ramify.commands.retrain_settings import RetrainCellsSettings
from ramify.commands.search_settings import space_named
from ramify.cost import model_cost
from ramify.data import Dataset, cutout
from ramify.train.epoch import cross_entropy
from ramify.train.loop import train


def prepare_cells(settings: RetrainCellsSettings) -> Dataset:
    """Load the data and try the networks, so that mistakes appear before a folder is created."""
    dataset = load_data(settings)
    for seed in range(settings.seed, settings.seed + len(settings.genotypes)):
        net = build_network(settings, dataset, seed, auxiliary=settings.auxiliary > 0)
        try_classifier(net, dataset)
        if settings.auxiliary:
            with torch.no_grad():
                net.forward_with_auxiliary(dataset.x_train[:2])
    return dataset


def build_network(
    settings: RetrainCellsSettings, dataset: Dataset, seed: int, *, auxiliary: bool = False
) -> Network:
    """The network that a seed trains, on the CPU; the auxiliary head is not saved."""
    return space_named(settings.space).network(
        settings.genotype(seed),
        channels=settings.channels,
        cells=settings.cells,
        classes=len(dataset.classes),
        in_channels=dataset.shape[0],
        auxiliary=auxiliary,
    )


def run_cells(job: Job, setup: Setup) -> None:
    """Train one derived network to its end, and save it without its auxiliary head."""
    settings = setup.settings
    assert isinstance(settings, RetrainCellsSettings)
    torch.manual_seed(job.seed)
    net = build_network(settings, setup.dataset, job.seed, auxiliary=settings.auxiliary > 0)
    net = net.to(settings.device)
    history = train(
        net,
        setup.inputs(),
        partial(auxiliary_loss, settings.auxiliary, settings.label_smoothing),
        CutoutBatches(setup.batches(job), net, settings),
        training=settings.training(),
        **setup.training(job),
    ).history
    kept = build_network(settings, setup.dataset, job.seed)
    kept.load_state_dict({name: net.state_dict()[name] for name in kept.state_dict()})
    setup.keep(job, kept)
    cost = model_cost(kept, setup.dataset.x_train[:1])
    setup.finish(job, history, {"params": cost.params, "macs": cost.macs})


def auxiliary_loss(
    weight: float, smoothing: float, net: nn.Module, batch: tuple[Tensor, Tensor]
) -> Tensor:
    """Cross-entropy, plus in training the weighted one of the auxiliary head: shape (S,)."""
    if not (net.training and weight):
        return cross_entropy(net, batch, smoothing)
    assert isinstance(net, Network)
    inputs, labels = batch
    losses = [
        F.cross_entropy(scores, labels, reduction="none", label_smoothing=smoothing)
        for scores in net.forward_with_auxiliary(inputs)
    ]
    return losses[0] + weight * losses[1]


@dataclass(frozen=True)
class CutoutBatches:
    """The training batches of an epoch with cutout; the drop-path rate grows with the epochs.

    Attributes:
        shuffled: The batches without cutout.
        net: The network whose drop-path rate is set at the start of each epoch.
        settings: The strengths of both.
    """

    shuffled: Shuffled
    net: Network
    settings: RetrainCellsSettings

    def __len__(self) -> int:
        """Steps per epoch."""
        return len(self.shuffled)

    def __call__(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch, on the device."""
        self.net.drop_path.rate = self.settings.drop_path * epoch / self.settings.epochs
        for number, (inputs, labels) in enumerate(self.shuffled(epoch)):
            side = self.settings.cutout
            seeds = (self.shuffled.seed, epoch, number)
            yield (cutout(inputs, side, seeds) if side else inputs), labels
