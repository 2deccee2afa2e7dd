"""Score continuations: how far behaviour moved, what it cost in fluency, and how sure that is.

Knows the engine, judges and metrics; knows nothing of files or the terminal.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from ..data.prompts import neutral_texts
from ..models.engine import Engine
from ..vectors.metadata import now
from .judges.judge import Judge, Scores
from .likelihood import damage, log_probs
from .metrics import Bootstrap, Estimate, Sums, distinct, mean_log_prob, repetition
from .run import Progress, Run, no_progress
from .samples import UNSTEERED, Condition, Sample

N_NEUTRAL = 16  # texts on which damage is measured


@dataclass(frozen=True)
class JudgeResult:
    """What a judge finds in the continuations of one condition."""

    rate: Estimate | None  # share in which it finds what it looks for
    mean: Estimate | None  # of its scores
    rate_difference: Estimate | None  # to the unsteered rate, paired by prompt
    fluency: Estimate | None  # where the judge scores it, 0 to 1
    n_failed: int  # texts to which it gave no answer


@dataclass(frozen=True)
class ConditionResult:
    """One condition: its continuations in numbers, each with a 95 % bootstrap interval over prompts.

    perplexity: exp of the mean over texts of the text's mean negative log-probability given its
        prompt, under the unsteered model (or another); nothing dropped but texts without tokens.
    perplexity_ratio: to the unsteered continuations', paired by prompt.
    distinct_n, repetition_4: see `metrics`; over words of the continuations of one prompt, and of
        one continuation.
    length: tokens of the continuation.
    kl: see `likelihood.damage`, on neutral text; None where the vector is not at hand.
    """

    condition: Condition
    dose: float | None
    n: int
    n_prompts: int
    n_empty: int  # continuations without a token, of which there is no perplexity
    perplexity: Estimate | None
    perplexity_ratio: Estimate | None
    distinct_1: Estimate | None
    distinct_2: Estimate | None
    distinct_3: Estimate | None
    repetition_4: Estimate | None
    length: Estimate | None
    kl: float | None
    judges: dict[str, JudgeResult]  # by the judge's name

    def to_json(self) -> dict[str, Any]:
        """The row as `eval --json` writes it."""
        condition = self.condition
        numbers = asdict(self)
        del numbers["condition"]
        return {
            "label": condition.label,
            "vectors": list(condition.vectors),
            "alpha": condition.alpha,
            "positions": condition.positions,
            "baseline": condition.baseline,
            **numbers,
        }


@dataclass(frozen=True)
class Evaluation:
    """What is found of all conditions and of each continuation, and how it was made.

    title: what was evaluated, in a few words.
    results: one a condition, in the order in which conditions first appear among the samples.
    scores: by the judge's name, one a sample; None where the judge gave no answer.
    judges: those asked, with what they are made of and their warnings.
    provenance: JSON-able, all that is needed to repeat the evaluation, for a reader.
    """

    title: str
    results: list[ConditionResult]
    samples: list[Sample]
    scores: dict[str, list[float | None]]
    judges: list[Judge]
    provenance: dict[str, Any]

    @property
    def n_prompts(self) -> int:
        return len({sample.prompt for sample in self.samples})


def evaluate(
    run: Run,
    judges: Sequence[Judge] = (),
    *,
    ppl_engine: Engine | None = None,
    progress: Progress = no_progress,
) -> Evaluation:
    """Score continuations condition by condition: behaviour, fluency, damage, with 95 % intervals.

    Every interval is a percentile bootstrap over prompts with the same draws for all conditions (Efron &
    Tibshirani 1993), so that differences to the unsteered continuations are paired.

        polite = SteeringVector.load(Path("polite.st"))
        comparison = Comparison(vectors=[("polite", polite)], alphas=[(0,), (8,), (16,)])
        run = comparison.write(engine, prompts_of(None))
        for result in evaluate(run, [load_judge("sentiment")]).results:
            print(result.condition.label, result.judges["sentiment"].rate, result.perplexity_ratio)

    Args:
        run: the continuations; `Comparison.write` makes them, `recorded` takes those that exist.
        judges: what to look for, see `load_judge`; without one only fluency is scored.
        ppl_engine: gives the log-probabilities in place of the run's own engine, which is not steered.
        progress: opens a bar (label, total) and yields what advances it.

    Returns:
        a result a condition, in the order of the run: rates and means of each judge, perplexity and its
        ratio to the unsteered one, n-gram diversity and repetition, KL on neutral text in nats a token.

    Raises:
        ModelError: a judge behind an endpoint cannot be reached any more.
    """
    with progress("perplexity", len(run.samples)) as advance:
        texts = _token_log_probs(ppl_engine or run.engine, run.samples, advance)
    scores = {}
    for judge in judges:
        with progress(f"judge {judge.name}", len(run.samples)) as advance:
            scores[judge.name] = judge.score(
                [sample.prompt for sample in run.samples], [sample.text for sample in run.samples], advance
            )
    names = ", ".join(name.rsplit("/", 1)[-1] for name in run.vectors) or "generations"
    return Evaluation(
        title=f"{names} on {run.engine.model_id}",
        results=_Table(run.samples, texts, scores).results(_divergences(run, progress)),
        samples=run.samples,
        scores={name: found.scores for name, found in scores.items()},
        judges=list(judges),
        provenance={**run.provenance, **stamp()},
    )


def stamp() -> dict[str, str]:
    """What wrote a result, and when."""
    return {
        "program_version": __version__,
        "date": now(),
    }


def _token_log_probs(
    engine: Engine, samples: Sequence[Sample], advance: Callable[[int], None]
) -> list[Tensor]:
    pairs = []
    for sample in samples:
        prompt = engine.prompt_ids(sample.prompt, rendered=sample.rendered)[: engine.max_tokens]
        written = engine.continuation_ids(sample.prompt, prompt, sample.text, rendered=sample.rendered)
        pairs.append((prompt, written[: engine.max_tokens - len(prompt)]))
    return log_probs(engine, pairs, advance)


def _divergences(run: Run, progress: Progress) -> dict[Condition, float]:
    """What each push does to predictions on neutral text."""
    if not run.pushes:
        return {}
    texts = [run.engine.prompt_ids(passage.text) for passage in neutral_texts()[:N_NEUTRAL]]
    with progress("damage", len(texts) * len(run.pushes)) as advance:
        found = damage(run.engine, texts, list(run.pushes.values()), advance)
    return dict(zip(run.pushes, found, strict=True))


class _Table:
    """Every continuation's figures by row, and sums of them over the units that are resampled.

    A unit is a prompt; where there is only one prompt, one of its continuations.
    """

    def __init__(
        self, samples: Sequence[Sample], texts: Sequence[Tensor], scores: Mapping[str, Scores]
    ) -> None:
        self.samples, self.texts, self.scores = samples, texts, scores
        one_prompt = len({sample.prompt for sample in samples}) == 1
        keys = [(sample.prompt, sample.number if one_prompt else 0) for sample in samples]
        number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        self.unit = [number[key] for key in keys]  # of each sample
        self.bootstrap = Bootstrap(max(1, len(number)))
        self.rows: dict[Condition, list[int]] = {}
        for row, sample in enumerate(samples):
            self.rows.setdefault(sample.condition, []).append(row)
        self.unsteered = next((self.rows[c] for c in self.rows if c.baseline == UNSTEERED), None)

    def sums(self, rows: Sequence[int], values: Sequence[float | None]) -> Sums:
        """Sum values a unit; None is not counted."""
        totals, counts = [0.0] * self.bootstrap.n_units, [0] * self.bootstrap.n_units
        for row, value in zip(rows, values, strict=True):
            if value is not None:
                totals[self.unit[row]] += value
                counts[self.unit[row]] += 1
        return Sums(*(torch.tensor(sums, dtype=torch.float64) for sums in (totals, counts)))

    def results(self, divergences: Mapping[Condition, float]) -> list[ConditionResult]:
        return [self._result(c, rows, divergences.get(c)) for c, rows in self.rows.items()]

    def _result(self, condition: Condition, rows: list[int], kl: float | None) -> ConditionResult:
        mean = self.bootstrap.mean
        words = [self.samples[row].text.split() for row in rows]
        return ConditionResult(
            condition=condition,
            dose=self.samples[rows[0]].dose,
            n=len(rows),
            n_prompts=len({self.samples[row].prompt for row in rows}),
            n_empty=sum(not len(self.texts[row]) for row in rows),
            perplexity=self.bootstrap.compare(torch.exp, self._losses(rows)),
            perplexity_ratio=self._against_unsteered(lambda a, b: (a - b).exp(), self._losses, rows),
            distinct_1=mean(self._distinct(rows, words, 1)),
            distinct_2=mean(self._distinct(rows, words, 2)),
            distinct_3=mean(self._distinct(rows, words, 3)),
            repetition_4=mean(self.sums(rows, [repetition(text) for text in words])),
            length=mean(self.sums(rows, [len(self.texts[row]) for row in rows])),
            kl=kl,
            judges={name: self._judged(scores, rows) for name, scores in self.scores.items()},
        )

    def _judged(self, scores: Scores, rows: list[int]) -> JudgeResult:
        def rates(chosen: list[int]) -> Sums:
            return self.sums(chosen, [scores.positive[row] for row in chosen])

        fluency = None
        if scores.fluency is not None:
            fluency = self.bootstrap.mean(self.sums(rows, [scores.fluency[row] for row in rows]))
        return JudgeResult(
            rate=self.bootstrap.mean(rates(rows)),
            mean=self.bootstrap.mean(self.sums(rows, [scores.scores[row] for row in rows])),
            rate_difference=self._against_unsteered(torch.sub, rates, rows),
            fluency=fluency,
            n_failed=sum(scores.scores[row] is None for row in rows),
        )

    def _against_unsteered(
        self, f: Callable[..., Tensor], sums: Callable[[list[int]], Sums], rows: list[int]
    ) -> Estimate | None:
        """A function of a condition's mean and the unsteered one; None where nothing is unsteered."""
        if self.unsteered is None:
            return None
        return self.bootstrap.compare(f, sums(rows), sums(self.unsteered))

    def _losses(self, rows: list[int]) -> Sums:
        """Each text's mean negative log-probability a token, nats."""
        means = [mean_log_prob(self.texts[row]) for row in rows]
        return self.sums(rows, [None if mean is None else -mean for mean in means])

    def _distinct(self, rows: list[int], words: list[list[str]], n: int) -> Sums:
        """Of each prompt's continuations together; the value counts once, at the first of them."""
        together: dict[str, list[list[str]]] = {}
        first: dict[str, int] = {}
        for row, text in zip(rows, words, strict=True):
            together.setdefault(self.samples[row].prompt, []).append(text)
            first.setdefault(self.samples[row].prompt, row)
        return self.sums(list(first.values()), [distinct(texts, n) for texts in together.values()])
