"""Ramify: any PyTorch network, grown, pruned and searched to the shape that is asked for.

The public names are those of :mod:`ramify.public`. They are imported when the first one is asked
for, so that ``ramify --help`` does not wait for torch.
"""

from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING

__version__ = version("ramify")

if TYPE_CHECKING:
    from ramify.public import *  # noqa: F403
    from ramify.public import __all__ as __all__
else:

    def __getattr__(name):
        if find_spec(f"ramify.{name}"):
            return import_module(f"ramify.{name}")
        public = import_module("ramify.public")
        if not hasattr(public, name):
            raise AttributeError(f"module 'ramify' has no attribute {name!r}")
        globals().update({known: getattr(public, known) for known in public.__all__})
        return getattr(public, name)

    def __dir__():
        return [*import_module("ramify.public").__all__, "__version__"]
