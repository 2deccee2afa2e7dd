"""Numbers with intervals are read from records as they come, and written alike everywhere."""

import math
from typing import Any

import pytest
from support import documents

from neurosteer_cli.reports.tables import (
    Estimate,
    estimate,
    fixed_within,
    in_alpha_order,
    interval,
    on_one_scale,
    percent_within,
    read_settings,
    showable,
)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"value": 2.0, "low": 1.0, "high": 4.0}, (2.0, 1.0, 4.0)),
        ({"value": 2.0, "low": None, "high": None}, (2.0, 2.0, 2.0)),
        ({"value": 2.0}, (2.0, 2.0, 2.0)),
        (2.0, (2.0, 2.0, 2.0)),
        (0, (0, 0, 0)),
        ({"value": None, "low": None, "high": None}, None),
        (None, None),
        (math.nan, None),
        (math.inf, (math.inf, math.inf, math.inf)),
    ],
)
def test_an_estimate_is_read_from_what_a_record_may_hold(found: Any, expected: Any) -> None:
    assert estimate(found) == expected


def test_numbers_are_written_with_their_interval_on_one_line() -> None:
    assert percent_within(Estimate(0.955, 0.92, 0.99)) == "96\u00a0% [92,\u00a099]"
    assert fixed_within(Estimate(1.08, 1.0, 1.2)) == "1.08 [1.00,\u00a01.20]"
    assert fixed_within(Estimate(1.0, 1.0, 1.0)) == "1.00"  # exact
    assert interval(Estimate(0.0, -0.004, math.inf)) == "[0.00,\u00a0∞]"  # no -0


def test_a_list_of_one_alpha_is_one_alpha_and_of_several_is_none() -> None:
    rows = [documents.row("a", [8.0], {}), documents.row("b", [8.0, 4.0], {}), documents.row("c", None, {})]
    assert [one.alpha for one in read_settings(rows)] == [8.0, None, None]
    assert on_one_scale(read_settings(rows[:1]))
    assert not on_one_scale(read_settings(rows))
    assert not on_one_scale([])


def test_settings_without_one_scale_stay_in_their_order() -> None:
    rows = [documents.row(label, alpha, {}) for label, alpha in (("b", 8.0), ("a", None), ("c", -8.0))]
    assert [one.label for one in in_alpha_order(read_settings(rows))] == ["b", "a", "c"]
    assert [one.label for one in in_alpha_order(read_settings([rows[0], rows[2]]))] == ["c", "b"]


def test_positions_are_named_only_where_they_differ() -> None:
    rows = [documents.row("a", 4.0, {}), documents.row("b", 8.0, {}, positions="generated")]
    assert [one.group for one in read_settings(rows)] == ["polite.st, all", "polite.st, generated"]
    assert [one.group for one in read_settings(rows[:1])] == ["polite.st"]


def test_what_no_page_can_hold_is_replaced_wherever_it_stands() -> None:
    found = showable({"a\x00": ["\ud83d", {"b": "x\u202ey\x1b"}], "n": 1.5, "none": None})
    assert found == {"a\ufffd": ["\ufffd", {"b": "x\ufffdy\ufffd"}], "n": 1.5, "none": None}


def test_line_breaks_tabs_and_other_scripts_stay() -> None:
    text = "a\n\tb 漢字 😀 \u200fעברית"
    assert showable(text) == text
