"""The jobs of a run, one network each, in one folder; finished jobs are never repeated."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ramify import distributed
from ramify.commands.grow_settings import CUT, size_of
from ramify.commands.launched import check_launched
from ramify.commands.run_folder import RunFolder
from ramify.commands.settings import NetworkSettings, Settings, TrainingSettings, described
from ramify.data import Dataset, batches, load
from ramify.data.batching import in_parts
from ramify.data.labels import IMAGES
from ramify.data.metric import LOSS
from ramify.data.task import CLASSIFICATION, SEGMENTATION, TEXT, Task, outputs_of
from ramify.errors import RamifyError
from ramify.models import NAMES
from ramify.models import build as build_model
from ramify.probe.allocator import FreedMemoryKept
from ramify.probe.loss import Loss, checked_loss
from ramify.store.checkpoint import read_checkpoint
from ramify.store.model import load as load_model
from ramify.store.model import save, write_model
from ramify.tracing.recorder import evaluating
from ramify.train.epoch import Training, evaluate
from ramify.train.history import Event
from ramify.train.loop import train

EVALUATION_BATCH = 500
PROBE_BATCH = 256
RESTORE = "restore it, or begin a new run."
KEPT = ("grown", "retrained", "pruned")  # the arms whose networks are the results of a run


@dataclass(frozen=True)
class Job:
    """One network to train.

    Attributes:
        arm: Such as ``"grown"``; `ramify.report` explains each.
        seed: Its random seed.
    """

    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Such as ``grown-0``."""
        return f"{self.arm}-{self.seed}"

    def tags(self) -> dict[str, Any]:
        """The first entries of each of its events."""
        return {"job": self.name, "arm": self.arm, "seed": self.seed}


