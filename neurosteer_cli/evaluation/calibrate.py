"""From a dose-response curve to the strengths worth recommending.

Knows results of an evaluation; knows nothing of how they were generated, nor of files.
"""

import math
from collections.abc import Sequence
from typing import Any

from ..errors import NeurosteerError
from ..vectors.metadata import Calibration, CurvePoint
from .evaluate import ConditionResult


def calibrate(
    results: Sequence[ConditionResult], judge: str, max_ppl_ratio: float, **facts: Any
) -> Calibration:
    """The curve of one judge's rate over alpha, and the alpha of largest effect in either direction.

    The effect is taken on the monotone curve through the rates, which noise moves less than a
    single rate; of equal effects the alpha nearer 0 is taken. An alpha counts if its perplexity
    ratio, and that of every alpha nearer 0, is at most `max_ppl_ratio`.

    Args:
        results: of one vector at several alphas, 0 among them.
        facts: the remaining fields of `Calibration`.

    An alpha of which every text is empty or unanswered has no point on the curve.

    Raises:
        NeurosteerError: alpha 0 is such a one.
    """
    known = [
        (_alpha(result), rate, ratio, result)
        for result in results
        if (rate := result.judges[judge].rate) is not None
        and (ratio := result.perplexity_ratio) is not None
        and math.isfinite(ratio.value)
    ]
    if not any(alpha == 0 for alpha, *_ in known):
        raise NeurosteerError(
            "the unsteered continuations are all empty or unjudged: nothing to compare with"
        )
    known.sort(key=lambda point: point[0])
    alphas, rates, ratios, ordered = zip(*known, strict=True)
    expected = monotone(alphas, [rate.value for rate in rates], [result.n for result in ordered])
    curve = [
        CurvePoint(
            alpha=alpha,
            rate=rate.value,
            rate_low=rate.low,
            rate_high=rate.high,
            expected_rate=level,
            perplexity_ratio=ratio.value,
            perplexity_ratio_low=ratio.low,
            perplexity_ratio_high=ratio.high,
        )
        for alpha, rate, level, ratio in zip(alphas, rates, expected, ratios, strict=True)
    ]
    undecided = Calibration(
        judge=judge, max_ppl_ratio=max_ppl_ratio, curve=curve, alpha_up=None, alpha_down=None, **facts
    )
    allowed = undecided.allowed()
    return Calibration(
        judge=judge,
        max_ppl_ratio=max_ppl_ratio,
        curve=curve,
        alpha_up=_largest_effect(allowed, [point for point in allowed if point.alpha > 0]),
        alpha_down=_largest_effect(allowed, [point for point in allowed if point.alpha < 0]),
        **facts,
    )


def monotone(alphas: Sequence[float], rates: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The monotone curve nearest the rates in weighted least squares, rising or falling as they do.

    Source: isotonic regression (Barlow et al. 1972), by scikit-learn.
    """
    from sklearn.isotonic import IsotonicRegression

    fits = []
    for increasing in (True, False):
        fitted = IsotonicRegression(increasing=increasing).fit(alphas, rates, weights).predict(alphas)
        error = sum(w * (f - r) ** 2 for w, f, r in zip(weights, fitted, rates, strict=True))
        fits.append((error, [float(value) for value in fitted]))
    return min(fits, key=lambda fit: fit[0])[1]


def _alpha(result: ConditionResult) -> float:
    assert result.condition.alphas is not None
    return result.condition.alphas[0]


def _largest_effect(allowed: Sequence[CurvePoint], side: Sequence[CurvePoint]) -> float | None:
    zero = min(allowed, key=lambda point: abs(point.alpha))

    def effect(point: CurvePoint) -> float:
        return abs(point.expected_rate - zero.expected_rate)

    best = max(side, key=lambda point: (effect(point), -abs(point.alpha)), default=None)
    return best.alpha if best is not None and effect(best) > 0 else None
