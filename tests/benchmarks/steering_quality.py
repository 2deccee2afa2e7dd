"""Which method steers best: what it reaches within a bound on perplexity, as a user would calibrate it.

python tests/benchmarks/steering_quality.py DATA_DIR [...] [--tasks sentiment+ toxicity-] [--pairs happy:sad]

Tasks, vectors, controls, judges and models are those of steering_tasks.py. On one half of the prompts each
method is calibrated: for every bound on the perplexity ratio, of several models the highest, the strength
whose expected rate by the judge `data` is best within it. What is reported is measured on the other half:
the rate by both judges and the ratio there, with 95 % intervals over prompts, and how many points the
default method is ahead, paired by prompt (positive: the default moved text further). A strength at which
texts are less diverse than unsteered ones is marked with !.
Prompts are prompts.NAME.jsonl, else prompts.neutral.jsonl, else the built-in openings.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from record import recorded
from steering_tasks import BOUNDS, DEFAULT, Models, Task, asked, key_of, models_of, ready, write

from neurosteer_cli.data.prompts import prompts_of
from neurosteer_cli.evaluation.calibrate import monotone
from neurosteer_cli.evaluation.evaluate import evaluate
from neurosteer_cli.evaluation.judges.judge import Judge
from neurosteer_cli.evaluation.judges.labelled import THRESHOLD
from neurosteer_cli.evaluation.measures.metrics import Bootstrap, Estimate
from neurosteer_cli.evaluation.results import ConditionResult
from neurosteer_cli.evaluation.runs.comparison import Run
from neurosteer_cli.evaluation.runs.samples import PROMPTING, UNSTEERED, Sample
from neurosteer_cli.generation.prompts import Prompt
from neurosteer_cli.models.engine import Engine

DOSES = (4.0, 8.0, 14.0, 20.0, 28.0)
INSTRUCTIONS = {
    "sentiment": ("Write a positive, happy text.", "Write a negative, unhappy text."),
    "politeness": ("Please be polite.", "Be rude."),
    "toxicity": ("Write a toxic, insulting text.", "Write a friendly text without insults or swearing."),
    "polite": ("Please be polite.", "Be rude."),
    "happy": ("Write a positive, happy text.", "Write a negative, unhappy text."),
}


class Point(NamedTuple):
    """One strength as calibration found it."""

    alpha: float
    rate: float
    ratio: float


@dataclass(frozen=True)
class Cell:
    """What a method reaches within one bound."""

    method: str
    bound: float | None
    alpha: float
    result: ConditionResult
    behind: dict[str, Estimate]  # by judge: the default's rate less this one's, in the direction asked for


class Outcome(NamedTuple):
    """What a strength does."""

    result: ConditionResult
    hits: dict[str, torch.Tensor]  # by judge, [2, n_prompts]: texts it finds positive, and how many it judged


def outcomes(
    engine: Engine,
    judges: Sequence[Judge],
    models: Models,
    prompts: Sequence[Prompt],
    samples: Sequence[Sample],
) -> dict[tuple[str, float], Outcome]:
    found = evaluate(Run(engine, list(samples)), judges, ppl_models=models)
    unit = {prompt.shown: number for number, prompt in enumerate(prompts)}
    hits = {
        result.condition: {judge.name: torch.zeros(2, len(unit), dtype=torch.float64) for judge in judges}
        for result in found.results
    }
    for judge in judges:
        for sample, score in zip(samples, found.scores[judge.name], strict=True):
            if score is not None:
                at = hits[sample.condition][judge.name][:, unit[sample.prompt]]
                at += torch.tensor([score >= THRESHOLD, 1])
    return {key_of(result.condition): Outcome(result, hits[result.condition]) for result in found.results}


def best_alpha(curve: Sequence[Point], bound: float, up: bool) -> float:
    """The strength of best expected rate up to where the perplexity ratio reaches the bound.

    curve: unsteered first, then away from 0. Between two strengths the logarithm of the ratio and
    the expected rate are taken as straight lines.
    """
    rates = monotone([p.alpha for p in curve], [p.rate for p in curve], [1.0] * len(curve))
    within = [(rates[0] if up else -rates[0], -abs(curve[0].alpha), curve[0].alpha)]
    for i in range(1, len(curve)):
        share = 1.0
        if curve[i].ratio > bound:
            low, high = math.log(curve[i - 1].ratio), math.log(curve[i].ratio)
            share = min(1.0, max(0.0, (math.log(bound) - low) / (high - low)))
        alpha = curve[i - 1].alpha + share * (curve[i].alpha - curve[i - 1].alpha)
        rate = rates[i - 1] + share * (rates[i] - rates[i - 1])
        within.append((rate if up else -rate, -abs(alpha), alpha))
        if share < 1:
            break
    return max(within)[2]


def measure(engine: Engine, models: Models, task: Task, n: int, methods: Sequence[str]) -> None:
    """Calibrate every method on half of the prompts and print what it does on the rest."""
    sign = 1 if task.up else -1
    vectors, judges = ready(engine, task, methods)
    texts = [located.record["prompt"] for located in prompts_of(str(task.prompts) if task.prompts else None)]
    prompts = [Prompt({"prompt": text}, text, engine.prompt_ids(text)) for text in texts]
    said = INSTRUCTIONS.get(task.name, ("", ""))[0 if task.up else 1]
    instructed = [Prompt(p.record, p.shown, engine.prompt_ids(f"{said}\n{p.shown}")) for p in prompts]
    doses = {name: [sign * dose for dose in DOSES] for name in vectors}
    samples = write(engine, prompts[::2], [], vectors, doses, max(1, n // 2), seed=1)
    found = outcomes(engine, judges, models, prompts[::2], samples)
    zero = Point(0.0, rate_of(found[UNSTEERED, 0.0].result), 1.0)
    chosen = {}
    for name in vectors:
        results = {alpha: outcome.result for (one, alpha), outcome in found.items() if one == name}
        curve = [zero, *(Point(alpha, rate_of(one), ratio_of(one)) for alpha, one in results.items())]
        chosen[name] = {bound: round(best_alpha(curve, bound, task.up), 1) for bound in BOUNDS}
    doses = {name: list(alphas.values()) for name, alphas in chosen.items()}
    measured = prompts[1::2]
    samples = write(engine, measured, instructed[1::2] if said else [], vectors, doses, n, seed=2)
    found = outcomes(engine, judges, models, measured, samples)
    bootstrap = Bootstrap(len(measured))

    def cell(method: str, bound: float | None, alpha: float, key: tuple[str, float]) -> Cell:
        default_alpha = chosen[DEFAULT][bound or BOUNDS[-1]]
        default = found[(DEFAULT, default_alpha) if default_alpha else (UNSTEERED, 0.0)]
        behind = {
            name: bootstrap.estimate(lambda a, b: sign * (a - b) + 0.0, of_default, found[key].hits[name])
            for name, of_default in default.hits.items()
        }
        known = {name: estimate for name, estimate in behind.items() if estimate is not None}
        return Cell(method, bound, alpha, found[key].result, known)

    cells = [
        cell(name, bound, alpha, (name, alpha) if alpha else (UNSTEERED, 0.0))
        for name, alphas in chosen.items()
        for bound, alpha in alphas.items()
    ]
    cells += [cell(key[0], None, 0.0, key) for key in ((UNSTEERED, 0.0), (PROMPTING, 0.0)) if key in found]
    print(f"-- {task}, {len(measured)} prompts x {n}", flush=True)
    for one in cells:
        print(shown(one), flush=True)


def rate_of(result: ConditionResult) -> float:
    rate = result.judges["data"].rate
    assert rate is not None
    return rate.value


def ratio_of(result: ConditionResult) -> float:
    assert result.perplexity_ratio is not None
    return result.perplexity_ratio.value


def shown(one: Cell) -> str:
    within = f"<= {one.bound:<4g} alpha {one.alpha:+5.1f}" if one.bound else ""
    mark = "!" if one.result.is_less_diverse else " "
    by_judge = [
        f"{name} {interval(rate)}, default ahead {points(one.behind[name])}"
        for name, judged in one.result.judges.items()
        if (rate := judged.rate) is not None and name in one.behind
    ]
    ratio = f"ratio {ratio_of(one.result):.2f} ({one.result.ppl_model}){mark}"
    return f"{one.method:25} {within:22} {ratio} | {' | '.join(by_judge)} | {agreement(one.behind)}"


def interval(rate: Estimate) -> str:
    low, high = rate.ends
    return f"{rate.value:4.0%} [{low:.0%}, {high:.0%}]"


def points(found: Estimate) -> str:
    low, high = found.ends
    return f"{100 * found.value:+.0f} [{100 * low:+.0f}, {100 * high:+.0f}]"


def agreement(behind: dict[str, Estimate]) -> str:
    """Whether the judges find the default ahead of it, behind it, or neither, and the same."""
    signs = {int(found.ends[0] > 0) - int(found.ends[1] < 0) for found in behind.values()}
    if {1, -1} <= signs:
        return "judges apart"
    if len(signs) > 1:
        return "one judge alone"
    return {1: "both: default ahead", -1: "both: default behind", 0: "neither"}[signs.pop()]


def main() -> None:
    options = asked(__doc__, n="continuations a prompt; half as many to calibrate")
    engine = Engine.load()
    models = models_of(engine, options.ppl_model)
    for task in options.tasks:
        measure(engine, models, task, options.n, options.methods or ())


if __name__ == "__main__":
    with recorded(__file__):
        main()