@dataclass(frozen=True)
class Shuffled:
    """The training batches of an epoch, a function only of the seed and the epoch's number.

    With several processes, each has its own part of every batch.

    Attributes:
        dataset: The data.
        settings: Batch size and device.
        seed: Seed of the order and the augmentation.
        ticked: Called before each batch with its share of the epoch, for a progress display.
    """

    dataset: Dataset
    settings: Settings
    seed: int
    ticked: Callable[[float], None]

    def __len__(self) -> int:
        """Steps per epoch; if too few images remain at the end, they join the batch before."""
        size = self.settings.batch_size
        whole, left = divmod(len(self.dataset.x_train), size)
        return max(1, whole + (left >= min(self._least, size)))

    @property
    def _least(self) -> int:
        """The fewest images in a batch: two for each process."""
        return 2 * distributed.world_size()

    def __call__(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch, on the device."""
        own, device = _own_part(), self.settings.device
        size = self.settings.batch_size
        for inputs, labels in batches(self.dataset, size, self.seed, epoch, least=self._least):
            self.ticked(1 / len(self))
            yield inputs[own].to(device), labels[own].to(device)


@dataclass(frozen=True)
class OrderedBatches:
    """Batches of samples and labels in order, which can be iterated over repeatedly.

    Attributes:
        inputs: The samples.
        labels: Their labels.
        size: Samples in a batch.
        device: The device of each batch.
    """

    inputs: Tensor
    labels: Tensor
    size: int
    device: str

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for one in zip(self.inputs.split(self.size), self.labels.split(self.size), strict=True):
            yield one[0].to(self.device), one[1].to(self.device)


@dataclass(frozen=True)
class Setup:
    """The state that all jobs of a run share.

    Attributes:
        settings: The settings of the run.
        folder: The run folder.
        dataset: The training and test data.
        log: Called with each event after it is stored.
        ticked: Called before each training step with its share of the epoch.
    """

    settings: Settings
    folder: RunFolder
    dataset: Dataset
    log: Callable[[Event], None]
    ticked: Callable[[float], None]

    def build(self) -> nn.Module:
        """The seed network, on the CPU."""
        assert isinstance(self.settings, NetworkSettings)
        return build_seed(self.settings, self.dataset)

    def record(self, event: Event) -> None:
        """Store an event, then call ``log``; rank 0 does it for all processes."""
        if distributed.is_rank_zero():
            self.folder.append(event)
            self.log(event)

    def events(self, job: Job) -> list[Event]:
        """The events of a job so far."""
        return [event for event in self.folder.events() if event["job"] == job.name]

    def inputs(self) -> Tensor:
        """One example of the network's inputs, on the device."""
        return self.dataset.x_train[:1].to(self.settings.device)

    def loss(self) -> Loss:
        """The training loss."""
        assert isinstance(self.settings, TrainingSettings)
        return self.settings.loss(self.dataset.task)

    def tags(self, job: Job) -> dict[str, Any]:
        """The first entries of each event of a job: its own tags, and those of the metric."""
        return job.tags() | self.dataset.task.metric.tags()

    def measures(self, model: nn.Module) -> dict[str, float]:
        """Metric and loss on the test samples, and the metric on as many training samples."""
        return distributed.from_rank_zero(lambda: self._measured(model))

    def _measured(self, model: nn.Module) -> dict[str, float]:
        """The measurement in this process."""
        dataset, key = self.dataset, self.dataset.task.metric.key
        count = min(len(dataset.x_test), len(dataset.x_train))
        spread = torch.linspace(0, len(dataset.x_train) - 1, count).long()

        def score(inputs: Tensor, labels: Tensor) -> tuple[float, float]:
            parts = OrderedBatches(inputs, labels, EVALUATION_BATCH, self.settings.device)
            return evaluate(model, parts, dataset.task)

        _, train_value = score(dataset.x_train[spread], dataset.y_train[spread])
        test_loss, test_value = score(dataset.x_test, dataset.y_test)
        # If the loss itself is the metric, the events already hold its value in training.
        seen = {} if key == LOSS.key else {f"train_{key}": train_value}
        return seen | {"test_loss": test_loss, f"test_{key}": test_value}

    def batches(self, job: Job) -> "Shuffled":
        """The training batches of a job."""
        return Shuffled(self.dataset, self.settings, job.seed, self.ticked)

    def keep(self, job: Job, model: nn.Module) -> None:
        """Save the network of a job if its arm is one of those that are kept."""
        if stem := stem_of(job.arm):
            self.save(model, self.folder.of_seed(stem, job.seed))

    def save(self, model: nn.Module, path: Path) -> None:
        """Save a network, so that every process can load it."""
        distributed.from_rank_zero(lambda: save(model, path))

    def kept(self, job: Job) -> nn.Module:
        """The network of a finished job whose arm is one of those that are kept, on the CPU."""
        stem = stem_of(job.arm)
        assert stem is not None
        return load_model(self.folder.of_seed(stem, job.seed), self.build)

    def training(self, job: Job) -> dict[str, Any]:
        """The keyword arguments that every training loop of a job gets."""
        return {
            "evaluate": self.measures,
            "log": self.record,
            "checkpoint": self.folder.checkpoint,
            "tags": self.tags(job),
        }

    def finish(
        self, job: Job, history: list[Event], measured: Mapping[str, float] | None = None
    ) -> None:
        """Write the result of a finished job and delete its checkpoint."""
        tested = f"test_{self.dataset.task.metric.key}"
        last = next(event for event in reversed(history) if tested in event)
        measures = {key: last[key] for key in (tested, "test_loss", "params", "macs")}
        measures |= {"steps": last["step"], "seconds": history[-1]["t"], **(measured or {})}
        self.end(job, {"t": history[-1]["t"]} | measures)

    def end(self, job: Job, result: Event) -> None:
        """Write the result event of a job and delete its checkpoint."""
        self.record({"event": "result"} | self.tags(job) | result)
        distributed.from_rank_zero(lambda: self.folder.checkpoint.unlink(missing_ok=True))


def plan(settings: Settings) -> list[Job]:
    """All jobs of a run in order: for each seed its arms, each after those that it depends on."""
    return [Job(arm, seed) for seed in settings.all_seeds for arm in settings.arms()]


def prepare(settings: NetworkSettings) -> Dataset:
    """Load the data and try the model, so that mistakes appear before a folder is created."""
    dataset = load_data(settings)
    if dataset.task.name in (SEGMENTATION.name, TEXT.name) and settings.model in NAMES:
        raise RamifyError(
            f"no built-in network, such as {settings.model}, supports {dataset.task.name}: "
            "give --model package.module:function, of a network of yours."
        )
    _warn_of_softmax(try_network(build_seed(settings, dataset), dataset), dataset.task)
    return dataset


def load_data(settings: Settings) -> Dataset:
    """Load the data of a run, after checking that its device works here."""
    try:
        torch.empty(0, device=settings.device)
    except (RuntimeError, AssertionError):  # which of them depends on how torch was built
        raise RamifyError(
            f"there is no device {settings.device!r} on this machine; give cpu, or cuda where "
            "torch finds one."
        ) from None
    check_launched(settings.device, settings.batch_size)
    task = getattr(settings, "task", None)
    return load(settings.data) if task is None else load(settings.data, task=task)


def try_classifier(model: nn.Module, dataset: Dataset) -> None:
    """Check that the task is classification and the network returns one score per class."""
    if dataset.task != CLASSIFICATION:
        raise RamifyError(
            f"cells support only classification, but {described(dataset)}; use "
            "ramify grow or ramify prune."
        )
    try_network(model, dataset)


def _warn_of_softmax(outputs: Any, task: Task) -> None:
    """Warn if a network returns probabilities although the loss applies a softmax."""
    if not task.smooths:
        return
    classes = -1 if task.softmax_last else 1
    total = outputs.double().sum(classes)
    if outputs.min() >= 0 and torch.allclose(total, torch.ones_like(total), atol=1e-3):
        told = (
            "the model returns probabilities, as after a softmax, but the cross-entropy loss "
            "applies the softmax itself, so it trains badly: return the logits instead"
        )
        if distributed.is_rank_zero():
            warnings.warn(told, stacklevel=2)


def try_network(model: nn.Module, dataset: Dataset) -> Any:
    """The output of a network for one sample, checked to fit the loss and the metric."""
    task, inputs, labels = dataset.task, dataset.x_train[:1], dataset.y_train[:1]
    found = outputs_of(try_model(model, inputs))
    own = task.own is not None
    if not own or (task.metric.measure is None and task.metric != LOSS):
        wanted = task.shape(labels, len(dataset.classes))
        if not isinstance(found, Tensor) or tuple(found.shape) != wanted:
            kind = f"a {type(found).__name__}, which has no .logits,"
            seen = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else kind
            image = task.name == CLASSIFICATION.name and inputs.ndim == IMAGES
            sample = "image" if image else "sample"
            unseen = dataset.unseen()
            raise RamifyError(
                f"the model gives {seen} for one {sample} of {dataset.name}, and {task.outputs}, "
                f"{wanted}, is needed{', or a metric of your own' if own else ''}"
                f"{f' ({unseen})' if unseen else ''}."
            )
    if own or task.metric.measure is not None:
        batch = dataset.x_train[:2], dataset.y_train[:2]
        with evaluating(model):
            checked_loss(task.loss, model, batch)
        evaluate(model, [batch], task)
    return found


def try_model(model: nn.Module, inputs: Any) -> Any:
    """The output of the model for these inputs, in evaluation mode."""
    try:
        with evaluating(model):
            return model(inputs)
    except Exception as error:
        raise RamifyError(
            f"the model does not run on inputs of shape {tuple(inputs.shape)}: "
            f"{error}{_hint(str(error), tuple(inputs.shape))}"
        ) from error


def _hint(said: str, shape: tuple[int, ...]) -> str:
    """A hint for inputs of this shape, for a model that cannot run on them."""
    if "missing" in said and "positional argument" in said:
        return (
            "; the commands call the model with one tensor of samples: give a model that takes one,"
            " or cut or grow this one in Python, where inputs may be a tuple or a dictionary"
        )
    if "same dtype" in said:
        return "; the samples are float32: build the model in float32"
    if len(shape) == 2:
        return "; these are rows of numbers, for which the built-in model is mlp"
    if len(shape) == 3:
        return "; the first number is that of the samples, as in 1,3,32,32 for an image"
    if len(shape) == 4 and shape[-1] in (1, 3) and shape[1] not in (1, 3):
        return "; images must have the shape (N, C, H, W), but these look like (N, H, W, C)"
    return ""


def run_jobs(
    settings: Settings,
    folder: RunFolder,
    dataset: Dataset,
    log: Callable[[Event], None] = lambda event: None,
    ticked: Callable[[float], None] = lambda fraction: None,
    *,
    run: Callable[[Job, Setup], None],
) -> None:
    """Run every unfinished job; a job that was interrupted resumes from its checkpoint.

    Args:
        settings: The settings stored in the folder.
        folder: The run folder.
        dataset: From :func:`prepare`.
        log: Called with each event after it is stored.
        ticked: Called before each training step with its share of the epoch.
        run: Runs one job to its end.

    Raises:
        RamifyError: From the folder, the model or the training; finished jobs are kept.
    """
    finished = distributed.from_rank_zero(lambda: settle_metrics(folder))
    before, memory = torch.get_num_threads(), FreedMemoryKept()
    torch.set_num_threads(settings.threads)
    try:
        for job in plan(settings):
            if job.name not in finished:
                run(job, Setup(settings, folder, dataset, log, ticked))
    finally:
        torch.set_num_threads(before)
        del memory


def settle_metrics(folder: RunFolder) -> set[str]:
    """Truncate the metrics to the events in the checkpoint, and return the finished jobs."""
    events = folder.events()
    finished = {event["job"] for event in events if event["event"] == "result"}
    begun = [event["job"] for event in events if event["job"] not in finished]
    history: list[Event] = []
    if folder.checkpoint.exists():
        history = read_checkpoint(folder.checkpoint).history
        if history[0]["job"] in finished:
            folder.checkpoint.unlink()
            history = []
    elif begun:
        raise RamifyError(
            f"{folder.checkpoint} is missing although {begun[0]} has started; restore it, or "
            f"remove the lines of {begun[0]} from metrics.jsonl to run that job again."
        )
    folder.rewrite([event for event in events if event["job"] in finished] + history)
    return finished


def save_unfinished(folder: RunFolder) -> None:
    """Save the network of an interrupted job, as stored in the checkpoint."""
    if not folder.checkpoint.exists():
        return
    checkpoint = read_checkpoint(folder.checkpoint)
    head, state = checkpoint.history[0], checkpoint.state
    if stem := stem_of(head["arm"]):
        write_model(folder.of_seed(stem, head["seed"]), state["recipe"], state["model"])


def stem_of(arm: str) -> str | None:
    """The file stem of an arm's network; None if it is not kept."""
    if arm.startswith(CUT):
        return f"size-{size_of(arm)}"
    return "model" if arm in KEPT else None


def build_seed(settings: NetworkSettings, dataset: Dataset) -> nn.Module:
    """The network that a run begins with, on the CPU."""
    width = {} if settings.width is None else {"width": settings.width}
    shape = tuple(dataset.x_train.shape[1:])
    return build_model(settings.model, dataset_shape=shape, classes=len(dataset.classes), **width)


def train_job(job: Job, setup: Setup, model: nn.Module, training: Training) -> None:
    """Train the network of a job to its end, keep it if its arm is kept, and write its result."""
    done = train(
        model.to(setup.settings.device),
        setup.inputs(),
        setup.loss(),
        setup.batches(job),
        training=training,
        **setup.training(job),
    )
    setup.keep(job, model)
    setup.finish(job, done.history)


def probe(setup: Setup, samples: int | None, seed: int) -> list[tuple[Tensor, Tensor]] | None:
    """This process's part of the samples that judge edits, drawn once for a job."""
    if samples is None:
        return None
    dataset, device = setup.dataset, setup.settings.device
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(dataset.x_train), generator=generator)[:samples]
    least = 2 * distributed.world_size()
    parts = [index[_own_part()] for index in in_parts(order, PROBE_BATCH, least)]
    return [
        (dataset.x_train[index].to(device), dataset.y_train[index].to(device)) for index in parts
    ]


def _own_part() -> slice:
    """The samples of a batch that belong to this process."""
    return slice(distributed.rank(), None, distributed.world_size())
