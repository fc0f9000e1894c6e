"""The jobs of a run, one network each, in one folder: what is finished is never done twice."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ramify.commands.compare import scratch, wide
from ramify.commands.config import GrowConfig, RunConfig, TrainConfig
from ramify.commands.folder import RunFolder
from ramify.data import Dataset, batches, load
from ramify.errors import RamifyError
from ramify.models import build as build_model
from ramify.store.checkpoint import read_checkpoint
from ramify.store.files import read_json
from ramify.store.model import save, write_model
from ramify.tracing.recorder import evaluating
from ramify.train.epoch import Training, cross_entropy, evaluate
from ramify.train.grow import grow
from ramify.train.history import Event
from ramify.train.loop import train

EVALUATION_BATCH = 500
PROBE_BATCH = 256
RESTORE = "restore it, or begin a new run."
KEPT = ("grown", "retrained", "pruned")  # the arms whose networks are saved


@dataclass(frozen=True)
class Job:
    """One network to train.

    Attributes:
        arm: Such as ``"grown"``; `ramify.report` says what each stands for.
        seed: Its random seed.
    """

    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Such as ``grown-0``."""
        return f"{self.arm}-{self.seed}"

    def tags(self) -> dict[str, Any]:
        """What stands in front of each of its events."""
        return {"job": self.name, "arm": self.arm, "seed": self.seed}


