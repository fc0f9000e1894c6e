"""Tables and pages from run folders.

This package reads only the files of a run folder (``config.json``, ``versions.json``,
``metrics.jsonl``, ``summary.json``), so a page can be written while the run continues, after it was
stopped, and long after its code has changed.

How the files fit together:

- `reader` reads and checks a run folder, and `events` answers queries about its events;
- `tables` compares networks over seeds, `headline` describes a run in words;
- `cut_events` finds the phases and the layers of a run that cuts, `cut_words` describes them;
- `run_figures`, `job_figures`, `cut_figures` and `cell_figures` draw, with layouts from `lineage`
  (family trees) and `cell_layout` (cells), in the colours of `theme`;
- `page` combines all of it in one file; `search_page` and `prune_page` fill it for these commands;
- `comparison` compares the networks of several runs, `compare_figures` draws them, and
  `compare_page` builds a page from both; `templates` fills the template of either page.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

from ramify.errors import RamifyError
from ramify.report.comparison import names_of, runs_among
from ramify.report.reader import RunRecord, read_events, read_run
from ramify.report.tables import Row, print_table, results_table, write_summary
from ramify.store.disk import sweep
from ramify.store.files import write_bytes

PAGE = "report.html"

__all__ = [
    "Row",
    "RunRecord",
    "print_table",
    "read_events",
    "read_run",
    "results_table",
    "write_comparison",
    "write_report",
    "write_summary",
]


def write_report(run: Path) -> Path:
    """Write ``report.html`` into a run folder, whether or not the run is finished.

    Cells that a search found are also drawn into files: ``cell-KIND.svg`` and ``.png``.

    Args:
        run: the run folder.

    Returns:
        The path of the page, which is written atomically.

    Raises:
        RamifyError: the folder is not a run folder, or one of its files is damaged.
    """
    # Imported here because matplotlib is slow to import and most commands do not draw.
    from ramify.report.page import render
    from ramify.report.search_page import write_drawings

    record, path = read_run(Path(run)), Path(run) / PAGE
    write_drawings(Path(run), record)
    write_bytes(path, render(record).encode(errors="backslashreplace"))
    sweep(Path(run))
    return path


def _is_page(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(9).lower() == b"<!doctype"


def write_comparison(
    runs: Iterable[Path], page: Path, *, latency: bool = False, notes: Sequence[str] = ()
) -> Path:
    """Write a page that compares several runs.

    Args:
        runs: run folders, finished or not, or folders that contain run folders.
        page: the HTML file to write.
        latency: whether to measure the latency of the runs' saved networks on this machine.
        notes: sentences for the top of the page.

    Returns:
        The path of the page, which is written atomically.

    Raises:
        RamifyError: a folder is not a run, is damaged, or names code that is not the user's; or the
            page cannot be written.
    """
    from ramify.commands.run_latency import latencies
    from ramify.report.compare_page import render_comparison

    page, found = Path(page), runs_among(map(Path, runs))
    if page.is_file() and page.stat().st_size and not _is_page(page):
        raise RamifyError(
            f"{page} already exists and is not an HTML page: give another name for the page."
        )
    named = dict(zip(names_of(found), found, strict=True))
    records = {name: read_run(run) for name, run in named.items()}
    measured = {name: latencies(run) for name, run in named.items()} if latency else {}
    links = {name: run / PAGE for name, run in named.items() if (run / PAGE).exists()}
    seen = {name: quote(os.path.relpath(path, page.parent)) for name, path in links.items()}
    html = render_comparison(records, measured, seen, notes)
    write_bytes(page, html.encode(errors="backslashreplace"))
    return page
