"""Updates a configuration of `transformers` or `diffusers` if one can describe the edited model.

The entries that are widths are found by trial, not by name. A model of the same class is built from
a changed copy of the configuration, on the device `meta`, which takes no memory. A changed entry is
kept if some shapes and numbers of the new model then match those of the edited one and none stop
matching. If all match in the end, the configuration takes the new values.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

from ramify.edit.config_entries import (
    Place,
    build,
    configs_of,
    draft_of,
    entries,
    entry,
    has_config,
    lists_beside,
    put,
    set_entry,
)
from ramify.tracing.modes import ABSENT, set_attribute
from ramify.tracing.recorder import arguments, copied, evaluating

MOST_BUILDS = 60  # trials for one edit
SMALL = 4096  # the largest number of elements of a tensor that a trial builds with values
MOST_RESULTS = 3  # configurations of the right shapes that are tried by running the model


class Facts(NamedTuple):
    """The properties of a model that its configuration determines."""

    shapes: dict[str, tuple[int, ...]]
    numbers: dict[tuple[str, str], Any]
    configs: dict[str, Any]
    unsaved: dict[str, Tensor]
    """The small non-persistent buffers, which the class computes from its configuration."""


@dataclass(frozen=True)
class Reordered:
    """A list of modules that lost or gained members.

    Attributes:
        count: the old number of members.
        source: for each new member, the old one that it is or copies.
    """

    count: int
    source: tuple[int, ...]


Found = dict[Place, Any]
"""Entries of a configuration, and their new values."""


_WARNED: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def configured(model: nn.Module) -> list[nn.Module]:
    """The outermost modules that a configuration describes, and that can be saved with it."""
    found: list[tuple[str, nn.Module]] = []
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{outer}.") or not outer for outer, _ in found)
        saved = callable(getattr(type(module), "save_pretrained", None))
        if saved and not inside and has_config(module):
            found.append((path, module))
    return [module for _, module in found]


def facts_of(model: nn.Module) -> Facts:
    """The shapes of a model's tensors, and the plain numbers of its modules."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    numbers = {
        (path, name): value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if type(value) in (int, float, tuple) and not name.startswith("_")
    }
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors}
    stored = model.state_dict(keep_vars=True).keys()
    unsaved = {
        name: buffer.detach().clone()
        for name, buffer in model.named_buffers()
        if name not in stored and buffer.numel() <= SMALL and not buffer.is_meta
    }
    return Facts(shapes, numbers, configs_of(model), unsaved)


def follow(
    module: nn.Module,
    before: Facts,
    still_runs: Callable[[], bool],
    lists: Sequence[Reordered] | None = None,
) -> Callable[[], None] | None:
    """Update the configuration of an edited model, or warn that none describes its shape.

    Args:
        module: the module that the configuration describes.
        before: its shapes and numbers before the edit.
        still_runs: tells whether the model computes the same with the new configuration.
        lists: if blocks were edited, the lists that lost or gained members.

    Returns:
        A function that undoes the change, if there was one.
    """
    now = facts_of(module)
    if now.shapes == before.shapes:
        return None
    # Non-persistent buffers come from the configuration, not from the kept channels.
    stored = module.state_dict(keep_vars=True).keys()
    made = {n for n, b in module.named_buffers() if n not in stored and before.shapes.get(n)}
    if not any(now.shapes[name] != before.shapes[name] for name in made):
        search = _Search(module, now, before, lists)
        for found, built in itertools.islice(search.results(), MOST_RESULTS):
            if _contradicts(before, now, search.first, built):
                continue
            numbers = _decided(before, now, built) if lists is None else {}
            undo = _take(module, found, numbers, search.copies(built))
            if still_runs():
                _WARNED.discard(module)
                vars(module).pop("save_pretrained", None)
                _warn_of_refusal(module)
                return undo
            undo()
    new, saves = module not in _WARNED, vars(module).get("save_pretrained", ABSENT)
    if new:
        _WARNED.add(module)
        warnings.warn(_SENTENCE.format(type(module).__name__), stacklevel=3)
    vars(module)["save_pretrained"] = functools.partial(_save_with_a_warning, module)

    def forget() -> None:
        set_attribute(module, "save_pretrained", saves)
        if new:
            _WARNED.discard(module)

    return forget