@dataclass(frozen=True)
class Shuffled:
    """The training batches of an epoch, a function of the seed and the epoch's number alone.

    Attributes:
        dataset: Where they come from.
        config: Batch size and device.
        seed: Of the order and the augmentation.
        ticked: Called before each batch with its share of the epoch, for a progress display.
    """

    dataset: Dataset
    config: RunConfig
    seed: int
    ticked: Callable[[float], None]

    def __len__(self) -> int:
        """Steps of an epoch; a single image left over joins the batch before it."""
        whole, left = divmod(len(self.dataset.x_train), self.config.batch_size)
        return max(1, whole + (left > 1))

    def __call__(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch, on the device."""
        for inputs, labels in batches(self.dataset, self.config.batch_size, self.seed, epoch):
            self.ticked(1 / len(self))
            yield inputs.to(self.config.device), labels.to(self.config.device)


@dataclass(frozen=True)
class Setup:
    """What every job of a run shares.

    Attributes:
        config: The settings of the run.
        folder: Where everything is kept.
        dataset: What is trained on.
        log: Called with each event once it is stored.
        ticked: Called before each training step with its share of the epoch.
    """

    config: RunConfig
    folder: RunFolder
    dataset: Dataset
    log: Callable[[Event], None]
    ticked: Callable[[float], None]

    def build(self) -> nn.Module:
        """The seed network, on the CPU."""
        assert isinstance(self.config, TrainConfig)
        return build_seed(self.config, self.dataset)

    def record(self, event: Event) -> None:
        """Store an event, then tell the watcher."""
        self.folder.append(event)
        self.log(event)

    def events(self, job: Job) -> list[Event]:
        """The events of a job so far."""
        return [event for event in self.folder.events() if event["job"] == job.name]

    def inputs(self) -> Tensor:
        """One example of the network's inputs, on the device."""
        return self.dataset.x_train[:1].to(self.config.device)

    def measures(self, model: nn.Module) -> dict[str, float]:
        """Accuracy and loss on the test samples, accuracy on as many training samples."""
        dataset, device = self.dataset, self.config.device
        count = min(len(dataset.x_test), len(dataset.x_train))
        spread = torch.linspace(0, len(dataset.x_train) - 1, count).long()

        def score(inputs: Tensor, labels: Tensor) -> tuple[float, float]:
            pairs = zip(inputs.split(EVALUATION_BATCH), labels.split(EVALUATION_BATCH), strict=True)
            return evaluate(model, ((x.to(device), y.to(device)) for x, y in pairs))

        _, train_accuracy = score(dataset.x_train[spread], dataset.y_train[spread])
        test_loss, test_accuracy = score(dataset.x_test, dataset.y_test)
        return {
            "train_accuracy": train_accuracy,
            "test_loss": test_loss,
            "test_accuracy": test_accuracy,
        }

    def training(self, job: Job) -> dict[str, Any]:
        """What every training of a job goes by, as keyword arguments of the loops."""
        return {
            "evaluate": self.measures,
            "log": self.record,
            "checkpoint": self.folder.checkpoint,
            "tags": job.tags(),
        }

    def finish(
        self, job: Job, history: list[Event], measured: Mapping[str, float] | None = None
    ) -> None:
        """Write the result of a job that is at its end; its checkpoint is no longer needed.

        Args:
            job: The job.
            history: Its events.
            measured: What is otherwise than in the last epoch.
        """
        last = next(event for event in reversed(history) if event["event"] == "epoch")
        measures = {key: last[key] for key in ("test_accuracy", "test_loss", "params", "macs")}
        measures |= {"steps": last["step"], "seconds": history[-1]["t"], **(measured or {})}
        self.record({"event": "result"} | job.tags() | {"t": history[-1]["t"]} | measures)
        self.folder.checkpoint.unlink(missing_ok=True)


def plan(config: RunConfig) -> list[Job]:
    """Every job of a run in order: for each seed its arms, each after those it depends on."""
    seeds = range(config.seed, config.seed + config.seeds)
    return [Job(arm, seed) for seed in seeds for arm in config.arms()]


def prepare(config: TrainConfig) -> Dataset:
    """Load the data and try the model, so that a mistake shows before a folder is made.

    Args:
        config: The settings of the run.

    Returns:
        The data.

    Raises:
        RamifyError: From :func:`load_data` and :func:`try_classifier`.
    """
    dataset = load_data(config)
    try_classifier(build_seed(config, dataset), dataset)
    return dataset


def load_data(config: RunConfig) -> Dataset:
    """Load the data of a run that this process can make.

    Args:
        config: The settings of the run.

    Returns:
        The data.

    Raises:
        RamifyError: The device or the data set is not there, or this is one of several processes,
            which would write into each other's folders.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RamifyError(
            "the command trains in one process, and torchrun started "
            f"{os.environ['WORLD_SIZE']}: call ramify.grow on every rank from a script of your own."
        )
    try:
        torch.empty(0, device=config.device)
    except (RuntimeError, AssertionError):  # which of them, hangs on how torch was built
        raise RamifyError(
            f"there is no device {config.device!r} on this machine; give cpu, or cuda where torch "
            "finds one."
        ) from None
    return load(config.data)


def try_classifier(model: nn.Module, dataset: Dataset) -> None:
    """Make sure that a network gives one score a class.

    Args:
        model: A network that was just built.
        dataset: What it is to be trained on.

    Raises:
        RamifyError: The model does not run, or gives something else.
    """
    scores = try_model(model, dataset.x_train[:1])
    wanted = (1, len(dataset.classes))
    if not isinstance(scores, Tensor) or tuple(scores.shape) != wanted:
        seen = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores)
        raise RamifyError(
            f"the model gives {seen} for one image of {dataset.name}, and one score a class, "
            f"{wanted}, is needed."
        )


def try_model(model: nn.Module, inputs: Any) -> Any:
    """What the model gives for these inputs, in evaluation mode.

    Args:
        model: A network that was just built.
        inputs: A batch.

    Returns:
        Its output.

    Raises:
        RamifyError: The model fails on them.
    """
    try:
        with evaluating(model):
            return model(inputs)
    except Exception as error:
        raise RamifyError(
            f"the model does not run on inputs of shape {tuple(inputs.shape)}: {error}"
        ) from error


def run_jobs(
    config: RunConfig,
    folder: RunFolder,
    dataset: Dataset,
    log: Callable[[Event], None] = lambda event: None,
    ticked: Callable[[float], None] = lambda fraction: None,
    run: Callable[[Job, Setup], None] | None = None,
) -> None:
    """Run every job that is not finished, going on from the checkpoint of the one begun last.

    Args:
        config: The settings; the folder's own.
        folder: Where everything is kept.
        dataset: From :func:`prepare`.
        log: Called with each event once it is stored.
        ticked: Called before each training step with its share of the epoch.
        run: Runs one job to its end; by default :func:`grow_or_train`.

    Raises:
        RamifyError: From the folder, the model or the training; what is finished stays.
    """
    finished = settle(folder)
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        for job in plan(config):
            if job.name not in finished:
                (run or grow_or_train)(job, Setup(config, folder, dataset, log, ticked))
    finally:
        torch.set_num_threads(before)


def settle(folder: RunFolder) -> set[str]:
    """Bring the metrics back to what the checkpoint knows, and name the finished jobs.

    Args:
        folder: The run folder.

    Returns:
        The names of the jobs that have a result.

    Raises:
        RamifyError: The folder is damaged.
    """
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
            f"{folder.checkpoint} is missing although {begun[0]} had begun; restore it, or take "
            f"the lines of {begun[0]} out of metrics.jsonl to run that job again."
        )
    folder.rewrite([event for event in events if event["job"] in finished] + history)
    return finished


def save_unfinished(config: RunConfig, folder: RunFolder) -> None:
    """Save the network of an interrupted job as it was at the checkpoint.

    Args:
        config: The settings of the run.
        folder: The run folder; without a checkpoint nothing is written.

    Raises:
        RamifyError: The checkpoint is damaged.
    """
    if not folder.checkpoint.exists():
        return
    checkpoint = read_checkpoint(folder.checkpoint)
    head, state = checkpoint.history[0], checkpoint.state
    if head["arm"] in KEPT:
        write_model(model_path(config, folder, head["seed"]), state["recipe"], state["model"])


def build_seed(config: TrainConfig, dataset: Dataset) -> nn.Module:
    """The network that a run begins with, on the CPU."""
    width = {} if config.width is None else {"width": config.width}
    shape = tuple(dataset.x_train.shape[1:])
    return build_model(config.model, dataset_shape=shape, classes=len(dataset.classes), **width)


def grow_or_train(job: Job, setup: Setup) -> None:
    """Run one job of ``ramify grow`` or ``ramify retrain`` to its end.

    Args:
        job: The job.
        setup: What the jobs of the run share.

    Raises:
        RamifyError: From the folder, the model or the training.
    """
    config = setup.config
    torch.manual_seed(job.seed)
    model, training = _network(job, setup)
    model = model.to(config.device)
    shared = {
        "loss": cross_entropy,
        "data": Shuffled(setup.dataset, config, job.seed, setup.ticked),
        "training": training,
        **setup.training(job),
    }
    if job.arm == "grown" and isinstance(config, GrowConfig):
        done = grow(model, setup.inputs(), **shared, **_growth(config, job, setup))
    else:
        done = train(model, setup.inputs(), **shared)
    if job.arm in KEPT:
        save(model, model_path(config, setup.folder, job.seed))
    setup.finish(job, done.history)


def _growth(config: GrowConfig, job: Job, setup: Setup) -> dict[str, Any]:
    """How a job edits its network."""
    return {
        "method": config.growth(job.seed),
        "rule": config.rule(),
        "rounds": config.rounds,
        "budget": config.budget,
        "probe": probe(setup, config.probe_samples, job.seed),
    }


def _network(job: Job, setup: Setup) -> tuple[nn.Module, Training]:
    """The network a job begins with, and its training: as many steps as the grown one in all."""
    assert isinstance(setup.config, TrainConfig)
    training = setup.config.training()
    if job.arm == "grown":
        return setup.build(), training
    if job.arm == "retrained":
        recipe = read_json(shape_path(setup.config, setup.folder, job.seed), RESTORE)
        return scratch(setup.build, recipe), training
    events = setup.events(Job("grown", job.seed))
    training = replace(training, epochs=sum(event["event"] == "epoch" for event in events))
    if job.arm == "seed":
        return setup.build(), training
    if job.arm == "wide":
        return wide(setup.build, setup.dataset.x_train[:1], events[-1]["params"]), training
    recipe = read_json(model_path(setup.config, setup.folder, job.seed, ".json"), RESTORE)
    return scratch(setup.build, recipe), training


def model_path(config: RunConfig, folder: RunFolder, seed: int, suffix: str = "") -> Path:
    """Where the network of a seed is kept: ``model`` for the first, ``model-SEED`` for others."""
    return folder.path / (("model" if seed == config.seed else f"model-{seed}") + suffix)


def shape_path(config: RunConfig, folder: RunFolder, seed: int) -> Path:
    """Where the shape that a seed is to train is kept, named likewise."""
    return folder.path / ("shape.json" if seed == config.seed else f"shape-{seed}.json")


def probe(setup: Setup, samples: int | None, seed: int) -> list[tuple[Tensor, Tensor]] | None:
    """The training samples that judge edits, drawn once for a job.

    Args:
        setup: What the jobs of the run share.
        samples: How many; None where all do.
        seed: Of the draw.

    Returns:
        Batches on the device; None where all samples judge.
    """
    if samples is None:
        return None
    dataset, device = setup.dataset, setup.config.device
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(dataset.x_train), generator=generator)[:samples]
    return [
        (dataset.x_train[index].to(device), dataset.y_train[index].to(device))
        for index in order.split(PROBE_BATCH)
    ]
