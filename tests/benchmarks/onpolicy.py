"""A vector in a small dictionary of pushes, fitted on the model's own steered text, fluency in the reward.

One round of a natural policy gradient. The model writes, steered both ways; a text's reward is what a probe
inside the model reads of it, less what it costs in likelihood, at the price at which the difference of means
itself buys the one with the other, so that moving along that vector's own curve gains nothing. Advantages
(leave-one-out over texts of one opening: RLOO, Ahmadian et al. 2024, arXiv 2402.14740) are regressed on the
gradients of the texts' log-probabilities with respect to the dictionary's coefficients.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from placed import Pushes, mean_residuals
from torch import Tensor

from neurosteer_cli.data.prompts import neutral_texts
from neurosteer_cli.data.records import Passage
from neurosteer_cli.evaluation.measures.likelihood import log_probs
from neurosteer_cli.generation.continuation import GenerationConfig
from neurosteer_cli.generation.generate import Job, generate
from neurosteer_cli.generation.sampling import Sampling, nucleus
from neurosteer_cli.models.engine import Engine, padded
from neurosteer_cli.models.hooks import HookPoint, add
from neurosteer_cli.models.tokenizer import Tokens
from neurosteer_cli.vectors.fitting.reading import Reading
from neurosteer_cli.vectors.vector import SteeringVector

SPREAD = [HookPoint(layer) for layer in (14, 17, 20)]
DOSE = 10.0  # of the difference of means, from which the search sets out
LOW_DOSE, HIGH_DOSE = 6.0, 16.0  # between which the price of an effect is taken
SAMPLING = Sampling(seed=11)
CONFIG = GenerationConfig(max_new_tokens=24, batch_size=64, sampling=SAMPLING)
N_OPENINGS, N_EACH = 24, 4  # to write from, and texts of each either way
N_LINE, N_LINE_EACH = 16, 2  # other openings, on which the length of the step is chosen
STEPS = (0.0, 0.5, 1.0, 2.0)  # 0: the difference of means is kept
TRUST = 0.015  # nats a token that a step of 1 may move the model
N_STRONGEST = 100  # latents of a block's push
ROWS_AT_ONCE = 16
RIDGES = tuple(10.0**power for power in range(-3, 4))  # of the mean square of a feature


@dataclass(frozen=True)
class Dictionary:
    """Pushes, each 1 % of its block's median residual norm long."""

    names: list[str]
    rows: dict[HookPoint, Tensor]  # [m, d_model], 0 in rows of other blocks

    def pushes(self, c: Tensor) -> Pushes:
        return {point: c @ rows for point, rows in self.rows.items()}

    @classmethod
    def of(cls, reading: Reading) -> "Dictionary":
        """Differences of means, and SAE latents that differ: turned up, turned down, and the sparse ones."""
        found: list[tuple[str, HookPoint, Tensor]] = []
        for point, at in sorted(reading.at.items()):
            found.append((f"diffmean {point.layer}", point, at.all.shift))
            if at.sae is None:
                continue
            positive, negative = at.all.latents
            difference = positive.mean - negative.mean
            rates = positive.firing_rate, negative.firing_rate
            for sign, name in ((1, "up"), (-1, "down")):
                own, other = rates[::sign]
                wanted = (sign * difference).clamp_min(0)
                for sparse, chosen in (("", wanted), (" sparse", wanted * (own > 2 * other))):
                    weights, ids = chosen.topk(N_STRONGEST)
                    push = sign * weights @ at.sae.decoder_rows(ids).double().cpu()
                    found.append((f"{name}{sparse} {point.layer}", point, push))
        rows = {point: torch.zeros(len(found), reading.engine.d_model) for point in reading.at}
        for number, (_, point, push) in enumerate(found):
            rows[point][number] = (push * 0.01 * reading.at[point].norms.median / push.norm()).float()
        return cls([name for name, *_ in found], rows)

    def start(self) -> Tensor:
        """The coefficients of the difference of means at the usual blocks."""
        usual = {f"diffmean {point.layer}" for point in SPREAD}
        return torch.tensor([DOSE / len(usual) if name in usual else 0.0 for name in self.names])


@dataclass(frozen=True)
class Texts:
    """What the model wrote: openings' and continuations' tokens, which way each was steered, its rewards."""

    pairs: list[tuple[list[int], list[int]]]
    signs: Tensor  # [n]
    effect: Tensor  # [n], the probe's logit, unit: its spread over the texts of the fit
    cost: Tensor  # [n], nats a token, unsteered

    def rewards(self, price: float) -> Tensor:
        return self.signs * self.effect - price * self.cost


