"""What an evaluation shows, hedged by its intervals: the kind of verdict and the findings behind it.

Knows results and their intervals; knows nothing of charts, HTML or words, which are `verdict.html`'s.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..evaluation.evaluate import ConditionResult
from ..evaluation.layers import Layer, Steered
from ..evaluation.metrics import Estimate, known
from ..evaluation.samples import MAX_PPL_RATIO, RANDOM, UNSTEERED
from .tables import effect, on_one_scale, single_alpha

Kind = Literal["works", "unspecific", "backwards", "costly", "nothing", "open"]


@dataclass(frozen=True)
class Finding:
    """One condition as a judge sees it, beside the unsteered texts if there are any."""

    result: ConditionResult
    judge: str
    effect: Estimate  # share of texts found positive, or mean score
    unsteered: Estimate | None

    @property
    def steered(self) -> bool:
        return self.result.condition.baseline is None

    @property
    def alpha(self) -> float | None:
        return single_alpha(self.result)

    @property
    def is_rate(self) -> bool:
        return known(self.result.judges[self.judge].rate) is not None

    @property
    def difference(self) -> Estimate:
        """Effect minus the unsteered texts', with its own interval or, wider, that of the two."""
        own = known(self.result.judges[self.judge].rate_difference)
        if own and self.is_rate:
            return own
        other = self.unsteered or self.effect
        (low, high), (other_low, other_high) = self.effect.ends, other.ends
        return Estimate(self.effect.value - other.value, low - other_high, high - other_low)

    @property
    def direction(self) -> int:
        """+1 or -1 where the texts moved, 0 where the difference may be none."""
        low, high = self.difference.ends
        return int(low > 0) - int(high < 0)

    @property
    def size(self) -> float:
        return abs(self.difference.value)

    @property
    def ratio(self) -> Estimate | None:
        return known(self.result.perplexity_ratio)


@dataclass(frozen=True)
class Verdict:
    """What one judge's numbers show.

    findings: every condition to which the judge gave a number.
    one_curve: all that is steered lies on one curve, so that an alpha is name enough.
    subject: the strongest finding that is affordable; where nothing moved the largest, where all is
        too costly the cheapest, where nothing can be compared none.
    opposite: the strongest affordable finding that goes the other way at the other sign of alpha.
    """

    judge: str
    kind: Kind
    max_ratio: float
    findings: Sequence[Finding]
    one_curve: bool
    subject: Finding | None = None
    opposite: Finding | None = None

    @property
    def steered(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.steered]

    @property
    def tried_both_signs(self) -> bool:
        return self.one_curve and any(_opposed(finding, self.subject) for finding in self.steered)

    def baseline(self, name: str) -> Finding | None:
        """The baseline of that name; of several, the one at the alpha nearest the subject's."""
        alpha = (self.subject.alpha if self.subject else None) or 0.0
        named = [finding for finding in self.findings if finding.result.condition.baseline == name]
        return min(named, key=lambda finding: abs((finding.alpha or 0.0) - alpha), default=None)

    @property
    def repetition(self) -> tuple[Estimate, Estimate] | None:
        """The subject's and the unsteered texts' share of repeated 4-grams, where the first is larger."""
        unsteered = self.baseline(UNSTEERED)
        if self.subject is None or unsteered is None:
            return None
        own, other = (known(finding.result.repetition_4) for finding in (self.subject, unsteered))
        return (own, other) if own and other and own.ends[0] > other.ends[1] else None


