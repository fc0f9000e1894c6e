"""What the tests of several commands share."""

import pytest


@pytest.fixture
def no_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands write no page, which takes longer than all else at this size."""
    monkeypatch.setattr("ramify.cli.runs.write_report", lambda run: run / "report.html")
