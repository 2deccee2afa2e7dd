"""Numbers with intervals are written alike everywhere, and what no page can hold is replaced."""

import math

import pytest

from neurosteer_cli.evaluation.measures.metrics import Estimate
from neurosteer_cli.reports.text import fixed_within, interval, listed, percent_within, showable


def test_numbers_are_written_with_their_interval_on_one_line() -> None:
    assert percent_within(Estimate(0.955, 0.92, 0.99)) == "96\u00a0% [92,\u00a099]"
    assert fixed_within(Estimate(1.08, 1.0, 1.2)) == "1.08 [1.00,\u00a01.20]"
    assert fixed_within(Estimate(1.0)) == fixed_within(Estimate(1.0, 1.0, 1.0)) == "1.00"  # exact
    assert interval(Estimate(0.0, -0.004, math.inf)) == "[0.00,\u00a0∞]"  # no -0


def test_what_no_page_can_hold_is_replaced() -> None:
    assert showable("a\x00 \ud83d x\u202ey\x1b") == "a\ufffd \ufffd x\ufffdy\ufffd"


def test_line_breaks_tabs_and_other_scripts_stay() -> None:
    text = "a\n\tb 漢字 😀 \u200fעברית"
    assert showable(text) == text


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([14], "14"),
        ([14, 20], "14 and 20"),
        ([14, 15, 20, 26], "14, 15, 20 and 26"),
        ([8, 9, 10, 11], "8 to 11"),
        ([2, 8, 9, 10, 20], "2, 8 to 10 and 20"),
    ],
)
def test_three_numbers_or_more_in_a_row_are_a_range(numbers: list[int], text: str) -> None:
    assert listed(numbers) == text
