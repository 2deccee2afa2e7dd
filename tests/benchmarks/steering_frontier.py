"""How far each method moves text at equal cost, without a calibration, which few prompts place roughly.

python tests/benchmarks/steering_frontier.py DATA_DIR [...] [--tasks sentiment+] [--pairs happy:sad]

Tasks, vectors, controls, judges and models are those of steering_tasks.py. Every method writes at every dose
on all neutral prompts of the folders and the built-in openings. A method's gain within a bound is how many
points a judge's mean probability moves up to where the curve of dose against perplexity ratio first crosses
the bound; of several models' ratios the highest counts at every dose. Its 95 % interval is over prompts. The
default's lead over a method is the difference of their gains, mean over the bounds, paired by prompt: a
task, and over all tasks; by both judges, and whether they agree.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from record import recorded
from steering_quality import agreement
from steering_tasks import BOUNDS, DEFAULT, Models, Task, asked, key_of, models_of, ready, write
from torch import Tensor

from neurosteer_cli.data.prompts import prompts_of
from neurosteer_cli.evaluation.judges.judge import Judge
from neurosteer_cli.evaluation.measures.likelihood import Written, likelihoods
from neurosteer_cli.evaluation.measures.metrics import Bootstrap, Estimate
from neurosteer_cli.evaluation.runs.samples import UNSTEERED, Sample
from neurosteer_cli.generation.prompts import Prompt
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.vectors.vector import SteeringVector

DOSES = (8.0, 14.0, 20.0)


class Dose(NamedTuple):
    """What a strength does, a prompt, each [2, n_prompts]: total and count."""

    scores: dict[str, Tensor]  # by judge: its probability
    costs: list[Tensor]  # by model: negative log-probability a token


Curves = dict[str, list[Dose]]  # by method: unsteered, then dose after dose


def curves(
    engine: Engine,
    vectors: Mapping[str, SteeringVector],
    judges: Sequence[Judge],
    models: Models,
    prompts: Sequence[Prompt],
    n: int,
    *,
    up: bool,
) -> Curves:
    """What every method does at every dose."""
    doses = [dose if up else -dose for dose in DOSES]
    samples = write(engine, prompts, [], vectors, dict.fromkeys(vectors, doses), n, seed=3)
    values = {
        **{judge.name: judge.score([""] * len(samples), [one.text for one in samples], _quiet).scores
           for judge in judges},
        **{name: _costs(load(), samples) for name, load in models.items()},
    }  # fmt: skip
    unit = {prompt.shown: number for number, prompt in enumerate(prompts)}
    sums: dict[tuple[str, float], dict[str, Tensor]] = {}
    for number, one in enumerate(samples):
        at = sums.setdefault(key_of(one.condition), {name: _nothing(len(unit)) for name in values})
        found = {name: of[number] for name, of in values.items()}
        if None not in found.values():  # an empty text counts for nothing
            for name, value in found.items():
                at[name][:, unit[one.prompt]] += torch.tensor([float(value or 0), 1.0])
    by_key = {
        key: Dose({judge.name: of[judge.name] for judge in judges}, [of[name] for name in models])
        for key, of in sums.items()
    }
    return {
        name: [by_key[key] for key in ((UNSTEERED, 0.0), *((name, dose) for dose in doses))]
        for name in vectors
    }


def _costs(model: Engine, samples: Sequence[Sample]) -> list[float | None]:
    found = likelihoods(model, [Written(one.prompt, one.text, False) for one in samples])
    return [None if mean is None else -mean for mean in found.means]


def _nothing(n_prompts: int) -> Tensor:
    return torch.zeros(2, n_prompts, dtype=torch.float64)


def _quiet(_n: int) -> None:
    pass


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


def highest(costs: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Of each dose, [doses][models], how much it costs over the unsteered by the most pessimistic model."""
    free = torch.stack(list(costs[0]))
    return [(torch.stack(list(at)) - free).amax(0) for at in costs]


def frontier(
    found: Mapping[Task, Curves], judge: str, bounds: Sequence[float], first: str, other: str | None
) -> Estimate:
    """How much further the first method gets than the other, or than unsteered text: mean over tasks, bounds.

    In points of the judge's mean probability, with a 95 % interval over prompts.
    """
    used = [(task, name) for task in found for name in (first, *([other] if other else []))]
    doses = [dose for task, name in used for dose in found[task][name]]

    def difference(*means: Tensor) -> Tensor:
        each, total = iter(means), torch.zeros_like(means[0])
        for task, name in used:
            mine = [(next(each), [next(each) for _ in dose.costs]) for dose in found[task][name]]
            sign = 100.0 if task.up else -100.0
            moved = [sign * (score - mine[0][0]) for score, _ in mine]
            got = sum(reach(moved, highest([costs for _, costs in mine]), bound) for bound in bounds)
            total = total + (got if name == first else -got)
        return total / len(found) / len(bounds)

    sums = [each for dose in doses for each in (dose.scores[judge], *dose.costs)]
    lead = Bootstrap(sums[0].shape[1]).estimate(difference, *sums)
    assert lead is not None  # some text was scored
    return lead


def show(title: str, found: Mapping[Task, Curves]) -> None:
    """A line a method and judge: how far it gets at each bound, and the default's lead over all bounds."""
    print(f"-- {title}: points gained within {', '.join(map(str, BOUNDS))}; the default's lead", flush=True)
    first = next(iter(found.values()))
    for name in first:
        leads: dict[str, Estimate] = {}
        for judge in first[name][0].scores:
            gains = " | ".join(shown(frontier(found, judge, [bound], name, None)) for bound in BOUNDS)
            print(f"{name:25} {judge:6} {gains}{''.join(_lead(found, judge, name, leads))}", flush=True)
        if name != DEFAULT:
            print(f"{'':25} {agreement(leads)}", flush=True)


def _lead(found: Mapping[Task, Curves], judge: str, name: str, leads: dict[str, Estimate]) -> Iterator[str]:
    if name != DEFAULT:
        leads[judge] = frontier(found, judge, BOUNDS, DEFAULT, name)
        yield f" | lead {shown(leads[judge])}"


def shown(one: Estimate) -> str:
    return f"{one.value:+5.1f} [{one.low:+.1f}, {one.high:+.1f}]"


def main() -> None:
    options = asked(__doc__, n="continuations a prompt")
    engine = Engine.load()
    models = models_of(engine, options.ppl_model)
    sources = [str(file) for folder in options.folder if (file := folder / "prompts.neutral.jsonl").is_file()]
    records = [one.record for source in (*sources, None) for one in prompts_of(source)]
    texts = dict.fromkeys(record["prompt"] for record in records)
    prompts = [Prompt({"prompt": text}, text, engine.prompt_ids(text)) for text in texts]
    found = {}
    for _, directions in groupby(options.tasks, key=lambda task: task.name):
        both = list(directions)
        vectors, judges = ready(engine, both[0], options.methods or ())
        for task in both:
            found[task] = curves(engine, vectors, judges, models, prompts, options.n, up=task.up)
            show(str(task), {task: found[task]})
            if len(found) > 1:
                show(f"{len(found)} tasks together, {len(prompts)} prompts", found)


if __name__ == "__main__":
    with recorded(__file__):
        main()