def _contradicts(before: Facts, now: Facts, first: Facts | None, built: Facts) -> bool:
    """Whether a model built from the configuration would compute something else.

    Args:
        before: the facts of the model before the edit.
        now: those of the edited model.
        first: those of a model built from the old configuration.
        built: those of a model built from the new one.

    Returns:
        Whether a number that the edit changed differs there, such as the groups of a norm, or a
        non-persistent buffer, such as the scale of embeddings.
    """
    changed = [place for place, value in now.numbers.items() if before.numbers.get(place) != value]
    if any(built.numbers.get(place, now.numbers[place]) != now.numbers[place] for place in changed):
        return True
    # A value that a forward changed after construction is no evidence.
    made = first.unsaved if first is not None else {}
    told = [name for name in now.unsaved if _same(before.unsaved.get(name), made.get(name))]
    return any(not _same(now.unsaved[name], built.unsaved.get(name)) for name in told)


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether two buffers exist and are equal, within the precision of the first one's dtype."""
    if one is None or other is None or one.shape != other.shape:
        return False
    slack = torch.finfo(one.dtype).eps if one.is_floating_point() else 0.0
    a, b = (tensor.to("cpu", torch.float64) for tensor in (one, other))
    return torch.allclose(a, b, rtol=2 * slack, atol=0.0, equal_nan=True)


def _decided(before: Facts, now: Facts, built: Facts) -> dict[tuple[str, str], Any]:
    """Numbers of modules that the edit did not change but that the new width would change."""
    return {
        place: value
        for place, value in built.numbers.items()
        if now.numbers.get(place) != value and now.numbers.get(place) == before.numbers.get(place)
    }


def _warn_of_refusal(module: Any) -> None:
    """Warn if the configuration class does not allow the new shape."""
    try:
        getattr(module.config, "validate", lambda: None)()
    except Exception as error:
        reason = str(error.__cause__ or error).strip().splitlines()[-1].strip()
        warnings.warn(
            f"the configuration of this {type(module).__name__} refuses its new shape, and "
            f"`save_pretrained` will too ({reason}): edit to widths that it takes, as by "
            "multiple_of=, or save the model by ramify.save and load it by ramify.load",
            stacklevel=4,
        )


def warn_of_cache(model: nn.Module, inputs: Any) -> None:
    """Warn if an edited language model does not run with a cache.

    Some models build their cache with sizes that differ from those of the layers that fill it.

    Args:
        model: the edited model.
        inputs: the inputs of the trace.
    """
    can_generate = getattr(model, "can_generate", None)
    if not callable(can_generate) or not can_generate():
        return
    args, named = arguments(copied(inputs))
    try:
        with torch.no_grad(), evaluating(model):
            model(*args, **{**named, "use_cache": True})
    except Exception as error:
        warnings.warn(
            f"with a cache this {type(model).__name__} does not run after the edit "
            f"({type(error).__name__}: {str(error)[:200]}): call it, and its `generate`, with "
            "use_cache=False, or edit other channels",
            stacklevel=3,
        )


_SENTENCE = (
    "no configuration can say the shape that this {} now has, and its `config` stays as it was: "
    "edit all layers alike, or save it by ramify.save and load it by ramify.load; what is made "
    "from the configuration (`from_pretrained`, a cache for generation) has the old sizes"
)


def _save_with_a_warning(module: Any, *args: Any, **kwargs: Any) -> Any:
    """`save_pretrained` of a model whose configuration does not describe its shape."""
    warnings.warn(_SENTENCE.format(type(module).__name__), stacklevel=2)
    return type(module).save_pretrained(module, *args, **kwargs)


