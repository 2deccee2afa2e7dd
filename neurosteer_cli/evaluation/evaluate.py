"""Score continuations: how far behaviour moved, what it cost in fluency, and how sure that is.

Knows the engine, judges and metrics; knows nothing of files or the terminal.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from .. import __version__
from ..data.prompts import neutral_texts
from ..models.engine import Engine
from ..vectors.metadata import now
from .judges.judge import Judge, Scores
from .measures.likelihood import Likelihoods, Written, damage, likelihoods
from .measures.metrics import Bootstrap, Estimate, distinct, known, n_grams, rarefied_distinct, repetition
from .results import ConditionResult, Diversity, Evaluation, JudgeResult, ModelResult
from .runs.comparison import Run
from .runs.plan import Progress, no_progress
from .runs.samples import UNSTEERED, Condition, Sample, short

N_NEUTRAL = 16  # texts on which damage is measured
Values = Sequence[float | None]  # one a sample
Rows = Sequence[int]  # the samples of a condition
OfMeans = Callable[..., Tensor]
Key = TypeVar("Key", bound=Hashable)


def evaluate(
    run: Run,
    judges: Sequence[Judge] = (),
    *,
    ppl_models: Mapping[str, Callable[[], Engine]] | None = None,
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
        ppl_models: what prices fluency, by `model_id`, each loaded when the one before has been done with;
            the run's own engine, unsteered, stands for its own name, comes first, and is the default.
        warn: told of texts too long for a model that prices them.
        progress: opens a bar (label, total) and yields what advances it.

    Returns:
        a result a condition, in the order of the run: rates and means of each judge, perplexity, its ratio
        to the unsteered one and bits per byte by each model, n-gram diversity and repetition, KL on neutral
        text in nats a token.

    Raises:
        ModelError: a judge behind an endpoint cannot be reached any more.
    """
    own = run.engine.model_id
    models = ppl_models or {own: lambda: run.engine}
    price = partial(_priced, run, warn, progress)
    priced = {own: price(run.engine)} if own in models else {}
    kl = _divergences(run, progress)
    priced |= {name: price(load()) for name, load in models.items() if name != own}
    prompts, written = [sample.prompt for sample in run.samples], [sample.text for sample in run.samples]
    scores = {}
    for judge in judges:
        with progress(f"judge {judge.name}", len(written)) as advance:
            scores[judge.name] = judge.score(prompts, written, advance)
    names = ", ".join(map(short, run.vectors)) or "generations"
    return Evaluation(
        title=f"{names} on {own}",
        results=_Table(run.samples, {name: priced[name] for name in models}).results(scores, kl),
        samples=run.samples,
        scores={name: list(found.scores) for name, found in scores.items()},
        judges=list(judges),
        provenance={**run.provenance, "ppl_models": list(models), **stamp()},
    )


def stamp() -> dict[str, str]:
    """What wrote a result, and when."""
    return {"program_version": __version__, "date": now()}


