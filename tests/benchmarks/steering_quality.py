"""Which method steers best: the judge's rate each reaches within a bound on perplexity.

python tests/benchmarks/steering_quality.py DATA_DIR [...] [--tasks sentiment+ toxicity-] [--pairs happy:sad]

A task is a folder's NAME.pos.jsonl and NAME.neg.jsonl, steered up (NAME+) or down (NAME-). Of each
side the odd texts fit the vector, the even ones train the judge (logistic regression on sentence
embeddings). On one half of the prompts each method is calibrated: for every bound on the
perplexity ratio, the strength whose expected rate is best within it. What is reported is measured
on the other half: rate and ratio there, with 95 % intervals over prompts, and how many points the
default method is ahead of it, paired by prompt (positive: the default moved text further).
Prompts are prompts.NAME.jsonl, else prompts.neutral.jsonl, else the built-in openings.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from record import recorded

from neurosteer_cli.data.prompts import prompts_of
from neurosteer_cli.data.sides import open_sides
from neurosteer_cli.evaluation.calibrate import monotone
from neurosteer_cli.evaluation.evaluate import evaluate
from neurosteer_cli.evaluation.judges.data import THRESHOLD, train
from neurosteer_cli.evaluation.judges.judge import Judge
from neurosteer_cli.evaluation.measures.metrics import Bootstrap
from neurosteer_cli.evaluation.results import ConditionResult
from neurosteer_cli.evaluation.runs.comparison import Run, random_counterpart
from neurosteer_cli.evaluation.runs.plan import Alphas, Plan
from neurosteer_cli.evaluation.runs.samples import PROMPTING, UNSTEERED, Condition, Sample
from neurosteer_cli.generation.continuation import GenerationConfig
from neurosteer_cli.generation.prompts import Prompt
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.saes.load import BUNDLED, find_saes, open_saes
from neurosteer_cli.vectors.fitting.from_texts import build
from neurosteer_cli.vectors.fitting.methods import METHODS
from neurosteer_cli.vectors.fitting.reading import Reading
from neurosteer_cli.vectors.vector import SteeringVector

BOUNDS = (1.1, 1.25, 1.5)
DOSES = (4.0, 8.0, 14.0, 20.0, 28.0)
CONFIG = GenerationConfig(max_new_tokens=30, batch_size=64)
TOP_K = 100
SINGLE = HookPoint(20)
DEFAULT = "neurosteer 14,17,20"
INSTRUCTIONS = {
    "sentiment": ("Write a positive, happy text.", "Write a negative, unhappy text."),
    "politeness": ("Please be polite.", "Be rude."),
    "toxicity": ("Write a toxic, insulting text.", "Write a friendly text without insults or swearing."),
    "polite": ("Please be polite.", "Be rude."),
    "happy": ("Write a positive, happy text.", "Write a negative, unhappy text."),
}


@dataclass(frozen=True)
class Task:
    name: str
    up: bool
    positive: Path
    negative: Path
    prompts: Path | None

    def __str__(self) -> str:
        return self.name + ("+" if self.up else "-")


class Point(NamedTuple):
    """One strength as calibration found it."""

    alpha: float
    rate: float
    ratio: float


@dataclass(frozen=True)
class Cell:
    """What a method reaches within one bound."""

    task: str
    method: str
    bound: float | None
    alpha: float
    rate: dict[str, Any]
    ratio: dict[str, Any]
    behind: dict[str, Any]  # the default's rate less this one's, in the direction asked for


class Outcome(NamedTuple):
    """What a strength does."""

    result: ConditionResult
    hits: torch.Tensor  # [2, n_prompts]: texts the judge finds positive, and how many it judged


def find_tasks(folder: Path, pairs: Sequence[str]) -> list[Task]:
    files = {
        path.name.removesuffix(".pos.jsonl"): (path, folder / path.name.replace(".pos.", ".neg."))
        for path in sorted(folder.glob("*.pos.jsonl"))
    }
    for pair in pairs:
        up, down = pair.split(":")
        if (folder / f"{up}.jsonl").is_file():
            files[up] = (folder / f"{up}.jsonl", folder / f"{down}.jsonl")
    found = []
    for name, (positive, negative) in files.items():
        candidates = (
            folder / f"prompts.{name}.jsonl",
            folder / "prompts.neutral.jsonl",
            folder / "prompts.jsonl",
        )
        prompts = next((path for path in candidates if path.is_file()), None)
        found += [Task(name, up, positive, negative, prompts) for up in (True, False)]
    return found


def halves(task: Task, folder: Path) -> tuple[tuple[str, str], tuple[str, str]]:
    """The files to fit on and those to train the judge on."""
    parts: list[tuple[str, str]] = []
    for which in ("fit", "judge"):
        names = []
        for side, path in (("pos", task.positive), ("neg", task.negative)):
            lines = [line for line in path.read_text().split("\n") if line.strip()]
            part = folder / f"{task.name}.{side}.{which}.jsonl"
            part.write_text("\n".join(lines[1::2] if which == "fit" else lines[::2]) + "\n")
            names.append(str(part))
        parts.append((names[0], names[1]))
    return parts[0], parts[1]


def fit_all(engine: Engine, files: tuple[str, str]) -> dict[str, SteeringVector]:
    """Every method's vector from one reading of the texts."""
    saes = open_saes(find_saes(BUNDLED, model_id=engine.model_id), engine)
    spread = [HookPoint(layer) for layer in (14, 17, 20)]
    points = sorted({SINGLE, *spread, *saes})
    vectors = {}
    with open_sides(list(files)) as sides:
        reading = Reading(engine, sides, points, saes, pairs=True)
        reading.run()
        for name in METHODS:
            for where, chosen in {"20": [SINGLE], "14,17,20": spread}.items():
                if name in ("pca", "paper") and len(chosen) > 1:
                    continue
                vectors[f"{name} {where}"] = build(reading, chosen, name, TOP_K)
    vectors["random 20"] = random_counterpart([vectors["diffmean 20"]], (1.0,), seed=0)
    return vectors


