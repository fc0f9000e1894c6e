"""Pages of networks that are tested by another metric than accuracy, the lower the better."""

from typing import Any

import pytest

from ramify.data.metric import ACCURACY, PERPLEXITY
from ramify.report.compare_figures import front_figure
from ramify.report.comparison import ArmResult, as_markdown, best_words, front
from ramify.report.reader import read_events
from ramify.report.run_figures import focus
from ramify.report.tables import Row, measured, results_table, row_texts
from ramify.store.files import write_lines


def result(value: float, params: int) -> dict[str, Any]:
    return {
        **{"event": "result", "job": "grown-0", "arm": "grown", "seed": 0, "test_loss": 1.0},
        **{"params": params, "macs": 20, "steps": 5, "seconds": 1.5},
        **{"test_perplexity": value, **PERPLEXITY.tags()},
    }


def network(number: int, value: float, params: int) -> ArmResult:
    [row] = results_table([result(value, params)])
    return ArmResult(number, f"run-{number}", "novels", "grown", row)


def test_a_row_has_the_metric_of_its_events() -> None:
    rows: list[Row] = results_table([result(4.0, 10), result(5.0, 10)])
    assert measured(rows[0])["mean"] == 4.5
    assert row_texts(rows[0])[0] == "4.500 ± 0.707"
    assert "test_accuracy" not in rows[0]


def test_what_is_lower_is_better() -> None:
    networks = [network(1, 9.0, 10), network(2, 5.0, 20), network(3, 6.0, 30), network(4, 4.99, 40)]
    assert [one.number for one in front(networks, "params")] == [1, 2, 4]
    (value, name, _), (params, words, _) = best_words(networks)
    assert (value, name, params) == ("4.990", "best test perplexity", "20")
    assert "within 1 % of the best" in words
    figure = front_figure(networks, "params")
    figure.draw_without_rendering()
    [axes] = figure.axes
    low, high = axes.get_ylim()
    assert axes.get_ylabel() == "test perplexity"
    assert low < 4.99
    assert high > 9.0


def test_tables_of_two_metrics_stand_apart() -> None:
    [row] = results_table([{**result(1.0, 5), "metric": None, "test_accuracy": 0.5}])
    both = [network(1, 9.0, 10), ArmResult(2, "digits", "digits", "grown", row)]
    first, second = as_markdown(both).split("\n\n")
    assert "test perplexity" in first
    assert "| test accuracy |" in second
    assert "50.00 %" in second


def test_where_networks_began_may_lie_on_the_side_of_what_is_worse() -> None:
    curve = [(0, 900.0), (10, 12.0), (20, 10.0)]
    low, high = focus([curve], 10, PERPLEXITY)
    assert low < 10
    assert 12 < high < 20
    low, high = focus([[(step, -value / 100) for step, value in curve]], 10, ACCURACY)
    assert -20 < low < -12
    assert high > -10


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ({"key": "perplexity"}, "the metric is wrong, the field 'words' is missing"),
        ("perplexity", "the metric is wrong, not an object"),
        ({**PERPLEXITY.tags()["metric"], "key": "r2"}, "the field 'test_r2' is missing"),
    ],
)
def test_a_metric_that_cannot_be_shown(tmp_path: Any, metric: Any, message: str) -> None:
    write_lines(tmp_path / "metrics.jsonl", [{**result(4.0, 10), "metric": metric}])
    with pytest.raises(Exception, match=message):
        read_events(tmp_path)