class OnPolicy:
    """One fit. `report` says how it went."""

    def __init__(self, engine: Engine, reading: Reading, template: SteeringVector) -> None:
        """`template`: any vector at all of the reading's hook points."""
        self.engine, self.template = engine, template
        self.dictionary = Dictionary.of(reading)
        self.report: dict[str, float] = {}

    def fit(self, positive: Sequence[Tokens], negative: Sequence[Tokens]) -> Pushes:
        """Directions at hook points, as long as they are to be relative to each other."""
        self._probe = self._fitted_probe(positive, negative)
        first = openings()
        line, own = first[:N_LINE], first[N_LINE : N_LINE + N_OPENINGS]
        start = self.dictionary.start()
        low, high = (self._texts(line, N_LINE_EACH, start * dose / DOSE) for dose in (LOW_DOSE, HIGH_DOSE))
        gained = float((high.signs * high.effect - low.signs * low.effect).mean())
        paid = float((high.cost - low.cost).mean())
        price = max(0.0, gained) / max(paid, 0.05)
        written = self._texts(own, N_EACH, start)
        by_opening = written.rewards(price).view(-1, N_EACH)  # texts of one opening and way together
        advantages = (by_opening - by_opening.mean(1, keepdim=True)) * N_EACH / (N_EACH - 1)
        step, explained = self._step(advantages.flatten(), self._gradients(written, start))
        means = {}
        for length in STEPS:
            means[length] = float(self._texts(line, N_LINE_EACH, start + length * step).rewards(price).mean())
        best = max(means, key=lambda length: means[length])
        self.report = {"price": price, "explained": explained, "step": best, "gain": means[best] - means[0.0]}
        return self.dictionary.pushes(start + best * step)

    def _fitted_probe(self, positive: Sequence[Tokens], negative: Sequence[Tokens]) -> Any:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        features = [self._features(texts) for texts in (positive, negative)]
        labels = [True] * len(positive) + [False] * len(negative)
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.003, max_iter=1000))
        probe.fit(torch.cat(features).numpy(), labels)
        self._spread = float(probe.decision_function(torch.cat(features).numpy()).std())
        return probe

    def _features(self, texts: Sequence[Tokens]) -> Tensor:
        return torch.cat([*mean_residuals(self.engine, texts, SPREAD, {}).values()], dim=1)

    def _texts(self, some: Sequence[str], n_each: int, c: Tensor) -> Texts:
        """What is written with coefficients c and with -c, and what it is worth."""
        pushes = self.dictionary.pushes(c)
        vector = replace(self.template, pushes=pushes, latents={}, bias=None)
        jobs = [
            Job.of(self.engine, opening, sign, sample=sample)
            for opening in some
            for sign in (1.0, -1.0)
            for sample in range(n_each)
        ]
        texts = {number: done.text for number, done in generate(self.engine, jobs, [vector], CONFIG)}
        pairs, alone = [], []
        for number, job in enumerate(jobs):
            text = texts[number] or " "
            ids = self.engine.continuation_ids(job.key, job.ids, text, rendered=False)
            pairs.append((job.ids, ids))
            alone.append(self.engine.tokenize(Passage("text", text, prompt=job.key)))
        costs = [-each.mean() if len(each) else torch.tensor(0.0) for each in log_probs(self.engine, pairs)]
        effect = self._probe.decision_function(self._features(alone).numpy()) / self._spread
        signs = torch.tensor([job.alphas[0] for job in jobs])
        return Texts(pairs, signs, torch.tensor(effect, dtype=torch.float32), torch.stack(costs))

    def _gradients(self, texts: Texts, c: Tensor) -> Tensor:
        """Of each text's log-probability as it was written, with respect to c, [n, m]."""
        found = []
        base = self.dictionary.pushes(c)
        for start in range(0, len(texts.pairs), ROWS_AT_ONCE):
            some = slice(start, start + ROWS_AT_ONCE)
            signs = texts.signs[some, None, None]
            more = {point: torch.zeros(len(signs), 1, push.shape[0]) for point, push in base.items()}
            for push in more.values():
                push.requires_grad_()
            with add(self.engine.blocks, {point: signs * base[point] + more[point] for point in base}):
                total = self._log_prob(texts.pairs[some])
            gradients = zip(more, torch.autograd.grad(total, [*more.values()]), strict=True)
            parts = [each[:, 0] @ self.dictionary.rows[point].T for point, each in gradients]
            found.append(texts.signs[some, None] * torch.stack(parts).sum(0))
        return torch.cat(found)

    def _log_prob(self, pairs: Sequence[tuple[list[int], list[int]]]) -> Tensor:
        """Of all texts' tokens as they are sampled, temperature and nucleus counted; scalar."""
        ids = padded([prompt + text for prompt, text in pairs], value=0)
        places = torch.tensor(
            [
                (row, at)
                for row, (prompt, text) in enumerate(pairs)
                for at in range(len(prompt) - 1, len(prompt) + len(text) - 1)
            ]
        )
        logits = self.engine.model(input_ids=ids, use_cache=False).logits[places[:, 0], places[:, 1]].float()
        scores, tokens = nucleus(logits / SAMPLING.temperature, SAMPLING.top_p, 0)
        is_said = tokens == ids[places[:, 0], places[:, 1] + 1, None]  # [n, n_candidates]
        is_known = is_said.any(1) & scores.isfinite().logical_and(is_said).any(1)
        log_probs_of = scores.log_softmax(-1)[is_known]
        return log_probs_of.masked_select(is_said[is_known]).sum()

    def _step(self, advantages: Tensor, gradients: Tensor) -> tuple[Tensor, float]:
        """A step of 1 by ridge regression, its strength by leave-one-out error; the share explained so."""
        x, y = gradients.double(), advantages.double()
        best, explained = torch.zeros(x.shape[1], dtype=torch.float64), -math.inf
        for ridge in RIDGES:
            gram = x.T @ x + ridge * x.square().sum(0).mean() * torch.eye(x.shape[1], dtype=torch.float64)
            delta = torch.linalg.solve(gram, x.T @ y)
            leverage = (x @ torch.linalg.inv(gram) * x).sum(1)
            left = (y - x @ delta) / (1 - leverage)
            share = 1 - float(left.square().sum() / y.square().sum())
            if share > explained:
                best, explained = delta, share
        moved = float((x @ best).square().mean()) / CONFIG.max_new_tokens / 2  # nats a token
        return (best * math.sqrt(TRUST / moved)).float(), explained


def openings() -> list[str]:
    """The first words of built-in sentences: none of those that methods are compared on."""
    sentences = [sentence for text in neutral_texts() for sentence in text.text.split(". ")]
    return list(dict.fromkeys(" ".join(sentence.split()[:4]) for sentence in sentences if len(sentence) > 30))
