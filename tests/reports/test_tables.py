"""Conditions stand in the order of alpha; a column that says nothing is left out."""

from dataclasses import replace

from support import evaluations
from support.evaluations import result

from neurosteer_cli.evaluation.runs.samples import UNSTEERED
from neurosteer_cli.reports.tables import evaluation_table, in_alpha_order, on_one_scale, single_alpha


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


def test_positions_are_a_column_only_where_they_differ() -> None:
    evaluation = evaluations.working()
    assert "positions" not in evaluation_table(evaluation).headings
    generated = evaluations.result(4.0, evaluation.results[1].judges, positions="generated")
    both = replace(evaluation, results=[*evaluation.results, generated])
    assert "positions" in evaluation_table(both).headings


def test_of_several_models_each_has_columns_of_its_own() -> None:
    table = evaluation_table(evaluations.priced_twice())
    each = ["perplexity", "ratio", "bits per byte"]
    assert table.headings[8:17] == ["ratio", "by", "KL, nats", *each, *each]
    groups = [group for group, _ in table.groups]
    assert groups[3:6] == ["cost", "by smollm2", "by other"]
    ((_, cells),) = [row for row in table.rows if row[0].condition.alphas == (16.0,)][:1]
    shown = dict(zip(table.headings, cells, strict=True))
    assert cells[8].main == "1.19" and shown["by"].main == "other"  # type: ignore[union-attr]
    assert shown["least"] == ("0.91", "less diverse")