def verdict(results: Sequence[ConditionResult], judge: str, max_ratio: float = MAX_PPL_RATIO) -> Verdict:
    """What one judge's numbers show.

    A condition has an effect if the interval of its difference to the unsteered texts excludes 0; where
    no difference was computed, if the two intervals do not overlap. It is affordable if its
    perplexity ratio is at most `max_ratio`. It is told apart from a random vector of equal norm, at
    the nearest alpha, if the two intervals do not overlap.
    """
    findings = _findings(results, judge)
    curves = {(f.result.condition.vectors, f.result.condition.positions) for f in findings if f.steered}
    shown = Verdict(judge, "open", max_ratio, findings, on_one_scale(results) and len(curves) == 1)
    if not shown.steered or shown.baseline(UNSTEERED) is None:
        return shown
    moved = sorted((f for f in shown.steered if f.direction), key=lambda f: f.size, reverse=True)
    if not moved:
        return replace(shown, kind="nothing", subject=max(shown.steered, key=lambda f: f.size))
    # a condition is not taken for cheap because it alone has no ratio
    unknown = math.inf if any(f.ratio for f in shown.steered) else 1.0
    costs = [f.ratio.value if f.ratio else unknown for f in moved]
    affordable = [f for f, cost in zip(moved, costs, strict=True) if cost <= max_ratio]
    if not affordable:
        return replace(shown, kind="costly", subject=moved[costs.index(min(costs))])
    shown = replace(shown, subject=affordable[0], opposite=_opposite(affordable) if shown.one_curve else None)
    return replace(shown, kind=_kind(shown, affordable[0]))


def _findings(results: Sequence[ConditionResult], judge: str) -> list[Finding]:
    judged = [(result, found) for result in results if (found := effect(result, judge))]
    unsteered = next((found for result, found in judged if result.condition.baseline == UNSTEERED), None)
    return [Finding(result, judge, found, unsteered) for result, found in judged]


def _opposed(one: Finding, other: Finding | None) -> bool:
    return other is not None and (one.alpha or 0.0) * (other.alpha or 0.0) < 0


def _opposite(affordable: Sequence[Finding]) -> Finding | None:
    """The first that goes the other way than the strongest, at the other sign of alpha."""
    best, *others = affordable
    return next((f for f in others if _opposed(f, best) and f.direction != best.direction), None)


def _kind(shown: Verdict, best: Finding) -> Kind:
    control = shown.baseline(RANDOM)
    if control is not None and control.effect.overlaps(best.effect):
        return "unspecific"
    return "backwards" if shown.one_curve and (best.alpha or 0.0) * best.direction < 0 else "works"


# --- layers ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayersVerdict:
    """Where the sides part best and, where it was tried, where steering moves texts most.

    rivals: how many other layers' intervals overlap the best one's.
    steered: for either sign of alpha that was tried, layer and dose that move the rate most at an
        affordable cost; None where no layer is affordable.
    """

    best: Layer
    auroc: Estimate
    rivals: int
    max_ratio: float
    steered: dict[int, tuple[Layer, Steered] | None]


def by_layer(layers: Sequence[Layer], max_ratio: float = MAX_PPL_RATIO) -> LayersVerdict | None:
    """What the layers show; None where no layer's separation could be measured."""
    measured = [(layer, auroc) for layer in layers if (auroc := known(layer.auroc))]
    if not measured:
        return None
    best, auroc = max(measured, key=lambda pair: pair[1].value)
    rivals = sum(other.overlaps(auroc) for layer, other in measured if layer is not best)
    return LayersVerdict(best, auroc, rivals, max_ratio, _best_steered(layers, max_ratio))


def _best_steered(layers: Sequence[Layer], max_ratio: float) -> dict[int, tuple[Layer, Steered] | None]:
    best: dict[int, tuple[Layer, Steered] | None] = {}
    for sign in (1, -1):
        tried = [
            (sign * rate.value, ratio.value, layer, steered)
            for layer in layers
            for steered in layer.steer
            if sign * steered.alpha > 0
            and (rate := known(steered.rate))
            and (ratio := known(steered.perplexity_ratio))
        ]
        affordable = [(moved, (layer, steered)) for moved, cost, layer, steered in tried if cost <= max_ratio]
        if tried:
            best[sign] = max(affordable, key=lambda pair: pair[0])[1] if affordable else None
    return best
