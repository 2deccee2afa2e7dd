"""Numbers with intervals are written alike everywhere, and conditions stand in the order of alpha."""

import math

from support.evaluations import result

from neurosteer_cli.evaluation.metrics import Estimate
from neurosteer_cli.evaluation.samples import UNSTEERED
from neurosteer_cli.reports.tables import (
    fixed_within,
    in_alpha_order,
    interval,
    on_one_scale,
    percent_within,
    showable,
    single_alpha,
)


def test_numbers_are_written_with_their_interval_on_one_line() -> None:
    assert percent_within(Estimate(0.955, 0.92, 0.99)) == "96\u00a0% [92,\u00a099]"
    assert fixed_within(Estimate(1.08, 1.0, 1.2)) == "1.08 [1.00,\u00a01.20]"
    assert fixed_within(Estimate(1.0)) == fixed_within(Estimate(1.0, 1.0, 1.0)) == "1.00"  # exact
    assert interval(Estimate(0.0, -0.004, math.inf)) == "[0.00,\u00a0∞]"  # no -0


def test_one_alpha_is_one_alpha_and_of_several_is_none() -> None:
    results = [
        result(8.0, {}),
        result((8.0, 4.0), {}, vectors=("a.st", "b.st")),
        result(None, {}, vectors=()),
    ]
    assert [single_alpha(one) for one in results] == [8.0, None, None]
    assert single_alpha(result((), {}, baseline=UNSTEERED, vectors=())) == 0.0
    assert on_one_scale(results[:1])
    assert not on_one_scale(results)
    assert not on_one_scale([])


def test_conditions_without_one_scale_stay_in_their_order() -> None:
    results = [result(alpha, {}) for alpha in (8.0, None, -8.0)]
    assert in_alpha_order(results) == results
    assert in_alpha_order([results[0], results[2]]) == [results[2], results[0]]


def test_what_no_page_can_hold_is_replaced() -> None:
    assert showable("a\x00 \ud83d x\u202ey\x1b") == "a\ufffd \ufffd x\ufffdy\ufffd"


def test_line_breaks_tabs_and_other_scripts_stay() -> None:
    text = "a\n\tb 漢字 😀 \u200fעברית"
    assert showable(text) == text
