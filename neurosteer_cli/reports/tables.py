"""Results as tables, and how their numbers are written.

Knows what was measured of conditions and layers; knows nothing of charts or HTML.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

from ..evaluation.evaluate import ConditionResult
from ..evaluation.layers import Layer, Steered
from ..evaluation.metrics import Estimate, known
from ..evaluation.samples import PROMPTING, RANDOM, UNSTEERED
from ..vectors.metadata import CurvePoint

NO_BREAK = "\u00a0"
# Control characters, half surrogate pairs, and what reverses the text that follows it.
_UNSHOWABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u202a-\u202e\u2066-\u2069]"
)
_BASELINES = (None, UNSTEERED, PROMPTING, RANDOM)  # the order among conditions of one alpha

# --- how numbers and texts are written ---------------------------------------------------------


def showable(text: str) -> str:
    """The text with what no page can hold, half surrogate pairs say, as U+FFFD."""
    return _UNSHOWABLE.sub("\ufffd", text)


def fixed(number: float, digits: int = 2) -> str:
    if math.isinf(number):
        return "∞" if number > 0 else "-∞"
    return f"{round(number, digits) + 0.0:.{digits}f}"  # + 0.0: no "-0"


def percent(number: float, digits: int = 0) -> str:
    return f"{fixed(100 * number, digits)}{NO_BREAK}%"


def interval(estimate: Estimate, digits: int = 2, scale: float = 1.0) -> str:
    """`[low, high]`; nothing for an exact number."""
    low, high = estimate.ends
    if low == high:
        return ""
    return f"[{fixed(scale * low, digits)},{NO_BREAK}{fixed(scale * high, digits)}]"


def percent_within(estimate: Estimate) -> str:
    """`96 % [92, 99]`"""
    return f"{percent(estimate.value)} {interval(estimate, 0, 100)}".rstrip()


def fixed_within(estimate: Estimate, digits: int = 2) -> str:
    """`1.08 [1.02, 1.15]`"""
    return f"{fixed(estimate.value, digits)} {interval(estimate, digits)}".rstrip()


# --- what is read from results -----------------------------------------------------------------


def effect(result: ConditionResult, judge: str) -> Estimate | None:
    """The share of texts a judge finds positive; the mean score of a judge that gives no share."""
    judged = result.judges.get(judge)
    return (known(judged.rate) or known(judged.mean)) if judged else None


def single_alpha(result: ConditionResult) -> float | None:
    """The one alpha of a condition; None where there are several, or it is not known."""
    alphas = result.condition.alphas
    if alphas is None or len(alphas) > 1:
        return None
    return alphas[0] if alphas else 0.0


def on_one_scale(results: Sequence[ConditionResult]) -> bool:
    """Whether every steered condition has one alpha, so that curves against alpha can be drawn."""
    steered = [result for result in results if result.condition.baseline is None]
    return bool(steered) and all(single_alpha(result) is not None for result in steered)


def in_alpha_order(results: Sequence[ConditionResult]) -> list[ConditionResult]:
    """By alpha where all have one, baselines behind the condition they belong to; else as they came."""
    if not on_one_scale(results):
        return list(results)
    return sorted(results, key=lambda r: (single_alpha(r) or 0.0, _BASELINES.index(r.condition.baseline)))


# --- tables ------------------------------------------------------------------------------------


class Cell(NamedTuple):
    """A number as it is written, and its interval beneath."""

    main: str
    small: str = ""


def _plain(value: object) -> Cell:
    return Cell(str(value))


def _fixed(digits: int) -> Callable[[Estimate], Cell]:
    return lambda estimate: Cell(fixed(estimate.value, digits), interval(estimate, digits))


def _percent(estimate: Estimate) -> Cell:
    return Cell(percent(estimate.value, 1), interval(estimate, 1, 100))


def _points(estimate: Estimate) -> Cell:
    return Cell(f"{100 * estimate.value:+.1f}", interval(estimate, 1, 100))


class Column(NamedTuple):
    """A column of a table; it is left out where no row has a cell."""

    group: str
    heading: str
    read: Callable[[Any], Any]
    write: Callable[[Any], Cell] = _plain

    def cell(self, row: Any) -> Cell | None:
        value = self.read(row)
        value = value if self.write is _plain else known(value)
        return None if value is None else self.write(value)


@dataclass(frozen=True)
class Table:
    """Groups of headings with their spans, headings, and each row with its cells."""

    groups: list[tuple[str, int]]
    headings: list[str]
    rows: list[tuple[Any, list[Cell | None]]]

    @classmethod
    def of(cls, rows: Sequence[Any], columns: Sequence[Column]) -> "Table":
        shown = [column for column in columns if any(map(column.cell, rows))]
        groups = [(group, len(list(members))) for group, members in groupby(shown, attrgetter("group"))]
        cells = [(row, [column.cell(row) for column in shown]) for row in rows]
        return cls(groups, [column.heading for column in shown], cells)


def evaluation_table(results: Sequence[ConditionResult], judges: Sequence[str]) -> Table:
    """A row a condition, in the order of alpha, with all that was measured of it."""
    columns = [
        Column("setting", "alpha", _alphas),
        Column("setting", "dose", attrgetter("dose"), _percent),
        Column("setting", "positions", attrgetter("condition.positions")),
        *(column for judge in judges for column in _judge_columns(judge)),
        Column("cost", "perplexity", attrgetter("perplexity"), _fixed(2)),
        Column("cost", "ratio", attrgetter("perplexity_ratio"), _fixed(2)),
        Column("cost", "KL, nats", attrgetter("kl"), _fixed(3)),
        *(Column("diversity", f"distinct {n}", attrgetter(f"distinct_{n}"), _fixed(3)) for n in (1, 2, 3)),
        Column("diversity", "repetition 4", attrgetter("repetition_4"), _fixed(3)),
        Column("diversity", "tokens", attrgetter("length"), _fixed(1)),
        Column("texts", "n", attrgetter("n")),
        Column("texts", "prompts", attrgetter("n_prompts")),
        Column("texts", "empty", attrgetter("n_empty")),
    ]
    return Table.of(in_alpha_order(results), columns)


def _judge_columns(judge: str) -> list[Column]:
    def read(name: str) -> Callable[[ConditionResult], Any]:
        return lambda result: getattr(result.judges.get(judge), name, None)

    group = f"judge “{judge}”"
    return [
        Column(group, "positive", read("rate"), _percent),
        Column(group, "difference, points", read("rate_difference"), _points),
        Column(group, "mean score", read("mean"), _fixed(2)),
        Column(group, "fluency", read("fluency"), _fixed(2)),
        Column(group, "failed", lambda result: read("n_failed")(result) or None),
    ]


def expected_table(curve: Sequence[CurvePoint]) -> Table:
    """What a calibration expects at each alpha."""
    return Table.of(curve, [Column("positive", "expected", attrgetter("expected_rate"), _percent)])


def layers_table(layers: Sequence[Layer]) -> Table:
    """A row a layer, with what steering there does at each alpha."""
    alphas = sorted({steered.alpha for layer in layers for steered in layer.steer})
    columns = [
        Column("place", "hook point", attrgetter("hook_point")),
        Column("separation", "AUROC", attrgetter("auroc"), _fixed(2)),
        Column("separation", "AUROC, SAE", attrgetter("sae_auroc"), _fixed(2)),
        Column("residual", "shift", attrgetter("shift_share"), _percent),
        Column("residual", "norm", attrgetter("resid_norm"), _fixed(1)),
        *(column for alpha in alphas for column in _steered_columns(alpha)),
    ]
    return Table.of(layers, columns)


def _steered_columns(alpha: float) -> list[Column]:
    def at(layer: Layer) -> Steered | None:
        return next((steered for steered in layer.steer if steered.alpha == alpha), None)

    return [
        Column(f"alpha {alpha:g}", "positive", lambda layer: getattr(at(layer), "rate", None), _percent),
        Column(
            f"alpha {alpha:g}", "ratio", lambda layer: getattr(at(layer), "perplexity_ratio", None), _fixed(2)
        ),
    ]


def _alphas(result: ConditionResult) -> str | None:
    alphas = result.condition.alphas
    return None if alphas is None else ", ".join(f"{alpha:g}" for alpha in alphas or (0.0,))
