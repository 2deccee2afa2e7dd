"""Score continuations: how far behaviour moved, what it cost in fluency, and how sure that is.

Knows the engine, judges and metrics; knows nothing of files or the terminal.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from .. import __version__
from ..data.prompts import neutral_texts
from ..models.engine import Engine
from ..vectors.metadata import now
from .judges.judge import Judge, Scores
from .likelihood import damage, log_probs
from .metrics import Bootstrap, Estimate, Sums, distinct, mean_log_prob, repetition
from .plan import Progress, no_progress
from .run import Run
from .samples import UNSTEERED, Condition, Sample

N_NEUTRAL = 16  # texts on which damage is measured
Values = Sequence[float | None]  # one a sample
Key = TypeVar("Key", bound=Hashable)


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
        numbers = asdict(self)
        del numbers["condition"]
        names = ("label", "vectors", "alpha", "positions", "baseline")
        return {**{name: getattr(self.condition, name) for name in names}, **numbers}


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
        results=_results(_Table(run.samples), texts, scores, _divergences(run, progress)),
        samples=run.samples,
        scores={name: list(found.scores) for name, found in scores.items()},
        judges=list(judges),
        provenance={**run.provenance, **stamp()},
    )


def stamp() -> dict[str, str]:
    """What wrote a result, and when."""
    return {"program_version": __version__, "date": now()}


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
    """The samples of each condition, and means over them of values, one a sample; None is not counted.

    What is resampled is a prompt; where there is only one prompt, one of its continuations.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples
        self.rows = _places(sample.condition for sample in samples)
        self.unsteered = next((at for c, at in self.rows.items() if c.baseline == UNSTEERED), [])
        one_prompt = len({sample.prompt for sample in samples}) == 1
        units = _places((sample.prompt, sample.number if one_prompt else 0) for sample in samples)
        self.unit = {row: unit for unit, rows in enumerate(units.values()) for row in rows}
        self.bootstrap = Bootstrap(max(1, len(units)))

    def estimate(
        self, values: Values, *several: Sequence[int], f: Callable[..., Tensor] = lambda mean: mean
    ) -> Estimate | None:
        """A function of the means over the rows of one or several conditions; None if one has no value."""
        return self.bootstrap.estimate(f, *(self._sums(values, rows) for rows in several))

    def _sums(self, values: Values, rows: Sequence[int]) -> Sums:
        counted = [row for row in rows if values[row] is not None]
        units = torch.tensor([self.unit[row] for row in counted], dtype=torch.int64)
        known = torch.tensor([values[row] for row in counted], dtype=torch.float64)
        n_units = self.bootstrap.n_units
        return Sums(units.bincount(known, n_units).double(), units.bincount(minlength=n_units).double())

    def distinct(self, words: Sequence[Sequence[str]], n: int) -> Values:
        """Of each prompt's continuations together; the value stands at the first of them."""
        values: list[float | None] = [None] * len(self.samples)
        for rows in _places((sample.condition, sample.prompt) for sample in self.samples).values():
            values[rows[0]] = distinct([words[row] for row in rows], n)
        return values


def _places(keys: Iterable[Key]) -> dict[Key, list[int]]:
    """Where each key stands, in order of appearance."""
    places: dict[Key, list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    return places


def _results(
    table: _Table,
    texts: Sequence[Tensor],
    scores: Mapping[str, Scores],
    divergences: Mapping[Condition, float],
) -> list[ConditionResult]:
    """A result a condition; `texts` are the log-probabilities of each sample's tokens, [n_tokens]."""
    words = [sample.text.split() for sample in table.samples]
    log_probs, lengths = [mean_log_prob(text) for text in texts], [len(text) for text in texts]
    distinct_1, distinct_2, distinct_3 = (table.distinct(words, n) for n in (1, 2, 3))
    repetitions = [repetition(text) for text in words]
    return [
        ConditionResult(
            condition=condition,
            dose=table.samples[rows[0]].dose,
            n=len(rows),
            n_prompts=len({table.samples[row].prompt for row in rows}),
            n_empty=sum(not lengths[row] for row in rows),
            perplexity=table.estimate(log_probs, rows, f=lambda mean: (-mean).exp()),
            perplexity_ratio=table.estimate(log_probs, rows, table.unsteered, f=lambda a, b: (b - a).exp()),
            distinct_1=table.estimate(distinct_1, rows),
            distinct_2=table.estimate(distinct_2, rows),
            distinct_3=table.estimate(distinct_3, rows),
            repetition_4=table.estimate(repetitions, rows),
            length=table.estimate(lengths, rows),
            kl=divergences.get(condition),
            judges={name: _judged(table, found, rows) for name, found in scores.items()},
        )
        for condition, rows in table.rows.items()
    ]


def _judged(table: _Table, scores: Scores, rows: Sequence[int]) -> JudgeResult:
    return JudgeResult(
        rate=table.estimate(scores.positive, rows),
        mean=table.estimate(scores.scores, rows),
        rate_difference=table.estimate(scores.positive, rows, table.unsteered, f=torch.sub),
        fluency=None if scores.fluency is None else table.estimate(scores.fluency, rows),
        n_failed=sum(scores.scores[row] is None for row in rows),
    )