def _priced(run: Run, warn: Callable[[str], None], progress: Progress, engine: Engine) -> Likelihoods:
    """A chat is read as it stands by the model that it was rendered for, and as any text by another."""
    is_own = engine is run.engine
    texts = [Written(sample.prompt, sample.text, sample.rendered and is_own) for sample in run.samples]
    with progress("perplexity", len(texts)) as advance:
        found = likelihoods(engine, texts, advance)
    if found.n_cut:
        warn(
            f"{found.n_cut} of {len(texts)} texts were cut to the {engine.max_tokens} tokens of "
            f"{engine.model_id} for perplexity"
        )
    return found


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

    def __init__(self, samples: Sequence[Sample], priced: Mapping[str, Likelihoods]) -> None:
        self.samples, self.priced = samples, priced
        self.words = [sample.text.split() for sample in samples]
        self.rows = _places(sample.condition for sample in samples)
        self.unsteered = next((at for c, at in self.rows.items() if c.baseline == UNSTEERED), [])
        one_prompt = len({sample.prompt for sample in samples}) == 1
        units = _places((sample.prompt, sample.number if one_prompt else 0) for sample in samples)
        self.unit = {row: unit for unit, rows in enumerate(units.values()) for row in rows}
        self.n_units = max(1, len(units))
        self.bootstrap = Bootstrap(self.n_units)

    def results(self, scores: Mapping[str, Scores], kl: Mapping[Condition, float]) -> list[ConditionResult]:
        lengths = next(iter(self.priced.values())).n_tokens
        repetitions = [repetition(words) for words in self.words]
        distincts = [self._distinct(n) for n in (1, 2, 3)]
        return [
            ConditionResult(
                condition=condition,
                dose=self._dose(rows),
                n=len(rows),
                n_prompts=len({self.samples[row].prompt for row in rows}),
                n_empty=sum(not lengths[row] for row in rows),
                models={name: self._of_model(found, rows) for name, found in self.priced.items()},
                distinct_1=self._estimate(distincts[0], rows),
                distinct_2=self._estimate(distincts[1], rows),
                distinct_3=self._estimate(distincts[2], rows),
                repetition_4=self._estimate(repetitions, rows),
                diversity=self._diversity(distincts[1], repetitions, rows),
                length=self._estimate(lengths, rows),
                kl=kl.get(condition),
                judges={name: self._judged(of_judge, rows) for name, of_judge in scores.items()},
            )
            for condition, rows in self.rows.items()
        ]

    def _of_model(self, found: Likelihoods, rows: Rows) -> ModelResult:
        bits = partial(self._estimate, found.bits, over=found.n_bytes)
        return ModelResult(
            perplexity=self._estimate(found.means, rows, f=lambda mean: (-mean).exp()),
            perplexity_ratio=self._estimate(found.means, rows, self.unsteered, f=lambda a, b: (b - a).exp()),
            bits_per_byte=bits(rows),
            bits_per_byte_ratio=bits(rows, self.unsteered, f=torch.div),
        )

    def _diversity(self, distinct_2: Values, repetitions: Values, rows: Rows) -> Diversity | None:
        """Against the unsteered texts."""
        if not self.unsteered or rows is self.unsteered:
            return None
        new_4 = [None if share is None else 1 - share for share in repetitions]

        def within(values: Values) -> float | None:
            ratio = known(self._estimate(values, rows, self.unsteered, f=torch.div))
            return None if ratio is None else ratio.value

        return Diversity(within(distinct_2), within(new_4), self._across(rows))

    def _across(self, rows: Rows) -> float | None:
        """Of all texts together, at as many pairs of words; None where there are no pairs."""
        texts = [[self.words[row] for row in of] for of in (rows, self.unsteered)]
        size = min(sum(len(n_grams(words, 2)) for words in of) for of in texts)
        if not size:
            return None
        found, unsteered = (rarefied_distinct(of, 2, size) for of in texts)
        return found / unsteered

    def _dose(self, rows: Rows) -> float | None:
        """Of those that are steered: a gate lets others be."""
        doses = [self.samples[row].dose for row in rows]
        return max(filter(None, doses), default=doses[0])

    def _judged(self, scores: Scores, rows: Rows) -> JudgeResult:
        return JudgeResult(
            rate=self._estimate(scores.positive, rows),
            mean=self._estimate(scores.scores, rows),
            rate_difference=self._estimate(scores.positive, rows, self.unsteered, f=torch.sub),
            fluency=None if scores.fluency is None else self._estimate(scores.fluency, rows),
            n_failed=sum(scores.scores[row] is None for row in rows),
        )

    def _distinct(self, n: int) -> Values:
        """Of each prompt's continuations together; the value stands at the first of them."""
        values: list[float | None] = [None] * len(self.words)
        for rows in _places((sample.condition, sample.prompt) for sample in self.samples).values():
            values[rows[0]] = distinct([self.words[row] for row in rows], n)
        return values

    def _estimate(
        self, values: Values, *of: Rows, f: OfMeans = torch.positive, over: Sequence[float] | None = None
    ) -> Estimate | None:
        """A function of the means over the rows of one or several conditions; None if one has no value.

        over: what a value is a sum over, one each; 1 if None.
        """
        return self.bootstrap.estimate(f, *(self._sums(values, over, rows) for rows in of))

    def _sums(self, values: Values, over: Sequence[float] | None, rows: Rows) -> Tensor:
        """Of each unit, and over how much; [2, n_units] float64."""
        counted = [row for row in rows if values[row] is not None]
        units = torch.tensor([self.unit[row] for row in counted], dtype=torch.int64)
        counts = [1 if over is None else over[row] for row in counted]
        sums = torch.tensor([[values[row] for row in counted], counts], dtype=torch.float64)
        return torch.zeros(2, self.n_units, dtype=torch.float64).index_add_(1, units, sums)


def _places(keys: Iterable[Key]) -> dict[Key, list[int]]:
    """Where each key stands, in order of appearance."""
    places: dict[Key, list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    return places
