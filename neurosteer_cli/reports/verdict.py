"""What an evaluation shows, hedged by its intervals: the kind of verdict and the findings behind it.

Knows results and their intervals; knows nothing of charts, HTML or words, which are `verdict.html`'s.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from ..data.sides import FEW_TEXTS
from ..evaluation.layers import Layer, LayerSweep, Steered
from ..evaluation.measures.metrics import Estimate, known
from ..evaluation.results import ConditionResult
from ..evaluation.runs.samples import FEW_PROMPTS, MAX_PPL_RATIO, RANDOM, UNSTEERED
from ..vectors.metadata import Calibration
from .tables import effect, on_one_scale, single_alpha
from .text import fixed

Kind = Literal["works", "downwards", "unspecific", "backwards", "costly", "nothing", "open"]


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
    n_prompts: of the condition with the most.
    subject: the strongest affordable finding of what is wanted, more positive texts at an alpha above 0;
        else of any other; where nothing moved the largest, where all is too costly the cheapest, where
        nothing can be compared none.
    rivals: affordable findings that go the same way and are not told apart from the subject; where
        nothing moved those whose difference is as large.
    opposite: the strongest affordable finding that goes the other way at the other sign of alpha.
    """

    judge: str
    max_ratio: float
    findings: Sequence[Finding]
    steered: Sequence[Finding]
    one_curve: bool
    n_prompts: int
    kind: Kind = "open"
    subject: Finding | None = None
    rivals: Sequence[Finding] = ()
    opposite: Finding | None = None
    tried_both_signs: bool = False

    @property
    def has_few_prompts(self) -> bool:
        """Whether they are too few to tell, however narrow the intervals are."""
        return self.kind != "open" and self.n_prompts < FEW_PROMPTS

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
    one_curve = on_one_scale(results) and len(curves) == 1
    n_prompts = max((result.n_prompts for result in results), default=0)
    shown = Verdict(judge, max_ratio, findings, steered, one_curve, n_prompts)
    if not steered or shown.baseline(UNSTEERED) is None:
        return shown
    by_size = sorted(steered, key=lambda f: (-abs(f.difference.value), abs(f.alpha)))
    moved = [finding for finding in by_size if finding.direction]
    if not moved:
        return replace(shown, kind="nothing", subject=by_size[0], rivals=_as_large(by_size))
    # a condition is not taken for cheap because it alone has no ratio
    unknown = math.inf if any(finding.ratio for finding in steered) else 1.0
    costs = [finding.ratio.value if finding.ratio else unknown for finding in moved]
    affordable = [finding for finding, cost in zip(moved, costs, strict=True) if cost <= max_ratio]
    if not affordable:
        return replace(shown, kind="costly", subject=moved[costs.index(min(costs))])
    return _affordable(shown, affordable)


def _as_large(by_size: Sequence[Finding]) -> Sequence[Finding]:
    """Those after the first whose difference is of its size."""
    largest, *others = by_size
    size = abs(largest.difference.value)
    return [each for each in others if math.isclose(abs(each.difference.value), size, abs_tol=1e-9)]


def _affordable(shown: Verdict, moved: Sequence[Finding]) -> Verdict:
    """The verdict on what moved at a bearable cost, the strongest first."""

    def is_wanted(finding: Finding) -> bool:
        return finding.direction > 0 and (finding.alpha > 0 or not shown.one_curve)

    best = next(filter(is_wanted, moved), moved[0])

    def is_at_other_sign(finding: Finding) -> bool:
        return shown.one_curve and finding.alpha * best.alpha < 0

    def does_as_well(finding: Finding) -> bool:
        same_way = finding.direction == best.direction and not is_at_other_sign(finding)
        return finding is not best and same_way and finding.effect.overlaps(best.effect)

    found = replace(
        shown,
        kind="works" if is_wanted(best) else "downwards",
        subject=best,
        rivals=[*filter(does_as_well, moved)],
        opposite=next((f for f in moved if is_at_other_sign(f) and f.direction != best.direction), None),
        tried_both_signs=any(map(is_at_other_sign, shown.steered)),
    )
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
class Recommendation:
    """An alpha that a calibration found, in one direction; `finding` None: it found none."""

    sign: int
    finding: Finding | None

    @property
    def alpha(self) -> float | None:
        return self.finding.alpha if self.finding else None

    @property
    def has_effect(self) -> bool:
        """Whether it moves texts beyond its interval: what does not is not recommended."""
        return self.finding is not None and self.finding.direction != 0