def ready(engine: Engine, task: Task, methods: Sequence[str]) -> tuple[dict[str, SteeringVector], Judge]:
    """Every method's vector, the default's first, and the judge."""
    with tempfile.TemporaryDirectory() as folder:
        fit_files, judge_files = halves(task, Path(folder))
        vectors = fit_all(engine, fit_files)
        vectors = {name: vectors[name] for name in dict.fromkeys((DEFAULT, *(methods or vectors)))}
        judge = train(judge_files)
    print(
        f"== {task.name}: judge right on {judge.card['balanced_accuracy']:.2f} of held-out texts", flush=True
    )
    return vectors, judge


def write(
    engine: Engine,
    prompts: Sequence[Prompt],
    instructed: Sequence[Prompt],
    vectors: Mapping[str, SteeringVector],
    doses: Mapping[str, Sequence[float]],
    n: int,
    seed: int,
) -> list[Sample]:
    """Every method at its doses, unsteered and prompted: all rows share batches and noise."""
    names = [name for name in doses if doses[name]]
    conditions: list[tuple[Condition, Alphas]] = [(Condition(("",), (0.0,), "all", UNSTEERED), ())]
    if instructed:
        conditions.append((Condition(("",), (0.0,), "all", PROMPTING), ()))
    for number, name in enumerate(names):
        for alpha in dict.fromkeys(doses[name]):
            if alpha:
                conditions.append((Condition((name,), (alpha,)), (*(0.0,) * number, alpha)))
    config = replace(CONFIG, sampling=replace(CONFIG.sampling, seed=seed))
    chosen = [vectors[name] for name in names]
    plan = Plan(engine, prompts, chosen, conditions, config, n, instructed)
    return plan.samples(dict(plan.records()))


def key_of(condition: Condition) -> tuple[str, float]:
    """A condition as cells and curves name it: method and strength."""
    return condition.baseline or condition.vectors[0], sum(condition.alphas or ())


def outcomes(
    engine: Engine, judge: Judge, prompts: Sequence[Prompt], samples: Sequence[Sample]
) -> dict[tuple[str, float], Outcome]:
    found = evaluate(Run(engine, samples), [judge])
    unit = {prompt.shown: number for number, prompt in enumerate(prompts)}
    hits = {result.condition: torch.zeros(2, len(unit), dtype=torch.float64) for result in found.results}
    for sample, score in zip(samples, found.scores["data"], strict=True):
        if score is not None:
            hits[sample.condition][:, unit[sample.prompt]] += torch.tensor([score >= THRESHOLD, 1])
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


