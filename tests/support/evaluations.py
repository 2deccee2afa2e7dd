"""Made-up evaluations, calibrations and sweeps of layers for pages and plots, usual and unusual ones."""

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from neurosteer_cli.evaluation.layers import Layer, LayerSweep, Steered
from neurosteer_cli.evaluation.measures.metrics import Estimate
from neurosteer_cli.evaluation.results import ConditionResult, Diversity, Evaluation, JudgeResult, ModelResult
from neurosteer_cli.evaluation.runs.samples import PROMPTING, RANDOM, UNSTEERED, Condition, Sample
from neurosteer_cli.vectors.metadata import Calibration, CurvePoint

HOSTILE = (
    '</div></td></table><script>alert("x")</script><img src=http://example.com/x onerror=alert(1)> '
    "{{ 7 * 7 }} {% raw %} &amp; $\\frac{1}{0}$ \ud83d \x00\x1b[31m\u202e 漢字 ' \""
)
PROMPTS = ("I read your report and", "About the meeting tomorrow:", "Your invoice is late, so")
TEXTS = (
    " I appreciate your dedication to providing the best possible support to your clients. However, I must "
    "express my concerns regarding the timeline and the need to address any existing challenges.",
    " I'm impressed by what you have to say. Still, nobody here has the time to read forty pages of it.",
    " it looks fine to me.\n\n- The first point is new\n- The second is not\n\nShall we talk on Monday?",
)
PROVENANCE = {
    "model": "smollm2",
    "vectors": [{"name": "polite.st", "sha256": "2f5bccb4e2b6" * 5, "parameters": {"top_k": 100}}],
    "sampling": {"temperature": 0.8, "top_p": 0.95, "seed": 0, "greedy": False},
    "neutral_texts": None,
    "date": "2026-11-24T16:59:34+00:00",
}


@dataclass
class Judge:
    """What pages read of a judge."""

    name: str
    warnings: list[str] = field(default_factory=list)
    limits: str = "It was trained on the texts the vector was fitted on and may reward the same habits."
    card: dict[str, Any] = field(default_factory=lambda: {"accuracy": 0.93, "texts held out": 88})


def near(value: float, spread: float, top: float = math.inf) -> Estimate:
    """A value with an interval around it."""
    return Estimate(value, max(0.0, value - spread), min(top, value + spread))


def judged(rate: Estimate | None, unsteered: float | None = None, **more: Any) -> JudgeResult:
    """A judge's numbers; `unsteered` is the rate that the difference is taken to."""
    if rate is None:
        return JudgeResult(None, None, None, None, n_failed=240)
    difference = (
        None if unsteered is None else Estimate(*(end - unsteered for end in (rate.value, *rate.ends)))
    )
    return JudgeResult(
        rate, near(rate.value * 0.9 + 0.03, 0.04), difference, more.get("fluency"), more.get("n_failed", 0)
    )


def result(
    alphas: float | tuple[float, ...] | None,
    judges: dict[str, JudgeResult],
    ratio: Estimate | None = None,
    baseline: str | None = None,
    vectors: tuple[str, ...] = ("polite.st",),
    source: str | None = None,
    positions: str = "all",
    **more: Any,
) -> ConditionResult:
    """What was found of one condition."""
    alphas = (alphas,) if isinstance(alphas, (int, float)) else alphas
    dose = sum(map(abs, alphas or ()))
    perplexity = 8.4 * (ratio.value if ratio else 1.0)
    numbers: dict[str, Any] = {
        "dose": dose / 100,
        "n": 240,
        "n_prompts": 60,
        "n_empty": 0,
        "models": {
            "smollm2": ModelResult(near(perplexity, 0.08 * perplexity), ratio, near(0.92, 0.03), ratio)
        },
        "distinct_1": near(0.412, 0.013),
        "distinct_2": near(0.834, 0.011),
        "distinct_3": near(0.957, 0.006),
        "repetition_4": near(0.021, 0.008),
        "diversity": None if baseline == UNSTEERED else Diversity(1.001, 0.998, 0.99),
        "length": near(38.7, 0.6),
        "kl": (dose / 40) ** 2 if dose else None,
    }
    condition = Condition(vectors, alphas, positions, baseline, source)
    return ConditionResult(condition, judges=judges, **numbers | more)


def unsteered(**rates: Estimate) -> ConditionResult:
    return result(0.0, {name: judged(rate) for name, rate in rates.items()}, Estimate(1.0), UNSTEERED)


def series(
    tried: Iterable[tuple[Any, float, float]],  # alpha or alphas, rate, perplexity ratio
    spread: float,
    ratio_spread: float,
    unsteered: float | None = None,
    **more: Any,
) -> list[ConditionResult]:
    """What the judge `data` found, the rates and ratios with these spreads."""
    return [
        result(alpha, {"data": judged(near(rate, spread, 1.0), unsteered)}, near(ratio, ratio_spread), **more)
        for alpha, rate, ratio in tried
    ]


