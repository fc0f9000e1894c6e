"""Tables and pages from run folders.

Reads what a run left in its folder (``config.json``, ``versions.json``, ``metrics.jsonl``,
``summary.json``) and nothing else, so a page can be written while the run goes on, after it was
stopped, and long after the code that made it has changed.
"""

from ramify.report.page import write_report
from ramify.report.reader import RunRecord, read_events, read_run
from ramify.report.tables import Row, print_table, results_table, write_summary

__all__ = [
    "Row",
    "RunRecord",
    "print_table",
    "read_events",
    "read_run",
    "results_table",
    "write_report",
    "write_summary",
]
