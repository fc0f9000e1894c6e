"""Export of a trained network to ONNX with torch's exporter, and a check in onnxruntime."""

import contextlib
import importlib
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ramify.commands.jobs import KEPT, load_data
from ramify.commands.retrain import saved_stem
from ramify.commands.run_folder import CONFIG, RETRAINED, RunFolder
from ramify.commands.run_kinds import kind_of
from ramify.data import Dataset
from ramify.data import load as load_named
from ramify.data.task import CLASSIFICATION, outputs_of
from ramify.errors import RamifyError, first_line
from ramify.models import build as build_model
from ramify.store.disk import sweep
from ramify.store.files import write_bytes
from ramify.store.model import load
from ramify.tracing.recorder import evaluating

SAMPLES = 256  # samples for the check in onnxruntime
CLOSE = 1e-3  # largest allowed difference of scores, relative to the largest score
NOTES, OF_TABLES = ("mean", "std", "classes"), ("features", "target")  # attributes of the data set


@dataclass(frozen=True)
class Exported:
    """The result of :func:`write_onnx`.

    Attributes:
        path: The file.
        checked: Samples whose predictions were the same in onnxruntime; None if it is not
            installed.
        error: The largest difference of a score, relative to the largest score.
    """

    path: Path
    checked: int | None
    error: float


def export_source(source: Path, given: Mapping[str, Any]) -> list[Exported]:
    """Write the networks of a run, or a saved network, as ONNX files next to them."""
    a_run = (source / CONFIG).exists()
    stored = list(networks_of_run(source, given)) if a_run else [_saved(source, given)]
    return [
        write_onnx(load(stem, build), dataset, stem.with_name(stem.name + ".onnx"))
        for stem, build, dataset in stored
    ]


def networks_of_run(
    source: Path, given: Mapping[str, Any]
) -> Iterator[tuple[Path, Callable[[], nn.Module], Dataset]]:
    """Every network of a run: its path, the function that builds it, and its training data.

    Args:
        source: The run folder.
        given: Options that a saved network needs; for a run they may only repeat its settings.

    Yields:
        One network after another, first seed first.

    Raises:
        RamifyError: The run is not finished, or an option contradicts it.
    """
    folder = RunFolder.open(source)
    for name, value in given.items():
        if folder.config().get(name) != value:
            raise RamifyError(
                f"{source} is a run folder, which records what it was trained on; leave "
                f"--{name} out."
            )
    kind = kind_of(folder.config())
    if kind.build is None:
        retrained = source / RETRAINED
        if not (retrained / CONFIG).exists():
            raise RamifyError(
                f"{source} holds an architecture without trained weights; train it by ramify "
                f"retrain {source}, then export that."
            )
        yield from networks_of_run(retrained, given)
        return
    folder.refuse_foreign(("data", "model", "space"), given)
    settings = kind.settings.read(folder.config())
    done = {e["seed"] for e in folder.events() if e["event"] == "result" and e["arm"] in KEPT}
    if not set(settings.all_seeds) <= done:
        raise RamifyError(
            f"{source} is not finished; resume it with ramify {folder.command()} --resume "
            f"{source} first."
        )
    dataset = load_data(settings)
    for seed in settings.all_seeds:
        build = partial(kind.build, settings, dataset, seed)
        yield folder.of_seed("model", seed), build, dataset


def _saved(source: Path, given: Mapping[str, Any]) -> tuple[Path, Callable[[], nn.Module], Dataset]:
    """A network that `ramify.save` wrote."""
    stem = saved_stem(source, given, "export")
    dataset = load_named(given["data"])
    settings = {"width": given["width"]} if "width" in given else {}
    shape, classes = dataset.shape, len(dataset.classes)
    build = partial(build_model, given["model"], dataset_shape=shape, classes=classes, **settings)
    return stem, build, dataset


def write_onnx(model: nn.Module, dataset: Dataset, path: Path) -> Exported:
    """Write a network as ONNX, for batches of any size, and check it on test samples.

    The metadata of the file holds, as JSON, the normalisation of its inputs (``mean`` and ``std``)
    and the names of the ``classes``; for a table also ``features`` and ``target``, the mean and
    deviation of the predicted column. The network is not changed.

    Args:
        model: The network.
        dataset: The data it was trained on.
        path: The file to write, atomically.

    Returns:
        The file, and the result of the check.

    Raises:
        RamifyError: The extra ``export`` is not installed, torch cannot export the network, or
            onnxruntime returns different scores.
    """
    needed = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if needed:
        raise RamifyError(
            f"{needed[0]} is not installed, which ONNX needs: pip install 'ramify[export]'."
        )
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    inputs = dataset.x_test[:2].to(device)
    with evaluating(model):
        content = _exported(model, inputs, dataset)
    checked, error = _compared(model, dataset, content, device)
    write_bytes(path, content)
    sweep(path.parent)
    return Exported(path, checked, error)


def _exported(model: nn.Module, inputs: Tensor, dataset: Dataset) -> bytes:
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # the exporter warns about its own internals
            program = torch.onnx.export(
                model,
                (inputs,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=["inputs"],
                output_names=["scores"],
                verbose=False,
            )
        assert program is not None  # it is None only if the exporter writes a file itself
        notes: dict[str, Any] = {name: getattr(dataset, name) for name in NOTES}
        notes |= {name: value for name in OF_TABLES if (value := getattr(dataset, name))}
        program.model.metadata_props.update({key: json.dumps(v) for key, v in notes.items()})
        content: bytes = program.model_proto.SerializeToString()
    except Exception as error:  # the exporter raises many kinds
        raise RamifyError(
            f"torch cannot export this {type(model).__name__} as ONNX "
            f"({first_line(error)}); see docs/deploy.md for what can be."
        ) from error
    finally:
        quiet.setLevel(level)
    return content


def _compared(
    model: nn.Module, dataset: Dataset, content: bytes, device: torch.device
) -> tuple[int | None, float]:
    """The number of samples with the same prediction in onnxruntime: all, or an error."""
    if importlib.util.find_spec("onnxruntime") is None:
        return None, 0.0
    inputs = dataset.x_test[:SAMPLES]
    runtime = importlib.import_module("onnxruntime")
    try:
        session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
        [found] = session.run(["scores"], {"inputs": inputs.numpy()})
    except Exception as refusal:  # onnxruntime raises many kinds
        raise RamifyError(
            f"onnxruntime {runtime.__version__} cannot run what torch exported "
            f"({first_line(refusal)}); a newer onnxruntime may."
        ) from refusal
    with evaluating(model):
        wanted = outputs_of(model(inputs.to(device))).cpu().numpy()
    error = float(np.abs(found - wanted).max() / max(float(np.abs(wanted).max()), 1e-12))
    same = len(inputs)  # only classification has a single prediction per sample
    if dataset.task.name == CLASSIFICATION.name:
        same = int((found.argmax(1) == wanted.argmax(1)).sum())
    if error > CLOSE or same < len(inputs):
        raise RamifyError(
            f"onnxruntime returns different outputs from the network: {len(inputs) - same} of "
            f"{len(inputs)} test samples are classified differently, and an output differs by up "
            f"to {error:.1e}; call torch.onnx.export yourself with suitable settings."
        )
    return same, error