def evaluation(
    results: list[ConditionResult],
    *judges: Judge,
    title: str = "polite.st on smollm2",
    prompts: tuple[str, ...] = PROMPTS,
) -> Evaluation:
    draw = random.Random(0)
    samples = [
        Sample(one.condition, prompt, False, 0, draw.choice(TEXTS), "smollm2", one.dose)
        for prompt in prompts
        for one in results
    ]
    scores = {judge.name: [round(draw.random(), 3) for _ in samples] for judge in judges}
    return Evaluation(title, results, samples, scores, list(judges), PROVENANCE)


def working() -> Evaluation:
    """One vector, five alphas, one judge, all baselines: it works at 16 and breaks at 24."""
    tried = ((-8.0, 0.38, 1.02), (4.0, 0.66, 1.0), (8.0, 0.79, 1.03), (16.0, 0.955, 1.08), (24.0, 0.97, 1.62))
    results = [
        unsteered(data=near(0.61, 0.09)),
        *series(tried, 0.035, 0.07, 0.61),
        *series([(8.0, 0.60, 1.03), (16.0, 0.60, 1.11)], 0.09, 0.07, 0.61, baseline=RANDOM),
        *series([((), 0.83, 0.94)], 0.05, 0.05, 0.61, baseline=PROMPTING, vectors=()),
    ]
    return evaluation(results, Judge("data"))


def without_effect() -> Evaluation:
    """Nothing moves beyond its interval, by two judges, at three alphas."""
    results = [unsteered(data=near(0.5, 0.06), llm=near(0.4, 0.06))]
    for alpha, shift in ((4.0, 0.01), (8.0, -0.02), (16.0, 0.03)):
        rates = {"data": judged(near(0.5 + shift, 0.06)), "llm": judged(near(0.4 + shift, 0.06))}
        results.append(result(alpha, rates, near(1.0 + shift, 0.05)))
    return evaluation(results, Judge("data"), Judge("llm"), title="noise.st on smollm2")


def costly() -> Evaluation:
    """An effect, but only where perplexity is at least 1.6 times as high, and texts loop."""
    tried = ((8.0, 0.32, 1.1), (16.0, 0.55, 1.6), (32.0, 0.9, 7.5))
    results = [
        unsteered(data=near(0.3, 0.06)),
        *series(tried, 0.05, 0.2, 0.3, repetition_4=near(0.12, 0.03), n_empty=3),
        *series([(16.0, 0.31, 1.4)], 0.06, 0.2, baseline=RANDOM),
    ]
    return evaluation(results, Judge("data"), title="blunt.st on smollm2")


def single() -> Evaluation:
    """One condition and nothing to compare with."""
    return evaluation([result(8.0, {"data": judged(near(0.79, 0.05))})], Judge("data"))


def seven() -> Evaluation:
    """Seven conditions, two judges of which one failed on some texts, hostile, long and absent texts."""
    results = [
        result(
            alpha,
            {
                "data": judged(near(1 / (1 + math.exp(-alpha / 8)), 0.04, 1.0), 0.48),
                "llm": judged(near(0.45 + alpha / 80, 0.07, 1.0), 0.48, n_failed=3, fluency=near(0.8, 0.04)),
            },
            near(1 + (alpha / 30) ** 2, 0.06),
        )
        for alpha in (-24.0, -16.0, -8.0, 8.0, 16.0, 24.0)
    ]
    results.insert(0, unsteered(data=near(0.5, 0.06), llm=near(0.45, 0.07)))
    judges = (Judge("data"), Judge("llm", ["On 21 of 1680 texts it gave no answer that could be read."]))
    made = evaluation(results, *judges, prompts=(*PROMPTS, HOSTILE))
    made.scores["llm"][3] = None
    for number, text in ((2, HOSTILE), (7 + 4, " and again, and again" * 120)):
        made.samples[number] = replace(made.samples[number], text=text)
    for of_samples in (made.samples, *made.scores.values()):
        del of_samples[14 + 5]
    return made


def two_vectors() -> Evaluation:
    """Two vectors at once: an alpha for each."""
    tried = (((8.0, 4.0), 0.7, 1.04), ((8.0, -4.0), 0.62, 1.02), ((16.0, 8.0), 0.93, 1.31))
    steered = series(tried, 0.05, 0.08, 0.5, vectors=("polite.st", "happy.st"))
    results = [unsteered(data=near(0.5, 0.06)), *steered]
    return evaluation(results, Judge("data"), title="polite.st and happy.st on smollm2")


def published() -> Evaluation:
    """Generations read from files: no alpha, no vector, no ratio, names of any length."""
    results, scales = [], (("vader", 0.4, 0.15), ("llm", 0.5, 0.1))
    files = ("system-a_generations_final_version_3.jsonl", "system-b.jsonl", "$x^2$ <b>.jsonl")
    for place, source in enumerate(files):
        judges = {name: judged(near(low + step * place, 0.05)) for name, low, step in scales}
        results.append(result(None, judges, vectors=(), source=source, n=100 + place))
    return evaluation(results, Judge("vader"), Judge("llm"), title="3 files of generations")


