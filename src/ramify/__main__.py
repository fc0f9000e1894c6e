"""The command line as `python -m ramify`."""

from ramify.cli import app

if __name__ == "__main__":
    app()
