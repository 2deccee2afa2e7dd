"""Results as tables.

Knows what was measured of conditions and layers; knows nothing of charts or HTML.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

from ..evaluation.judges.judge import Judge
from ..evaluation.layers import Layer, LayerSweep, Steered
from ..evaluation.measures.metrics import Estimate, known
from ..evaluation.results import Agreement, ConditionResult, Diversity, Evaluation, JudgeResult
from ..evaluation.runs.samples import PROMPTING, RANDOM, UNSTEERED, short
from ..vectors.metadata import CurvePoint
from .text import fixed, interval, percent

Number = Estimate | float | None

_BASELINES = (None, UNSTEERED, PROMPTING, RANDOM)  # the order among conditions of one alpha
_NOT_JUDGED = JudgeResult(None, None, None, None, n_failed=0)


def effect(result: ConditionResult, judge: str) -> Estimate | None:
    """The share of texts a judge finds positive; the mean score of a judge that gives no share."""
    judged = result.judges.get(judge, _NOT_JUDGED)
    return known(judged.rate) or known(judged.mean)


def single_alpha(result: ConditionResult) -> float | None:
    """The one alpha of a condition; None where there are several, it is not known, or a choice came after."""
    alpha: float | list[float] | None = result.condition.alpha
    return None if isinstance(alpha, list) or result.condition.choice else alpha


def on_one_scale(results: Sequence[ConditionResult]) -> bool:
    """Whether every steered condition has one alpha, so that curves against alpha can be drawn."""
    alphas = [single_alpha(result) for result in results if result.condition.baseline is None]
    return bool(alphas) and None not in alphas


def in_alpha_order(results: Sequence[ConditionResult]) -> list[ConditionResult]:
    """By alpha where all have one, baselines behind the condition they belong to; else as they came."""
    if not on_one_scale(results):
        return list(results)
    return sorted(results, key=lambda r: (single_alpha(r) or 0.0, _BASELINES.index(r.condition.baseline)))


class Cell(NamedTuple):
    """A number as it is written, and its interval beneath."""

    main: str
    small: str = ""


Row = list[tuple[str, str, Cell | None]]  # a group of columns, a heading in it, the cell there


class Table:
    """Rows of the same columns and what each is of; a column in which no row has a cell is left out."""

    def __init__(self, subjects: Sequence[Any], rows: Sequence[Row]) -> None:
        columns = [column for column in zip(*rows, strict=True) if any(cell for _, _, cell in column)]
        groups = groupby(group for (group, _, _), *_ in columns)
        self.groups = [(group, len(list(members))) for group, members in groups]
        self.headings = [heading for (_, heading, _), *_ in columns]
        cells = zip(*([cell for _, _, cell in column] for column in columns), strict=True)
        self.rows = list(zip(subjects, cells, strict=True))


def _plain(value: object) -> Cell | None:
    return None if value is None else Cell(str(value))


def _fixed(number: Number, digits: int = 2) -> Cell | None:
    estimate = known(number)
    return Cell(fixed(estimate.value, digits), interval(estimate, digits)) if estimate else None


def _percent(share: Number) -> Cell | None:
    estimate = known(share)
    return Cell(percent(estimate.value, 1), interval(estimate, 1, 100)) if estimate else None


def _points(share: Number) -> Cell | None:
    estimate = known(share)
    return Cell(f"{100 * estimate.value:+.1f}", interval(estimate, 1, 100)) if estimate else None


def evaluation_table(evaluation: Evaluation) -> Table:
    """A row a condition, in the order of alpha, with all that was measured of it."""
    results = in_alpha_order(evaluation.results)
    rows = [_condition_row(result, evaluation.judges) for result in results]
    several = len({result.condition.positions for result in results}) > 1
    return Table(results, [[column for column in row if several or column[1] != "positions"] for row in rows])


def _condition_row(result: ConditionResult, judges: Sequence[Judge]) -> Row:
    alphas = result.condition.alphas
    written = None if alphas is None else ", ".join(f"{alpha:g}" for alpha in alphas or (0.0,))
    return [
        ("setting", "alpha", _plain(written)),
        ("setting", "dose", _percent(result.dose)),
        ("setting", "positions", _plain(result.condition.positions)),
        *(column for judge in judges for column in _judge_columns(result, judge.name)),
        *_cost_columns(result),
        ("diversity", "least", _diversity(result.diversity)),
        ("diversity", "distinct 1", _fixed(result.distinct_1, 3)),
        ("diversity", "distinct 2", _fixed(result.distinct_2, 3)),
        ("diversity", "distinct 3", _fixed(result.distinct_3, 3)),
        ("diversity", "repetition 4", _fixed(result.repetition_4, 3)),
        ("diversity", "tokens", _fixed(result.length, 1)),
        ("texts", "n", _plain(result.n)),
        ("texts", "prompts", _plain(result.n_prompts)),
        ("texts", "empty", _plain(result.n_empty)),
    ]


def _cost_columns(result: ConditionResult) -> Row:
    """Of several models the highest ratio, then what each makes of the texts."""
    several, kl = len(result.models) > 1, ("cost", "KL, nats", _fixed(result.kl, 3))
    headline: Row = [
        ("cost", "ratio", _fixed(result.perplexity_ratio)),
        ("cost", "by", _plain(short(result.ppl_model))),
    ]
    of_each: Row = [
        (f"by {short(name)}" if several else "cost", heading, cell)
        for name, found in result.models.items()
        for heading, cell in (
            ("perplexity", _fixed(found.perplexity)),
            ("ratio", _fixed(found.perplexity_ratio)),
            ("bits per byte", _fixed(found.bits_per_byte, 3)),
        )
    ]
    return [*headline, kl, *of_each] if several else [*of_each, kl]


def _diversity(found: Diversity | None) -> Cell | None:
    """In the respect in which texts are least diverse; marked where that is too little."""
    if found is None or found.lowest is None:
        return None
    return Cell(fixed(found.lowest), "less diverse" if found.is_low else "")


def agreement(results: Sequence[ConditionResult]) -> dict[Agreement, list[str]]:
    """What several judges' findings have in common, and the steered conditions of which it holds."""
    found: dict[Agreement, list[str]] = {}
    for result in results:
        if result.condition.baseline is None and result.agreement:
            found.setdefault(result.agreement, []).append(result.condition.label)
    return found


