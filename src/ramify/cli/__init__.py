"""The command line: ``ramify grow``, ``prune``, ``search``, ``retrain``, ``export``, ..."""

import sys

__all__ = ["app"]

try:
    from ramify.cli.application import app
except ModuleNotFoundError as missing:
    if missing.name not in {"typer", "rich", "pydantic"}:
        raise
    SENTENCE = (
        f"error: the command line needs {missing.name}, which is not installed: "
        'pip install "ramify[cli]".'
    )

    def app() -> None:  # type: ignore[misc]  # it is called, as the application is
        """Say what to install."""
        print(SENTENCE, file=sys.stderr)
        sys.exit(2)
