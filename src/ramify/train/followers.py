"""Weight averages and other copies that are edited and stored along with a network."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from ramify.arguments import each_of
from ramify.edit import Follower
from ramify.errors import RamifyError
from ramify.store.model import named_tensors


def distinct(model: nn.Module, followers: Iterable[Follower]) -> list[Follower]:
    """Check that followers are separate copies, and return them as a list.

    Args:
        model: The network that they follow.
        followers: Models or state dictionaries.

    Returns:
        The followers as a list.

    Raises:
        RamifyError: One is the model itself, two share a tensor, or one is neither a model nor a
            state dictionary of tensors.
    """
    found: list[Follower] = each_of(followers, "followers", "models and state dictionaries")
    own, seen = _memory(_tensors(model)), dict[int, int]()
    for number, follower in enumerate(found):
        tensors = _tensors(follower)
        if tensors is None:
            raise RamifyError(
                f"follower {number} is a {type(follower).__name__}; give a model or a state "
                "dictionary of tensors with the model's names."
            )
        memory = _memory(tensors)
        if memory <= own:
            raise RamifyError(
                f"follower {number} is the model itself, which grows anyway; give a copy with "
                "weights of its own, such as torch.optim.swa_utils.AveragedModel(model)."
            )
        twice = [seen[place] for place in memory - own if place in seen]
        if twice:
            raise RamifyError(
                f"followers {twice[0]} and {number} hold the same tensors; give each once."
            )
        seen |= dict.fromkeys(memory, number)
    return found


def _tensors(follower: Any) -> Mapping[str, Tensor] | None:
    if isinstance(follower, nn.Module):
        return named_tensors(follower)
    plain = isinstance(follower, Mapping) and all(isinstance(t, Tensor) for t in follower.values())
    return follower if plain else None


def _memory(tensors: Mapping[str, Tensor] | None) -> set[int]:
    return {t.data_ptr() for t in (tensors or {}).values() if t.numel()}