class _Search:
    """Searches for configuration entries that build a model of the wanted shapes."""

    def __init__(
        self,
        module: nn.Module,
        wanted: Facts,
        before: Facts,
        lists: Sequence[Reordered] | None,
    ) -> None:
        self._module, self._wanted, self._lists = module, wanted, lists or ()
        self._known = before.shapes.keys() if lists is not None else frozenset()
        self.first: Facts | None = None
        """The facts of a model built from the configuration before the edit."""
        self._config = draft_of(module)
        self._builds = 0

    def results(self) -> Iterator[tuple[Found, Facts]]:
        """The entries to change with their new values, and the model built from them; likely first.

        Yields:
            Only results in which all shapes match.
        """
        self.first = built = _built(self._module, self._config)
        if built is not None:
            yield from self._from(built, {})

    def copies(self, built: Facts) -> dict[str, Found]:
        """The entries in which the configuration of each submodule differs."""
        old = self.first.configs if self.first is not None else {}
        found: dict[str, Found] = {}
        for path, config in built.configs.items():
            if type(old.get(path)) is type(config):
                was = dict(entries(old[path]))
                found[path] = {p: v for p, v in entries(config) if p in was and was[p] != v}
        return found

    def _from(self, built: Facts, found: Found) -> Iterator[tuple[Found, Facts]]:
        wrong = self._differences(built)
        if not wrong:
            yield found, built
            return
        better: list[tuple[int, int, Found, Facts]] = []
        for new in self._options(built):
            if found.keys() & new.keys() or self._builds >= MOST_BUILDS:
                continue
            self._builds += 1
            with _changed(self._config, new):
                tried = _built(self._module, self._config)
            left = self._differences(tried) if tried is not None else wrong
            if tried is not None and left < wrong:
                apart = sum(tried.numbers.get(k) != v for k, v in self._wanted.numbers.items())
                better.append((len(left), apart, new, tried))
        for *_, new, tried in sorted(better, key=lambda each: each[:2]):
            with _changed(self._config, new):
                yield from self._from(tried, {**found, **new})

    def _differences(self, built: Facts) -> set[tuple[str, int]]:
        """The sizes that do not match, and the parts that the edited model lost."""
        lost = (self._known & built.shapes.keys()) - self._wanted.shapes.keys()
        return _differences(built, self._wanted) | {(name, -2) for name in lost}

    def _options(self, built: Facts) -> Iterator[Found]:
        """Entries that may be the length of a list or one of the widths that differ."""
        for each in self._lists:
            for place, value in sorted(entries(self._config), key=lambda each: str(each[0])):
                if value == each.count:
                    beside = lists_beside(self._config, place, each.count)
                    new = {where: [held[i] for i in each.source] for where, held in beside.items()}
                    if new:
                        yield {place: len(each.source), **new}
                    yield {place: len(each.source)}
        for place, size in _options(self._config, built, self._wanted):
            yield {place: size}


@contextmanager
def _changed(config: Any, new: Found) -> Iterator[None]:
    """Set entries to other values inside the `with` block."""
    old = {place: entry(config, place) for place in new}
    try:
        for place, value in new.items():
            set_entry(config, place, value)
        yield
    finally:
        for place, value in old.items():
            set_entry(config, place, value)


class _LargeOnMeta(TorchFunctionMode):
    """Creates large new tensors on `meta`, so that only small ones take memory."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Create a tensor on `meta`, and again with values if it is small."""
        given = dict(kwargs or {})
        if func not in _device_constructors() or given.get("device") is not None:
            return func(*args, **given)
        made = func(*args, **{**given, "device": "meta"})
        return made if made.numel() > SMALL else func(*args, **given)


def _built(module: nn.Module, config: Any) -> Facts | None:
    """The facts of a model built from a configuration; None if it cannot be built."""
    # With values of small tensors; without them if the class mixes small and large tensors.
    for device in (_LargeOnMeta, functools.partial(torch.device, "meta")):
        with (
            contextlib.suppress(Exception),  # any error of the class about sizes that do not fit
            torch.random.fork_rng(devices=[]),
            device(),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            return facts_of(build(module, config))
    return None


def _differences(built: Facts, wanted: Facts) -> set[tuple[str, int]]:
    """The (tensor, dimension) pairs whose size does not match."""
    found = set()
    for name, shape in wanted.shapes.items():
        own = built.shapes.get(name, ())
        if len(own) != len(shape):
            found.add((name, -1))
        else:
            found |= {(name, d) for d, (a, b) in enumerate(zip(own, shape, strict=True)) if a != b}
    return found


def _options(config: Any, built: Facts, wanted: Facts) -> Iterator[tuple[Place, int]]:
    """Entries that may be the widths that differ, with their new values."""
    pairs = {
        pair
        for name, shape in wanted.shapes.items()
        for pair in zip(built.shapes.get(name, ()), shape, strict=False)
        if pair[0] != pair[1]
    }
    for place, value in sorted(entries(config), key=lambda each: str(each[0])):
        new: set[int] = set()
        for old, size in sorted(pairs):
            if value is None:
                new.add(size)
            elif old % value == 0 and (size * value) % old == 0:
                new.add(size * value // old)  # the width itself, or a factor of it
        yield from ((place, size) for size in sorted(new) if size != value)


def _take(
    module: Any,
    found: Found,
    numbers: dict[tuple[str, str], Any],
    copies: dict[str, Found],
) -> Callable[[], None]:
    """Set the new values in every configuration in a model and in its modules.

    Returns:
        A function that restores the old values.
    """
    undo_entries = put(module, found, copies)
    attributes = [(module.get_submodule(path), name, v) for (path, name), v in numbers.items()]
    kept = [(holder, name, getattr(holder, name)) for holder, name, _ in attributes]
    for holder, name, value in attributes:
        setattr(holder, name, value)

    def undo() -> None:
        undo_entries()
        for holder, name, value in kept:
            setattr(holder, name, value)

    return undo