def recommendations(calibration: Calibration, shown: Verdict) -> list[Recommendation]:
    """Upwards and downwards: what the calibration found, and what the judge's intervals say of it."""
    at = {finding.alpha: finding for finding in shown.steered}
    found = ((1, calibration.alpha_up), (-1, calibration.alpha_down))
    return [Recommendation(sign, None if alpha is None else at.get(alpha)) for sign, alpha in found]


@dataclass(frozen=True)
class SteeredVerdict:
    """Layers and alphas of one sign that move the rate most at an affordable cost.

    best: the strongest first, then those that its interval does not tell apart from it; none where no
        layer is affordable.
    has_effect: whether the strongest is told apart from the unsteered texts.
    """

    best: Sequence[tuple[Layer, Steered]]
    has_effect: bool

    @property
    def layers(self) -> list[int]:
        return sorted({layer.layer for layer, _ in self.best})

    @property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest rate among them."""
        rates = [rate.value for _, steered in self.best if (rate := known(steered.rate))]
        return min(rates), max(rates)


@dataclass(frozen=True)
class LayersVerdict:
    """Where the sides part best and, where it was tried, where steering moves texts most.

    best: the layer of highest AUROC, and in their order all that its interval does not tell apart from it.
    steered: for either sign of alpha that was tried.
    n_texts: of the side with the fewest.
    """

    best: Sequence[tuple[Layer, Estimate]]
    auroc: Estimate
    steered: dict[int, SteeredVerdict]
    n_prompts: int | None
    n_texts: int

    @property
    def layers(self) -> list[int]:
        return [layer.layer for layer, _ in self.best]

    @property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest AUROC among them."""
        values = [auroc.value for _, auroc in self.best]
        return min(values), max(values)

    @property
    def is_even(self) -> bool:
        """Whether their AUROCs are the same, as they are written."""
        return len(set(map(fixed, self.range))) == 1

    @property
    def has_few_texts(self) -> bool:
        return self.n_texts < FEW_TEXTS

    @property
    def has_few_prompts(self) -> bool:
        return self.n_prompts is not None and self.n_prompts < FEW_PROMPTS


def layers_verdict(sweep: LayerSweep) -> LayersVerdict | None:
    """What the layers show; None where no layer's separation could be measured."""
    measured = [(layer, auroc) for layer in sweep.layers if (auroc := known(layer.auroc))]
    if not measured:
        return None
    highest = max((auroc for _, auroc in measured), key=lambda auroc: auroc.value)
    best = [(layer, auroc) for layer, auroc in measured if auroc.overlaps(highest)]
    n_texts = min(sweep.provenance["n_texts"])
    return LayersVerdict(best, highest, _best_steered(sweep), sweep.provenance["prompts"], n_texts)


def _best_steered(sweep: LayerSweep) -> dict[int, SteeredVerdict]:
    found: dict[int, SteeredVerdict] = {}
    for sign in (1, -1):
        tried = [
            (sign * rate.value, rate, ratio.value, (layer, steered))
            for layer in sweep.layers
            for steered in layer.steer
            if sign * steered.alpha > 0
            and (rate := known(steered.rate))
            and (ratio := known(steered.perplexity_ratio))
        ]
        affordable = sorted((t for t in tried if t[2] <= MAX_PPL_RATIO), key=lambda t: t[0], reverse=True)
        if affordable:
            unsteered, top = known(sweep.unsteered_rate), affordable[0][1]
            best = [place for _, rate, _, place in affordable if rate.overlaps(top)]
            found[sign] = SteeredVerdict(best, unsteered is not None and not top.overlaps(unsteered))
        elif tried:
            found[sign] = SteeredVerdict([], False)
    return found
