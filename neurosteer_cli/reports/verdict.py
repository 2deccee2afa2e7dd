"""What an evaluation shows, hedged by its intervals: the kind of verdict and the findings behind it.

Knows results and their intervals; knows nothing of charts, HTML or words, which are `verdict.html`'s.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from ..evaluation.evaluate import ConditionResult
from ..evaluation.layers import Layer, Steered
from ..evaluation.metrics import Estimate, known
from ..evaluation.samples import MAX_PPL_RATIO, RANDOM, UNSTEERED
from .tables import effect, on_one_scale, single_alpha

Kind = Literal["works", "unspecific", "backwards", "costly", "nothing", "open"]


class Finding(NamedTuple):
    """One condition as a judge sees it."""

    result: ConditionResult
    judge: str
    alpha: float  # 0 where there is no single one
    is_rate: bool
    effect: Estimate  # share of texts found positive, or mean score
    difference: Estimate  # to the unsteered texts, with its own interval or, wider, that of the two
    direction: int  # +1 or -1 where the texts moved, 0 where the difference may be none
    ratio: Estimate | None  # of perplexity


@dataclass(frozen=True)
class Verdict:
    """What one judge's numbers show.

    findings: every condition to which the judge gave a number; `steered` are no baselines.
    one_curve: all that is steered lies on one curve, so that an alpha is name enough.
    subject: the strongest finding that is affordable; where nothing moved the largest, where all is
        too costly the cheapest, where nothing can be compared none.
    opposite: the strongest affordable finding that goes the other way at the other sign of alpha.
    """

    judge: str
    max_ratio: float
    findings: Sequence[Finding]
    steered: Sequence[Finding]
    one_curve: bool
    kind: Kind = "open"
    subject: Finding | None = None
    opposite: Finding | None = None
    tried_both_signs: bool = False

    def baseline(self, name: str) -> Finding | None:
        """The baseline of that name; of several, the one at the alpha nearest the subject's."""
        alpha = self.subject.alpha if self.subject else 0.0
        named = [finding for finding in self.findings if finding.result.condition.baseline == name]
        return min(named, key=lambda finding: abs(finding.alpha - alpha), default=None)

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
    steered = [finding for finding in findings if finding.result.condition.baseline is None]
    curves = {(f.result.condition.vectors, f.result.condition.positions) for f in steered}
    shown = Verdict(judge, max_ratio, findings, steered, on_one_scale(results) and len(curves) == 1)
    if not steered or shown.baseline(UNSTEERED) is None:
        return shown
    by_size = sorted(steered, key=lambda finding: abs(finding.difference.value), reverse=True)
    moved = [finding for finding in by_size if finding.direction]
    if not moved:
        return replace(shown, kind="nothing", subject=by_size[0])
    # a condition is not taken for cheap because it alone has no ratio
    unknown = math.inf if any(finding.ratio for finding in steered) else 1.0
    costs = [finding.ratio.value if finding.ratio else unknown for finding in moved]
    affordable = [finding for finding, cost in zip(moved, costs, strict=True) if cost <= max_ratio]
    if not affordable:
        return replace(shown, kind="costly", subject=moved[costs.index(min(costs))])
    return _affordable(shown, *affordable)


def _affordable(shown: Verdict, best: Finding, *others: Finding) -> Verdict:
    """The verdict on what moved at a bearable cost, the strongest first."""

    def at_other_sign(finding: Finding) -> bool:
        return shown.one_curve and finding.alpha * best.alpha < 0

    opposite = next((f for f in others if at_other_sign(f) and f.direction != best.direction), None)
    both_signs = any(map(at_other_sign, shown.steered))
    found = replace(shown, kind="works", subject=best, opposite=opposite, tried_both_signs=both_signs)
    control = found.baseline(RANDOM)
    if control is not None and control.effect.overlaps(best.effect):
        return replace(found, kind="unspecific")
    if shown.one_curve and best.alpha * best.direction < 0:
        return replace(found, kind="backwards")
    return found


def _findings(results: Sequence[ConditionResult], judge: str) -> list[Finding]:
    judged = [(result, found) for result in results if (found := effect(result, judge))]
    unsteered = next((found for result, found in judged if result.condition.baseline == UNSTEERED), None)
    return [_finding(result, judge, found, unsteered or found) for result, found in judged]


def _finding(result: ConditionResult, judge: str, found: Estimate, unsteered: Estimate) -> Finding:
    numbers, alpha = result.judges[judge], single_alpha(result) or 0.0
    is_rate = known(numbers.rate) is not None
    (low, high), (other_low, other_high) = found.ends, unsteered.ends
    apart = Estimate(found.value - unsteered.value, low - other_high, high - other_low)
    difference = (known(numbers.rate_difference) if is_rate else None) or apart
    direction = int(difference.ends[0] > 0) - int(difference.ends[1] < 0)
    ratio = known(result.perplexity_ratio)
    return Finding(result, judge, alpha, is_rate, found, difference, direction, ratio)


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
    steered: dict[int, tuple[Layer, Steered] | None]


def layers_verdict(layers: Sequence[Layer]) -> LayersVerdict | None:
    """What the layers show; None where no layer's separation could be measured."""
    measured = [(layer, auroc) for layer in layers if (auroc := known(layer.auroc))]
    if not measured:
        return None
    best, auroc = max(measured, key=lambda pair: pair[1].value)
    rivals = sum(other.overlaps(auroc) for layer, other in measured if layer is not best)
    return LayersVerdict(best, auroc, rivals, _best_steered(layers))


def _best_steered(layers: Sequence[Layer]) -> dict[int, tuple[Layer, Steered] | None]:
    best: dict[int, tuple[Layer, Steered] | None] = {}
    for sign in (1, -1):
        tried = [
            (sign * rate.value, ratio.value, (layer, steered))
            for layer in layers
            for steered in layer.steer
            if sign * steered.alpha > 0
            and (rate := known(steered.rate))
            and (ratio := known(steered.perplexity_ratio))
        ]
        affordable = [(moved, place) for moved, ratio, place in tried if ratio <= MAX_PPL_RATIO]
        if tried:
            best[sign] = max(affordable, key=lambda pair: pair[0])[1] if affordable else None
    return best