def _judge_columns(result: ConditionResult, judge: str) -> Row:
    judged, group = result.judges.get(judge, _NOT_JUDGED), f"judge “{judge}”"
    return [
        (group, "positive", _percent(judged.rate)),
        (group, "difference, points", _points(judged.rate_difference)),
        (group, "mean score", _fixed(judged.mean)),
        (group, "fluency", _fixed(judged.fluency)),
        (group, "failed", _plain(judged.n_failed or None)),
    ]


def expected_table(curve: Sequence[CurvePoint]) -> Table:
    """What a calibration expects at each alpha."""
    return Table(curve, [[("positive", "expected", _percent(point.expected_rate))] for point in curve])


def layers_table(sweep: LayerSweep) -> Table:
    """A row a layer, with what steering there does at each alpha."""
    alphas = sorted({steered.alpha for layer in sweep.layers for steered in layer.steer})
    several = len(sweep.ppl_models) > 1
    return Table(sweep.layers, [_layer_row(layer, alphas, several=several) for layer in sweep.layers])


def _layer_row(layer: Layer, alphas: Sequence[float], *, several: bool) -> Row:
    row = [
        ("place", "hook point", _plain(layer.hook_point)),
        ("separation", "AUROC", _fixed(layer.auroc)),
        ("separation", "AUROC, SAE", _fixed(layer.sae_auroc)),
        ("residual", "shift", _percent(layer.shift_share)),
        ("residual", "norm", _fixed(layer.resid_norm, 1)),
    ]
    tried = {steered.alpha: steered for steered in layer.steer}
    for alpha in alphas:
        at, group = tried.get(alpha, Steered(alpha, None, None, "", None)), f"alpha {alpha:g}"
        row += [
            (group, "positive", _percent(at.rate)),
            (group, "ratio", _fixed(at.perplexity_ratio)),
            (group, "by", _plain(short(at.ppl_model) if several else None)),
            (group, "diversity", _diversity(at.diversity)),
        ]
    return row
