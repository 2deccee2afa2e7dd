"""How far each method moves text at equal cost, without a calibration, which few prompts place roughly.

python tests/benchmarks/steering_frontier.py DATA_DIR [...] [--tasks sentiment+] [--pairs happy:sad]

Tasks, halves and judge are those of steering_quality.py. Every method writes at every dose on all
neutral prompts of the folders and the built-in openings. A method's gain within a bound is how many
points the judge's mean probability moves up to where the curve of dose against perplexity ratio
first crosses the bound; its 95 % interval is over prompts. The default's lead over a method is the
difference of their gains, mean over the bounds, paired by prompt: a task, and over all tasks.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from record import recorded
from steering_quality import BOUNDS, DEFAULT, Task, asked, key_of, ready, write
from torch import Tensor

from neurosteer_cli.data.prompts import prompts_of
from neurosteer_cli.evaluation.judges.judge import Judge
from neurosteer_cli.evaluation.measures.likelihood import log_probs
from neurosteer_cli.evaluation.measures.metrics import Bootstrap, Estimate
from neurosteer_cli.evaluation.runs.samples import UNSTEERED
from neurosteer_cli.generation.prompts import Prompt
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.vectors.vector import SteeringVector

DOSES = (8.0, 14.0, 20.0)


class Dose(NamedTuple):
    """What a strength does, a prompt: the judge's probability, and negative log-probability a token."""

    score: Tensor  # [2, n_prompts]: total and count
    cost: Tensor


Curves = dict[str, list[Dose]]  # by method: unsteered, then dose after dose


def curves(
    engine: Engine,
    vectors: Mapping[str, SteeringVector],
    judge: Judge,
    prompts: Sequence[Prompt],
    n: int,
    *,
    up: bool,
) -> Curves:
    """What every method does at every dose."""
    doses = [dose if up else -dose for dose in DOSES]
    samples = write(engine, prompts, [], vectors, dict.fromkeys(vectors, doses), n, seed=3)
    scores = judge.score([one.prompt for one in samples], [one.text for one in samples], lambda _n: None)
    unit = {prompt.shown: number for number, prompt in enumerate(prompts)}
    pairs = []
    for one in samples:
        ids = prompts[unit[one.prompt]].ids
        pairs.append((ids, engine.continuation_ids(one.prompt, ids, one.text, rendered=False)))
    sums: dict[tuple[str, float], Tensor] = {}  # [2, 2, n_prompts]: score and cost, total and count
    for one, score, text in zip(samples, scores.scores, log_probs(engine, pairs), strict=True):
        empty = torch.zeros(2, 2, len(unit), dtype=torch.float64)
        at = sums.setdefault(key_of(one.condition), empty)[:, :, unit[one.prompt]]
        if score is not None and len(text):
            at += torch.tensor([[score, 1.0], [-float(text.double().mean()), 1.0]])
    return {
        name: [Dose(*sums[key]) for key in ((UNSTEERED, 0.0), *((name, dose) for dose in doses))]
        for name in vectors
    }


def reach(scores: Sequence[Tensor], costs: Sequence[Tensor], bound: float) -> Tensor:
    """The furthest that a curve gets up to where its perplexity ratio first exceeds the bound.

    scores, costs: unsteered, then dose after dose; between two, both are taken as straight lines.
    """
    furthest, is_within = scores[0], torch.ones_like(scores[0], dtype=torch.bool)
    for i in range(1, len(scores)):
        low, high = costs[i - 1] - costs[0], costs[i] - costs[0]
        crossing = ((math.log(bound) - low) / (high - low).clamp_min(1e-9)).clamp(0.0, 1.0)
        share = torch.where(high <= math.log(bound), 1.0, crossing)
        there = torch.maximum(furthest, scores[i - 1] + share * (scores[i] - scores[i - 1]))
        furthest = torch.where(is_within, there, furthest)
        is_within = is_within & (high <= math.log(bound))
    return furthest


def frontier(
    found: Mapping[Task, Curves], bounds: Sequence[float], first: str, other: str | None
) -> Estimate:
    """How much further the first method gets than the other, or than unsteered text: mean over tasks, bounds.

    In points of the judge's mean probability, with a 95 % interval over prompts.
    """
    used = [(task, name) for task in found for name in (first, *([other] if other else []))]
    doses = [dose for task, name in used for dose in found[task][name]]
    n_doses = 1 + len(DOSES)

    def difference(*means: Tensor) -> Tensor:
        total = torch.zeros_like(means[0])
        for number, (task, name) in enumerate(used):
            mine = means[2 * number * n_doses : 2 * (number + 1) * n_doses]
            sign = 100.0 if task.up else -100.0
            moved = [sign * (score - mine[0]) for score in mine[::2]]
            got = sum(reach(moved, mine[1::2], bound) for bound in bounds)
            total = total + (got if name == first else -got)
        return total / len(found) / len(bounds)

    n_prompts = doses[0].score.shape[1]
    lead = Bootstrap(n_prompts).estimate(difference, *(sums for dose in doses for sums in dose))
    assert lead is not None  # some text was scored
    return lead


def show(title: str, found: Mapping[Task, Curves]) -> None:
    """A line a method: how far it gets at each bound, and the default's lead over all bounds."""

    def shown(one: Estimate) -> str:
        return f"{one.value:+5.1f} [{one.low:+.1f}, {one.high:+.1f}]"

    print(f"-- {title}: points gained within {', '.join(map(str, BOUNDS))}; the default's lead", flush=True)
    for name in next(iter(found.values())):
        gains = " | ".join(shown(frontier(found, [bound], name, None)) for bound in BOUNDS)
        lead = "" if name == DEFAULT else f" | lead {shown(frontier(found, BOUNDS, DEFAULT, name))}"
        print(f"{name:20} {gains}{lead}", flush=True)


def main() -> None:
    options = asked(__doc__, n="continuations a prompt")
    engine = Engine.load()
    sources = [str(file) for folder in options.folder if (file := folder / "prompts.neutral.jsonl").is_file()]
    records = [one.record for source in (*sources, None) for one in prompts_of(source)]
    texts = dict.fromkeys(record["prompt"] for record in records)
    prompts = [Prompt({"prompt": text}, text, engine.prompt_ids(text)) for text in texts]
    found = {}
    for _, directions in groupby(options.tasks, key=lambda task: task.name):
        both = list(directions)
        vectors, judge = ready(engine, both[0], options.methods or ())
        for task in both:
            found[task] = curves(engine, vectors, judge, prompts, options.n, up=task.up)
            show(str(task), {task: found[task]})
            if len(found) > 1:
                show(f"{len(found)} tasks together, {len(prompts)} prompts", found)


if __name__ == "__main__":
    with recorded(__file__):
        main()
