"""Score continuations: how far behaviour moved, what it cost in fluency, and how sure that is.

Knows the engine, judges and metrics; knows nothing of files or the terminal.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor

from ..models.engine import Engine
from ..models.hooks import HookPoint
from .judges.judge import Judge, Scores
from .likelihood import damage, log_probs
from .metrics import Bootstrap, Estimate, Sums, distinct, mean_log_prob, repetition
from .samples import PROMPTING, RANDOM, UNSTEERED, Condition, Sample

N_NEUTRAL = 16  # texts on which damage is measured
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


def _no_progress(_label: str, _total: int) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda _n: None)


@dataclass(frozen=True)
class JudgeResult:
    """What a judge finds in the continuations of one setting."""

    rate: Estimate | None  # share in which it finds what it looks for
    mean: Estimate | None  # of its scores
    rate_difference: Estimate | None  # to the unsteered rate, paired by prompt
    fluency: Estimate | None  # where the judge scores it, 0 to 1
    n_failed: int  # texts to which it gave no answer


@dataclass(frozen=True)
class Result:
    """One setting: its continuations in numbers, each with a 95 % bootstrap interval over prompts.

    perplexity: exp of the mean over texts of the text's mean negative log-probability given its
        prompt, under the unsteered model (or another); nothing dropped but texts without tokens.
    perplexity_ratio: to the unsteered continuations', paired by prompt.
    distinct_n, repetition_4: see `metrics`; over words of the continuations of one prompt, and of
        one continuation.
    length: tokens of the continuation.
    kl: see `likelihood.damage`, on neutral text; None where the vector is not at hand.
    """

    setting: Condition
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
    judges: dict[str, JudgeResult]

    def to_json(self) -> dict[str, Any]:
        """The row as `eval --json` writes it."""
        setting = self.setting
        facts = asdict(self)
        facts.pop("setting")
        return {
            "label": label(setting),
            "vectors": list(setting.vectors),
            "alpha": setting.alpha,
            "positions": setting.positions,
            "baseline": setting.baseline,
            **facts,
        }


@dataclass(frozen=True)
class Evaluation:
    """What is found of all settings, and of each continuation."""

    results: list[Result]
    scores: dict[str, list[float | None]]  # by judge: one a sample, in their order


def label(setting: Condition) -> str:
    """What tables call a setting."""
    if setting.alphas is None:
        return setting.source or "generations"
    named = [
        f"{name.rsplit('/', 1)[-1].removesuffix('.st')} {alpha:+g}"
        for name, alpha in zip(setting.vectors, setting.alphas, strict=True)
    ]
    steered = ", ".join(named)
    if setting.baseline == RANDOM:
        return f"random like {steered}"
    if setting.baseline is not None:
        return {PROMPTING: "prompting"}.get(setting.baseline, setting.baseline)
    return steered if setting.positions == "all" else f"{steered} ({setting.positions})"


def evaluate(
    engine: Engine,
    samples: Sequence[Sample],
    judges: Sequence[Judge] = (),
    *,
    ppl_engine: Engine | None = None,
    pushes: Mapping[Condition, Mapping[HookPoint, Tensor]] | None = None,
    progress: Progress = _no_progress,
) -> Evaluation:
    """Score continuations setting by setting, in the order in which settings first appear.

    Args:
        ppl_engine: gives the log-probabilities in place of `engine`.
        pushes: of the settings whose damage is to be measured, [d_model] at each hook point.
        progress: opens a bar (label, total) and yields what advances it.
    """
    with progress("perplexity", len(samples)) as advance:
        texts = _token_log_probs(ppl_engine or engine, samples, advance)
    verdicts = {}
    for judge in judges:
        with progress(f"judge {judge.name}", len(samples)) as advance:
            found = judge.score([s.prompt for s in samples], [s.text for s in samples], advance)
            verdicts[judge.name] = found
    divergences = _divergences(engine, pushes or {}, progress)
    results = _Table(samples, texts, verdicts).results(divergences)
    return Evaluation(results, {name: found.scores for name, found in verdicts.items()})


def _token_log_probs(
    engine: Engine, samples: Sequence[Sample], advance: Callable[[int], None]
) -> list[Tensor]:
    pairs = []
    for sample in samples:
        prompt = engine.prompt_ids(sample.prompt, rendered=sample.rendered)[: engine.max_tokens]
        written = engine.continuation_ids(sample.prompt, prompt, sample.text, rendered=sample.rendered)
        pairs.append((prompt, written[: engine.max_tokens - len(prompt)]))
    return log_probs(engine, pairs, advance)


def neutral_texts() -> list[str]:
    """Texts about nothing in particular, on which a push should change little."""
    text = (files("neurosteer_cli") / "data" / "neutral.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.strip()][:N_NEUTRAL]


def _divergences(
    engine: Engine, pushes: Mapping[Condition, Mapping[HookPoint, Tensor]], progress: Progress
) -> dict[Condition, float]:
    if not pushes:
        return {}
    texts = [engine.prompt_ids(text) for text in neutral_texts()]
    with progress("damage", len(texts) * len(pushes)) as advance:
        return dict(zip(pushes, damage(engine, texts, list(pushes.values()), advance), strict=True))


class _Table:
    """Every continuation's figures, and sums of them over the units that are resampled.

    A unit is a prompt; where there is only one prompt, one of its continuations.
    """

    def __init__(
        self, samples: Sequence[Sample], texts: Sequence[Tensor], verdicts: Mapping[str, Scores]
    ) -> None:
        self.samples, self.texts, self.verdicts = samples, texts, verdicts
        self.prompts = list(dict.fromkeys(sample.prompt for sample in samples))
        one_prompt = len(self.prompts) == 1
        keys = [(s.prompt, s.number if one_prompt else 0) for s in samples]
        number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        self.unit = torch.tensor([number[key] for key in keys], dtype=torch.int64)
        self.bootstrap = Bootstrap(max(1, len(number)))
        self.rows: dict[Condition, list[int]] = {}
        for row, sample in enumerate(samples):
            self.rows.setdefault(sample.setting, []).append(row)
        self.reference = next((s for s in self.rows if s.baseline == UNSTEERED), None)

    def sums(self, rows: Sequence[int], values: Sequence[float | None]) -> Sums:
        """Sum values a unit; None is not counted."""
        pairs = zip(self.unit[list(rows)].tolist(), values, strict=True)
        known = [(unit, value) for unit, value in pairs if value is not None]
        units = torch.tensor([unit for unit, _ in known], dtype=torch.int64)
        empty = torch.zeros(self.bootstrap.n_units, dtype=torch.float64)
        given = torch.tensor([value for _, value in known], dtype=torch.float64)
        return Sums(empty.index_add(0, units, given), empty.index_add(0, units, torch.ones_like(given)))

    def results(self, divergences: Mapping[Condition, float]) -> list[Result]:
        return [self._result(setting, rows, divergences.get(setting)) for setting, rows in self.rows.items()]

    def _result(self, setting: Condition, rows: list[int], kl: float | None) -> Result:
        means, losses = self.bootstrap.mean, self._losses(rows)
        ratio = None
        if self.reference is not None:
            reference = self._losses(self.rows[self.reference])
            ratio = self.bootstrap.compare(lambda a, b: (a - b).exp(), losses, reference)
        words = [self.samples[row].text.split() for row in rows]
        return Result(
            setting=setting,
            dose=self.samples[rows[0]].dose,
            n=len(rows),
            n_prompts=len({self.samples[row].prompt for row in rows}),
            n_empty=sum(not len(self.texts[row]) for row in rows),
            perplexity=self.bootstrap.compare(torch.exp, losses),
            perplexity_ratio=ratio,
            distinct_1=means(self._distinct(rows, words, 1)),
            distinct_2=means(self._distinct(rows, words, 2)),
            distinct_3=means(self._distinct(rows, words, 3)),
            repetition_4=means(self.sums(rows, [repetition(text) for text in words])),
            length=means(self.sums(rows, [len(self.texts[row]) for row in rows])),
            kl=kl,
            judges={name: self._judged(verdicts, rows) for name, verdicts in self.verdicts.items()},
        )

    def _losses(self, rows: Sequence[int]) -> Sums:
        """Each text's mean negative log-probability a token, nats."""
        found = [mean_log_prob(self.texts[row]) for row in rows]
        return self.sums(rows, [None if value is None else -value for value in found])

    def _distinct(self, rows: list[int], words: list[list[str]], n: int) -> Sums:
        """Of each prompt's continuations together; the value counts once, at the first of them."""
        together: dict[str, list[list[str]]] = {}
        first: dict[str, int] = {}
        for row, text in zip(rows, words, strict=True):
            together.setdefault(self.samples[row].prompt, []).append(text)
            first.setdefault(self.samples[row].prompt, row)
        return self.sums(list(first.values()), [distinct(texts, n) for texts in together.values()])

    def _judged(self, verdicts: Scores, rows: list[int]) -> JudgeResult:
        rates = self._rates(verdicts, rows)
        difference = None
        if self.reference is not None:
            reference = self._rates(verdicts, self.rows[self.reference])
            difference = self.bootstrap.compare(lambda a, b: a - b, rates, reference)
        fluency = None
        if verdicts.fluency is not None:
            fluency = self.bootstrap.mean(self.sums(rows, [verdicts.fluency[row] for row in rows]))
        return JudgeResult(
            rate=self.bootstrap.mean(rates),
            mean=self.bootstrap.mean(self.sums(rows, [verdicts.scores[row] for row in rows])),
            rate_difference=difference,
            fluency=fluency,
            n_failed=sum(verdicts.scores[row] is None for row in rows),
        )

    def _rates(self, verdicts: Scores, rows: Sequence[int]) -> Sums:
        found = [verdicts.positive[row] for row in rows]
        return self.sums(rows, [None if value is None else float(value) for value in found])
