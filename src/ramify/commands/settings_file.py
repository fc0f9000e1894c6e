"""A file of settings that a user gives, in JSON or YAML."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ramify.errors import RamifyError, check_plain
from ramify.imports import require


def read_settings(path: Path) -> Any:
    """Read a file of settings, in JSON or YAML according to its name.

    Args:
        path: The file.

    Returns:
        Plain values of any kind.

    Raises:
        RamifyError: The file is missing or damaged.
    """
    advice = "give a JSON or YAML file of settings, such as config.json of a run."
    if path.suffix not in (".yaml", ".yml"):
        from ramify.store.files import read_json  # only here, for it brings torch

        return read_json(path, advice)
    require("yaml", "cli", "a YAML file of settings needs")
    import yaml

    try:
        check_plain(path)
        return yaml.load(path.read_text(encoding="utf-8"), _yaml_loader())
    except FileNotFoundError:
        raise RamifyError(f"{path} is missing; {advice}") from None
    except (yaml.YAMLError, OSError, ValueError, RecursionError) as error:
        deep = isinstance(error, RecursionError)
        said = "it is nested too deeply" if deep else " ".join(str(error).split())
        raise RamifyError(f"{path} is no readable YAML file ({said}); {advice}") from error


def _yaml_loader() -> Any:
    """A YAML loader for plain values, which reads 1e-3 as a number, as JSON does."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    number = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    return Loader