def measure(engine: Engine, task: Task, n: int, methods: Sequence[str]) -> None:
    """Calibrate every method on half of the prompts and print what it does on the rest."""
    sign = 1 if task.up else -1
    vectors, judge = ready(engine, task, methods)
    texts = [located.record["prompt"] for located in prompts_of(str(task.prompts) if task.prompts else None)]
    prompts = [Prompt({"prompt": text}, text, engine.prompt_ids(text)) for text in texts]
    said = INSTRUCTIONS.get(task.name, ("", ""))[0 if task.up else 1]
    instructed = [Prompt(p.record, p.shown, engine.prompt_ids(f"{said}\n{p.shown}")) for p in prompts]
    doses = {name: [sign * dose for dose in DOSES] for name in vectors}
    samples = write(engine, prompts[::2], [], vectors, doses, max(1, n // 2), seed=1)
    found = outcomes(engine, judge, prompts[::2], samples)
    zero = Point(0.0, rate_of(found[UNSTEERED, 0.0].result), 1.0)
    chosen = {}
    for name in vectors:
        results = {alpha: outcome.result for (one, alpha), outcome in found.items() if one == name}
        curve = [zero, *(Point(alpha, rate_of(one), ratio_of(one)) for alpha, one in results.items())]
        chosen[name] = {bound: round(best_alpha(curve, bound, task.up), 1) for bound in BOUNDS}
    doses = {name: list(alphas.values()) for name, alphas in chosen.items()}
    measured = prompts[1::2]
    samples = write(engine, measured, instructed[1::2] if said else [], vectors, doses, n, seed=2)
    found = outcomes(engine, judge, measured, samples)
    bootstrap = Bootstrap(len(measured))

    def cell(method: str, bound: float | None, alpha: float, key: tuple[str, float]) -> Cell:
        default_alpha = chosen[DEFAULT][bound or BOUNDS[-1]]
        default = found[(DEFAULT, default_alpha) if default_alpha else (UNSTEERED, 0.0)]
        behind = bootstrap.estimate(lambda a, b: sign * (a - b) + 0.0, default.hits, found[key].hits)
        assert behind is not None
        row = found[key].result.to_json()
        rate, ratio = row["judges"]["data"]["rate"], row["perplexity_ratio"]
        return Cell(str(task), method, bound, alpha, rate, ratio, asdict(behind))

    cells = [
        cell(name, bound, alpha, (name, alpha) if alpha else (UNSTEERED, 0.0))
        for name, alphas in chosen.items()
        for bound, alpha in alphas.items()
    ]
    cells += [cell(key[0], None, 0.0, key) for key in ((UNSTEERED, 0.0), (PROMPTING, 0.0)) if key in found]
    show(cells)


def rate_of(result: ConditionResult) -> float:
    rate = result.judges["data"].rate
    assert rate is not None
    return rate.value


def ratio_of(result: ConditionResult) -> float:
    assert result.perplexity_ratio is not None
    return result.perplexity_ratio.value


def show(cells: Sequence[Cell]) -> None:
    for method in dict.fromkeys(one.method for one in cells):
        shown = " | ".join(_shown(one) for one in cells if one.method == method)
        print(f"{method:20} {shown}", flush=True)


def _shown(one: Cell) -> str:
    within = f"<= {one.bound:<4g} alpha {one.alpha:+5.1f}: " if one.bound else ""
    rate = f"{one.rate['value']:4.0%} [{one.rate['low']:.0%}, {one.rate['high']:.0%}]"
    value, low, high = (100 * one.behind[key] for key in ("value", "low", "high"))
    return f"{within}{rate} at {one.ratio['value']:.2f}, default ahead {value:+.0f} [{low:+.0f}, {high:+.0f}]"


def asked(description: str, *, n: str) -> argparse.Namespace:
    """The options, and as `tasks` the tasks they name."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="+")
    parser.add_argument("--tasks", nargs="*", help="such as sentiment+ toxicity-; all if left out")
    parser.add_argument("--pairs", nargs="*", default=[], help="POS:NEG of files POS.jsonl, NEG.jsonl")
    parser.add_argument("--methods", nargs="*", help="such as 'neurosteer 20' 'diffmean 14,17,20'")
    parser.add_argument("-n", type=int, default=4, help=n)
    options = parser.parse_args()
    tasks = [task for folder in options.folder for task in find_tasks(folder, options.pairs)]
    known = [str(task) for task in tasks]
    if unknown := set(options.tasks or []) - set(known):
        sys.exit(f"no task {sorted(unknown)}; there are {known}")
    options.tasks = [task for task in tasks if not options.tasks or str(task) in options.tasks]
    return options


def main() -> None:
    options = asked(__doc__, n="continuations a prompt; half as many to calibrate")
    engine = Engine.load()
    for task in options.tasks:
        measure(engine, task, options.n, options.methods or ())


if __name__ == "__main__":
    with recorded(__file__):
        main()
