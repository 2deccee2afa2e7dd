"""From a dose-response curve to the strengths worth recommending.

Knows results of an evaluation; knows nothing of how they were generated, nor of files.
"""

import math
from collections.abc import Sequence

from ..errors import NeurosteerError
from ..vectors.metadata import Calibration, CurvePoint, now
from .results import ConditionResult, Evaluation
from .runs.samples import MAX_PPL_RATIO, UNSTEERED

GENERATION = ("positions", "max_new_tokens", "sampling", "chat", "system")  # what a calibration holds for


def calibrate(evaluation: Evaluation, max_ppl_ratio: float = MAX_PPL_RATIO) -> Calibration:
    """The curve of a judge's rate over alpha, and the alpha of largest effect in either direction.

        comparison = Comparison(vectors=[("polite", polite)], alphas=[(-8,), (0,), (8,), (16,)], random=False)
        evaluation = evaluate(comparison.write(engine, prompts_of(None)), [judge])
        calibrate(evaluation).recommended(up=True)

    The effect is taken on the monotone curve through the rates, which noise moves less than a single rate.
    An alpha counts if its perplexity ratio, of several models the highest, and that of every alpha nearer 0,
    is at most `max_ppl_ratio`; one of which every text is empty or unanswered has no point on the curve.

    Args:
        evaluation: of one vector at several alphas, 0 among them, by one judge.
        max_ppl_ratio: perplexity at most this many times the unsteered one, from 1 up.

    Raises:
        NeurosteerError: alpha 0 has no point on the curve.
    """
    judge, made = evaluation.judges[0], evaluation.provenance
    calibration = Calibration(
        judge=judge.name,
        judge_facts=judge.card,
        model_id=made["model"],
        prompts_sha256=made["prompts_sha256"],
        n_prompts=made["n_prompts"],
        n=made["n"],
        generation={key: made[key] for key in GENERATION},
        max_ppl_ratio=max_ppl_ratio,
        ppl_models=made["ppl_models"],
        curve=_curve(evaluation.results, judge.name),
        alpha_up=None,
        alpha_down=None,
        created=now(),
    )
    up, down = (_largest_effect(calibration.allowed(), sign) for sign in (1, -1))
    return calibration.model_copy(update={"alpha_up": up, "alpha_down": down})


def _curve(results: Sequence[ConditionResult], judge: str) -> list[CurvePoint]:
    """A point an alpha, in ascending order."""
    measured = {
        result.condition.alphas[0]: (result, rate, ratio)
        for result in results
        if result.condition.alphas
        and result.condition.baseline in (None, UNSTEERED)
        and (rate := result.judges[judge].rate) is not None
        and (ratio := result.perplexity_ratio) is not None
        and math.isfinite(ratio.value)
    }
    if 0 not in measured:
        raise NeurosteerError(
            "the unsteered continuations are all empty or unjudged: nothing to compare with"
        )
    alphas = sorted(measured)
    ordered = [measured[alpha] for alpha in alphas]
    expected = monotone(alphas, [rate.value for _, rate, _ in ordered], [result.n for result, *_ in ordered])
    return [
        CurvePoint(
            alpha=alpha,
            rate=rate.value,
            rate_low=rate.low,
            rate_high=rate.high,
            expected_rate=expected_rate,
            perplexity_ratio=ratio.value,
            perplexity_ratio_low=ratio.low,
            perplexity_ratio_high=ratio.high,
            ppl_model=result.ppl_model,
            diversity=None if result.diversity is None else result.diversity.lowest,
        )
        for alpha, expected_rate, (result, rate, ratio) in zip(alphas, expected, ordered, strict=True)
    ]


def monotone(alphas: Sequence[float], rates: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The monotone curve nearest the rates in least squares: isotonic regression (Barlow et al. 1972)."""
    from sklearn.isotonic import IsotonicRegression
    from sklearn.metrics import mean_squared_error

    curves = [
        IsotonicRegression(increasing=rises).fit(alphas, rates, weights).predict(alphas)
        for rises in (True, False)
    ]
    nearest = min(curves, key=lambda curve: mean_squared_error(rates, curve, sample_weight=weights))
    return [float(rate) for rate in nearest]


def _largest_effect(allowed: Sequence[CurvePoint], sign: int) -> float | None:
    """The alpha of one sign that moves the expected rate most, the nearest to 0 of equal ones."""
    zero = next(point for point in allowed if point.alpha == 0)
    best = max(
        (point for point in allowed if sign * point.alpha >= 0),
        key=lambda point: (abs(point.expected_rate - zero.expected_rate), -abs(point.alpha)),
    )
    return best.alpha or None