def priced_twice() -> Evaluation:
    """By two models, of which the second is the more pessimistic of what is steered up; judged twice."""
    results = []
    for one in working().results:
        ratio = one.perplexity_ratio
        assert ratio is not None
        higher = ratio if one.condition.baseline else near(1.1 * ratio.value, 0.05)
        models = {**one.models, "org/other": ModelResult(near(12.0, 0.5), higher, near(1.1, 0.04), higher)}
        loops = one.condition.alphas == (16.0,)
        diversity = Diversity(0.91, 0.99, 0.955) if loops else one.diversity
        judges = one.judges | {"tfidf": judged(near(0.62, 0.03), 0.61)}
        results.append(replace(one, models=models, diversity=diversity, judges=judges))
    return evaluation(results, Judge("data"), Judge("tfidf"))


def hostile() -> Evaluation:
    """Every text is one that would break out of a page."""
    spoilt = Judge(HOSTILE, [HOSTILE], HOSTILE, {HOSTILE: [HOSTILE, {HOSTILE: HOSTILE}]})
    results = []
    for one in working().results:
        vectors = (HOSTILE,) * len(one.condition.vectors)
        condition = replace(one.condition, vectors=vectors, positions=HOSTILE)
        results.append(replace(one, condition=condition, judges={HOSTILE: one.judges["data"]}))
    made = evaluation(results, spoilt, title=HOSTILE, prompts=(HOSTILE,))
    samples = [replace(sample, text=HOSTILE) for sample in made.samples]
    return replace(made, samples=samples, provenance={HOSTILE: HOSTILE})


def failed() -> Evaluation:
    """A judge that gave no answer at all, and a model whose perplexity overflowed."""
    results = [replace(one, judges=one.judges | {"llm": judged(None)}) for one in working().results]
    overflown = ModelResult(Estimate(math.inf), Estimate(math.inf, 2.0, math.inf), Estimate(math.inf), None)
    results[5] = replace(results[5], models={"smollm2": overflown})
    return evaluation(results, Judge("data"), Judge("llm", ["It gave no answer."]))


def calibration(up: float | None = 16.0, down: float | None = -8.0) -> Calibration:
    """Of `working`, with further alphas; from 20 on too costly."""
    unknown = dict.fromkeys(("rate_low", "rate_high", "perplexity_ratio_low", "perplexity_ratio_high"))
    curve = [
        CurvePoint(
            alpha=alpha,
            rate=0.5,
            perplexity_ratio=1.0 if alpha < 20 else 1.6,
            ppl_model="smollm2",
            diversity=1.0,
            expected_rate=1 / (1 + math.exp(-(alpha + 4) / 7)),
            **unknown,
        )
        for alpha in (-8.0, -4.0, 0.0, 4.0, 8.0, 12.0, 16.0, 20.0, 24.0)
    ]
    return Calibration(
        judge="data",
        judge_facts={},
        model_id="smollm2",
        prompts_sha256="",
        n_prompts=60,
        n=4,
        generation={},
        max_ppl_ratio=1.25,
        ppl_models=["smollm2"],
        curve=curve,
        alpha_up=up,
        alpha_down=down,
        created="",
    )


def layer(
    number: int, auroc: Estimate | None = None, steer: list[Steered] | None = None, **more: Any
) -> Layer:
    numbers = {"sae_auroc": None, "shift_share": 0.02 + 0.003 * number, "resid_norm": 60.0 + 8.3 * number}
    return Layer(number, f"blocks.{number}.hook_resid_post", auroc, **numbers | more, steer=steer or [])


def layers(*, steer: bool = True) -> LayerSweep:
    """Thirty layers, an SAE at some, and with `steer` three doses at every third."""
    found = []
    for number in range(30):
        auroc = 0.55 + 0.44 * (1 - math.exp(-number / 7)) - 0.0004 * max(0, number - 20) ** 2
        doses = [
            Steered(
                alpha,
                near(0.5 + alpha / 40 * math.exp(-(((number - 16) / 9) ** 2)), 0.06, 1.0),
                near(1 + abs(alpha) / 60 * math.exp(-number / 20), 0.05),
                "smollm2",
                None,
            )
            for alpha in (-10.0, 10.0, 16.0)
        ]
        found.append(
            layer(
                number,
                Estimate(auroc, auroc - 0.03, min(1.0, auroc + 0.02)),
                doses if steer and number % 3 == 2 else [],
                sae_auroc=auroc - 0.02 if number in (10, 14, 20) else None,
            )
        )
    judge, rate = (Judge("data"), near(0.5, 0.06)) if steer else (None, None)
    provenance = PROVENANCE | {"n_texts": [60, 60], "prompts": 30 if steer else None}
    return LayerSweep("polite against rude on smollm2", found, provenance, judge, rate)
