"""Numbers with their 95 % intervals, read from the rows of an evaluation, and how they are written.

Knows JSON-able records; knows nothing of charts, HTML or how the numbers came about.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

MAX_RATIO = 1.25  # perplexity, against the unsteered one, up to which a setting counts as affordable
NO_BREAK = "\u00a0"
# Control characters, half surrogate pairs, and what reverses the text that follows it.
_UNSHOWABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u202a-\u202e\u2066-\u2069]"
)
_BASELINES = (None, "unsteered", "prompt", "random")  # the order among settings of one alpha


class Estimate(NamedTuple):
    """A number and its interval; an exact one has low == value == high."""

    value: float
    low: float
    high: float

    def overlaps(self, other: "Estimate") -> bool:
        return self.low <= other.high and other.low <= self.high


def estimate(found: Any) -> Estimate | None:
    """Read {"value", "low", "high"} or a bare number; None for an absent one and for no number (NaN)."""
    if not isinstance(found, dict):
        found = {"value": found}
    value = found["value"]
    bounds = (value if found.get(key) is None else found[key] for key in ("low", "high"))
    numbers = (value, *bounds)
    return Estimate(*numbers) if value is not None and not any(map(math.isnan, numbers)) else None


def exactly(value: float) -> Estimate:
    return Estimate(value, value, value)


def auroc(row: dict[str, Any]) -> Estimate | None:
    """The separation at one layer, whose interval stands in keys of its own."""
    return estimate({"value": row["auroc"], "low": row.get("auroc_low"), "high": row.get("auroc_high")})


@dataclass(frozen=True)
class Setting:
    """One row of an evaluation: what was added to the model, and the numbers of its texts."""

    index: int  # its place among the rows
    label: str
    group: str  # the vectors and positions that it shares with the other points of its curve
    alpha: float | None  # None where there are several, or it is not known
    baseline: str | None
    record: dict[str, Any]

    @property
    def steered(self) -> bool:
        return self.baseline is None

    @property
    def ratio(self) -> Estimate | None:
        """Perplexity against the unsteered one, which is its own measure."""
        found = self.number("perplexity_ratio")
        return exactly(1.0) if found is None and self.baseline == "unsteered" else found

    def number(self, key: str, judge: str | None = None) -> Estimate | None:
        """One of the row's own numbers, or of those that a judge gave it."""
        record = self.record if judge is None else self.record.get("judges", {}).get(judge, {})
        return estimate(record.get(key))

    def effect(self, judge: str) -> Estimate | None:
        """The share of texts a judge finds positive; the mean score of a judge that gives no share."""
        return self.number("rate", judge) or self.number("mean", judge)


def read_settings(rows: Sequence[dict[str, Any]]) -> list[Setting]:
    """The rows as settings, in their order."""
    positions = {row.get("positions") for row in rows if row.get("baseline") is None}
    return [_setting(index, row, name_positions=len(positions) > 1) for index, row in enumerate(rows)]


def _setting(index: int, row: dict[str, Any], *, name_positions: bool) -> Setting:
    alpha = row.get("alpha")
    if isinstance(alpha, list):
        alpha = float(alpha[0]) if len(alpha) == 1 else None
    group = " + ".join(row.get("vectors") or [])
    if name_positions and row.get("positions"):
        group = f"{group}, {row['positions']}"
    return Setting(index, row["label"], group, alpha, row.get("baseline"), row)


def on_one_scale(settings: Sequence[Setting]) -> bool:
    """Whether every steered setting has one alpha, so that curves against alpha can be drawn."""
    steered = [setting for setting in settings if setting.steered]
    return bool(steered) and all(setting.alpha is not None for setting in steered)


def in_alpha_order(settings: Sequence[Setting]) -> list[Setting]:
    """By alpha where all have one, baselines behind the setting they belong to; else as they came."""
    if not on_one_scale(settings):
        return list(settings)
    return sorted(settings, key=lambda one: (one.alpha or 0.0, _BASELINES.index(one.baseline), one.index))


def showable(value: Any) -> Any:
    """The same JSON value with what no page can hold, half surrogate pairs say, as U+FFFD."""
    if isinstance(value, str):
        return _UNSHOWABLE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {showable(key): showable(item) for key, item in value.items()}
    return [showable(item) for item in value] if isinstance(value, list) else value


def percent(number: float, digits: int = 0) -> str:
    return f"{_rounded(100 * number, digits)}{NO_BREAK}%"


def fixed(number: float, digits: int = 2) -> str:
    return _rounded(number, digits)


def interval(found: Estimate, digits: int = 2, scale: float = 1.0) -> str:
    """`[low, high]`; nothing for an exact number."""
    if found.low == found.high:
        return ""
    low, high = (_rounded(scale * bound, digits) for bound in (found.low, found.high))
    return f"[{low},{NO_BREAK}{high}]"


def percent_within(found: Estimate) -> str:
    """`96 % [92, 99]`"""
    return f"{percent(found.value)} {interval(found, 0, 100)}".rstrip()


def fixed_within(found: Estimate, digits: int = 2) -> str:
    """`1.08 [1.02, 1.15]`"""
    return f"{fixed(found.value, digits)} {interval(found, digits)}".rstrip()


def _rounded(number: float, digits: int) -> str:
    if math.isinf(number):
        return "∞" if number > 0 else "-∞"
    return f"{round(number, digits) + 0.0:.{digits}f}"  # + 0.0: no "-0"
