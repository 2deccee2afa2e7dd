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
from .judges.judge import Advance, Judge, Scores
from .measures.likelihood import damage, log_probs
from .measures.metrics import Bootstrap, Estimate, distinct, mean_log_prob, repetition
from .runs.comparison import Run
from .runs.plan import Progress, no_progress
from .runs.samples import UNSTEERED, Condition, Sample

N_NEUTRAL = 16  # texts on which damage is measured
Values = Sequence[float | None]  # one a sample
Rows = Sequence[int]  # the samples of a condition
OfMeans = Callable[..., Tensor]
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
    """

    condition: Condition
    dose: float | None
    n: int
    n_prompts: int
    n_empty: int  # continuations without a token, of which there is no perplexity
    perplexity: Estimate | None
    perplexity_ratio: Estimate | None  # to the unsteered continuations', paired by prompt
    distinct_1: Estimate | None  # see `metrics.distinct`; over words of the continuations of one prompt
    distinct_2: Estimate | None
    distinct_3: Estimate | None
    repetition_4: Estimate | None  # see `metrics.repetition`; over words of one continuation
    length: Estimate | None  # tokens of the continuation
    kl: float | None  # see `likelihood.damage`, on neutral text; None where the vector is not at hand
    judges: dict[str, JudgeResult]  # by the judge's name

    def to_json(self) -> dict[str, Any]:
        """The row as `eval --json` writes it."""
        names = ("label", "vectors", "alpha", "positions", "baseline")
        condition = {name: getattr(self.condition, name) for name in names}
        return condition | {name: value for name, value in asdict(self).items() if name != "condition"}


@dataclass(frozen=True)
class Evaluation:
    """What is found of all conditions and of each continuation, and how it was made."""

    title: str  # what was evaluated, in a few words
    results: list[ConditionResult]  # in the order in which conditions first appear among the samples
    samples: list[Sample]
    scores: dict[str, list[float | None]]  # by the judge's name, one a sample; None: it gave no answer
    judges: list[Judge]
    provenance: dict[str, Any]  # JSON-able, all that is needed to repeat the evaluation, for a reader

    @property
    def n_prompts(self) -> int:
        return len({sample.prompt for sample in self.samples})


def evaluate(
    run: Run,
    judges: Sequence[Judge] = (),
    *,
    ppl_engine: Engine | None = None,
    warn: Callable[[str], None] = lambda _warning: None,
    progress: Progress = no_progress,
) -> Evaluation:
    """Score continuations condition by condition: behaviour, fluency, damage, with 95 % intervals.

        polite = SteeringVector.load(Path("polite.st"))
        comparison = Comparison(vectors=[("polite", polite)], alphas=[(0,), (8,), (16,)])
        run = comparison.write(engine, prompts_of(None))
        for result in evaluate(run, [load_judge("sentiment")]).results:
            print(result.condition.label, result.judges["sentiment"].rate, result.perplexity_ratio)

    Every interval is a percentile bootstrap over prompts with the same draws for all conditions (Efron &
    Tibshirani 1993), so that differences to the unsteered continuations are paired.

    Args:
        run: the continuations; `Comparison.write` makes them, `recorded` takes those that exist.
        judges: what to look for, see `load_judge`; without one only fluency is scored.
        ppl_engine: gives the log-probabilities in place of the run's own engine, which is not steered.
        warn: told of texts too long for the model that gives the log-probabilities.
        progress: opens a bar (label, total) and yields what advances it.

    Returns:
        a result a condition, in the order of the run: rates and means of each judge, perplexity and its
        ratio to the unsteered one, n-gram diversity and repetition, KL on neutral text in nats a token.

    Raises:
        ModelError: a judge behind an endpoint cannot be reached any more.
    """
    with progress("perplexity", len(run.samples)) as advance:
        texts = _token_log_probs(ppl_engine or run.engine, run.samples, warn, advance)
    prompts, written = [sample.prompt for sample in run.samples], [sample.text for sample in run.samples]
    scores = {}
    for judge in judges:
        with progress(f"judge {judge.name}", len(written)) as advance:
            scores[judge.name] = judge.score(prompts, written, advance)
    names = ", ".join(name.rsplit("/", 1)[-1] for name in run.vectors) or "generations"
    return Evaluation(
        title=f"{names} on {run.engine.model_id}",
        results=_Table(run.samples, texts).results(scores, _divergences(run, progress)),
        samples=run.samples,
        scores={name: list(found.scores) for name, found in scores.items()},
        judges=list(judges),
        provenance={**run.provenance, **stamp()},
    )


def stamp() -> dict[str, str]:
    """What wrote a result, and when."""
    return {"program_version": __version__, "date": now()}


def _token_log_probs(
    engine: Engine, samples: Sequence[Sample], warn: Callable[[str], None], advance: Advance
) -> list[Tensor]:
    pairs, n_cut = [], 0
    for sample in samples:
        prompt = engine.prompt_ids(sample.prompt, rendered=sample.rendered)[: engine.max_tokens]
        written = engine.continuation_ids(sample.prompt, prompt, sample.text, rendered=sample.rendered)
        room = engine.max_tokens - len(prompt)
        n_cut += len(written) > room
        pairs.append((prompt, written[:room]))
    if n_cut:
        warn(
            f"{n_cut} of {len(pairs)} texts were cut to the model's {engine.max_tokens} tokens for perplexity"
        )
    return log_probs(engine, pairs, advance)


def _divergences(run: Run, progress: Progress) -> dict[Condition, float]:
    """What each steering does to predictions on neutral text."""
    if not run.steerings:
        return {}
    passages, most = neutral_texts()[:N_NEUTRAL], run.engine.max_tokens
    texts = [run.engine.prompt_ids(passage.text)[:most] for passage in passages]
    with progress("damage", len(texts) * len(run.steerings)) as advance:
        found = damage(run.engine, texts, list(run.steerings.values()), advance)
    return dict(zip(run.steerings, found, strict=True))


class _Table:
    """What is known of each sample, and means of it over the samples of a condition.

    What is resampled is a prompt; where there is only one prompt, one of its continuations.
    """

    def __init__(self, samples: Sequence[Sample], texts: Sequence[Tensor]) -> None:
        self.samples, self.texts = samples, texts  # texts: log-probabilities, [n_tokens] each
        self.rows = _places(sample.condition for sample in samples)
        self.unsteered = next((at for c, at in self.rows.items() if c.baseline == UNSTEERED), [])
        one_prompt = len({sample.prompt for sample in samples}) == 1
        units = _places((sample.prompt, sample.number if one_prompt else 0) for sample in samples)
        self.unit = {row: unit for unit, rows in enumerate(units.values()) for row in rows}
        self.n_units = max(1, len(units))
        self.bootstrap = Bootstrap(self.n_units)

    def results(self, scores: Mapping[str, Scores], kl: Mapping[Condition, float]) -> list[ConditionResult]:
        means = [mean_log_prob(text) for text in self.texts]
        lengths = [len(text) for text in self.texts]
        words = [sample.text.split() for sample in self.samples]
        repetitions = [repetition(text) for text in words]
        distinct_1, distinct_2, distinct_3 = (self._distinct(words, n) for n in (1, 2, 3))
        return [
            ConditionResult(
                condition=condition,
                dose=self.samples[rows[0]].dose,
                n=len(rows),
                n_prompts=len({self.samples[row].prompt for row in rows}),
                n_empty=sum(not lengths[row] for row in rows),
                perplexity=self._estimate(means, rows, f=lambda mean: (-mean).exp()),
                perplexity_ratio=self._estimate(means, rows, self.unsteered, f=lambda a, b: (b - a).exp()),
                distinct_1=self._estimate(distinct_1, rows),
                distinct_2=self._estimate(distinct_2, rows),
                distinct_3=self._estimate(distinct_3, rows),
                repetition_4=self._estimate(repetitions, rows),
                length=self._estimate(lengths, rows),
                kl=kl.get(condition),
                judges={name: self._judged(of_judge, rows) for name, of_judge in scores.items()},
            )
            for condition, rows in self.rows.items()
        ]

    def _judged(self, scores: Scores, rows: Rows) -> JudgeResult:
        return JudgeResult(
            rate=self._estimate(scores.positive, rows),
            mean=self._estimate(scores.scores, rows),
            rate_difference=self._estimate(scores.positive, rows, self.unsteered, f=torch.sub),
            fluency=None if scores.fluency is None else self._estimate(scores.fluency, rows),
            n_failed=sum(scores.scores[row] is None for row in rows),
        )

    def _distinct(self, words: Sequence[Sequence[str]], n: int) -> Values:
        """Of each prompt's continuations together; the value stands at the first of them."""
        values: list[float | None] = [None] * len(words)
        for rows in _places((sample.condition, sample.prompt) for sample in self.samples).values():
            values[rows[0]] = distinct([words[row] for row in rows], n)
        return values

    def _estimate(self, values: Values, *of: Rows, f: OfMeans = torch.positive) -> Estimate | None:
        """A function of the means over the rows of one or several conditions; None if one has no value."""
        return self.bootstrap.estimate(f, *(self._sums(values, rows) for rows in of))

    def _sums(self, values: Values, rows: Rows) -> Tensor:
        """Of each unit, and of how many values; [2, n_units] float64."""
        counted = [row for row in rows if values[row] is not None]
        units = torch.tensor([self.unit[row] for row in counted], dtype=torch.int64)
        known = torch.tensor([[values[row] for row in counted], [1] * len(counted)], dtype=torch.float64)
        return torch.zeros(2, self.n_units, dtype=torch.float64).index_add_(1, units, known)


def _places(keys: Iterable[Key]) -> dict[Key, list[int]]:
    """Where each key stands, in order of appearance."""
    places: dict[Key, list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    return places
