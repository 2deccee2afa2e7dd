"""Best of n: of several continuations of a prompt, those that a judge likes most.

Knows plans and judges; knows nothing of options or the terminal.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ..data.json_text import Record
from ..data.records import Located
from ..generation.generate import Completion
from .judges.judge import Judge
from .runs.plan import Plan
from .runs.samples import as_sample


class Chosen(NamedTuple):
    """A continuation that is kept."""

    number: int  # of its job
    completion: Completion
    rank: int  # among the candidates, from 1
    score: float | None  # the judge's; None where it gave no answer


@dataclass(frozen=True, kw_only=True)
class BestOf:
    """Of all of a prompt's continuations in a condition, keep those that a judge gives the highest scores.

        judge = load_judge("data", judge_data=("polite.jsonl", "rude.jsonl"))
        plan = Plan(engine, prompts, [], [(Condition(), ())], config, n=8)
        for chosen in BestOf(judge=judge).choose(plan):
            print(chosen.score, chosen.completion.text)

    What is kept is text that the model writes anyway, only more often: its distribution is at most
    log n - (n - 1) / n nats from the model's own (Beirami et al. 2024, arXiv 2401.01879). Source of the
    method: Stiennon et al. 2020, "Learning to summarize from human feedback", arXiv 2009.01325.
    """

    judge: Judge
    keep: int = 1  # of the candidates, the plan's `n`
    lowest: bool = False  # keep those of the lowest scores

    def choose(self, plan: Plan) -> Iterator[Chosen]:
        """Those kept, prompt by prompt as its candidates are finished: a rank after another, the best first.

        Of one rank there is one a condition, in their order. Equal scores keep the order of the samples;
        candidates without a score come last. On Ctrl-C, prompts whose candidates are all written are told.
        """
        n_of_prompt = plan.n * len(plan.conditions)
        finished: dict[int, dict[int, Completion]] = {}  # by prompt, what there is of its candidates
        for number, completion in plan.in_order():
            of_prompt = finished.setdefault(number // n_of_prompt, {})
            of_prompt[number] = completion
            if len(of_prompt) == n_of_prompt:
                yield from self._best(plan, finished.pop(number // n_of_prompt))

    def _best(self, plan: Plan, candidates: Mapping[int, Completion]) -> Iterator[Chosen]:
        samples = [as_sample(Located("run", plan.record(*candidate))) for candidate in candidates.items()]
        prompts, texts = [sample.prompt for sample in samples], [sample.text for sample in samples]
        scores = dict(zip(candidates, self.judge.score(prompts, texts, lambda _n: None).scores, strict=True))

        def worth(number: int) -> tuple[bool, float]:
            score = scores[number]
            return score is not None, (score or 0.0) * (-1 if self.lowest else 1)

        first, n_conditions = min(candidates), len(plan.conditions)
        ranked = [
            sorted(range(first + number, first + len(scores), n_conditions), key=worth, reverse=True)
            for number in range(n_conditions)
        ]
        for rank, numbers in enumerate(zip(*ranked, strict=True), 1):
            if rank <= self.keep:
                for number in numbers:
                    yield Chosen(number, candidates[number], rank, scores[number])

    def record(self, plan: Plan, chosen: Chosen) -> Record:
        """The record of a continuation that is kept."""
        choice = {
            "best_of": plan.n,
            "kept": self.keep,
            "rank": chosen.rank,
            "judge": self.judge.name,
            **({"lowest": True} if self.lowest else {}),
            "score": None if chosen.score is None else round(chosen.score, 6),
        }
        return plan.record(chosen.number, chosen.completion, choice)
