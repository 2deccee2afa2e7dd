"""Choose next tokens: temperature, top-k, top-p, min-p, penalties, bias, and noise of its own for each row.

Knows logits; knows nothing of models, text or steering.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError

NUCLEUS_GUESS = 512  # tokens sorted first in the search for the nucleus; all are, if it is larger
URGED_TOP_P = 0.95  # tokens outside of this nucleus are not urged, nor held back
COLDEST = 1e-5  # below, the most probable token is taken: logits would be divided into infinities


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How next tokens are chosen. `temperature` 0 takes the most probable one (greedy).

    A bias is added to a token's logit; presence and frequency penalties are taken from those of tokens
    written so far, once and for each time (as OpenAI's API has them); the repetition penalty shrinks
    those of the prompt as well. Then come the temperature, min-p, top-k and top-p.
    """

    temperature: float = 0.9
    top_p: float = 0.9
    top_k: int = 0  # 0: no bound
    min_p: float = 0.0  # of the most probable token's probability (arXiv 2407.01082)
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token, what is added)
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InputError(f"--temperature must be a finite number >= 0, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"--top-p must be above 0 and at most 1, got {self.top_p}")
        if self.top_k < 0:
            raise InputError(f"--top-k must be >= 0 (0: no bound), got {self.top_k}")
        if not (math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0):
            raise InputError(f"--repetition-penalty must be above 0, got {self.repetition_penalty}")
        if not 0 <= self.min_p <= 1:
            raise InputError(f"--min-p must be from 0 to 1, got {self.min_p}")
        for name in ("presence_penalty", "frequency_penalty"):
            if not math.isfinite(value := getattr(self, name)):
                raise InputError(f"{name} must be a finite number, got {value}")
        if not all(token >= 0 and math.isfinite(bias) for token, bias in self.logit_bias):
            raise InputError("logit_bias: tokens count from 0, and what is added must be finite")

    @property
    def draws(self) -> bool:
        """Whether there is a choice that noise decides."""
        return self.temperature >= COLDEST and self.top_k != 1

    @property
    def changes_logits(self) -> bool:
        """Whether logits depend on more than the model: on tokens so far, or on a bias."""
        penalties = self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1.0
        return bool(penalties or self.logit_bias)


def generator(seed: int, prompt: str, sample: int) -> torch.Generator:
    """The noise of one continuation, by what it continues: equal prompts and samples draw alike.

    Rows that are written together and share a generator (a prompt at several alphas) share each draw:
    with Gumbel-max sampling equal distributions then give equal tokens, and what differs between such
    rows is the steering's.
    """
    digest = hashlib.sha256(f"{seed}\0{sample}\0{prompt}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)  # torch takes 63 bits


def uniform(generators: Sequence[torch.Generator], d_vocab: int) -> Tensor:
    """The next step's numbers of each row, [batch, d_vocab] in [0, 1), drawn once a generator."""
    drawn = {noise: torch.rand(d_vocab, generator=noise) for noise in set(generators)}
    return torch.stack([drawn[noise] for noise in generators])


def choose(
    logits: Tensor,
    generators: Sequence[torch.Generator],
    sampling: Sampling,
    prompts: Sequence[list[int]] = (),
    written: Sequence[list[int]] = (),
) -> Tensor:
    """A token a row, [batch] int64, by logits [batch, d_vocab] and each row's own noise.

    Penalties need `prompts` and `written`, the tokens that each row has.
    """
    logits = logits.float()
    if sampling.changes_logits:
        logits = adjusted(logits, sampling, prompts, written)
    if sampling.temperature < COLDEST:
        return logits.argmax(-1)
    scores, token_ids = nucleus(
        above_min_p(logits / sampling.temperature, sampling.min_p), sampling.top_p, sampling.top_k
    )
    drawn = uniform(generators, logits.shape[-1]).to(logits.device).gather(-1, token_ids)
    gumbel = -torch.log(-torch.log(drawn.clamp(1e-20, 1 - 1e-7)))  # [batch, n_candidates]
    return token_ids.gather(-1, (scores + gumbel).argmax(-1, keepdim=True)).squeeze(-1)


def adjusted(
    logits: Tensor, sampling: Sampling, prompts: Sequence[list[int]], written: Sequence[list[int]]
) -> Tensor:
    """Logits [batch, d_vocab] with the bias, and less what penalties take from them."""
    if sampling.repetition_penalty != 1.0:
        seen = [prompt + own for prompt, own in zip(prompts, written, strict=True)]
        logits = penalize(logits, seen, sampling.repetition_penalty)
    logits = logits.clone()
    for row, own in zip(logits, written, strict=False):
        for token, n in Counter(own).items():
            row[token] -= sampling.presence_penalty + n * sampling.frequency_penalty
    for token, bias in sampling.logit_bias:
        logits[:, token] += bias
    return logits


def urged(logits: Tensor, bias: Tensor, said: Sequence[Collection[int]]) -> Tensor:
    """Logits [batch, d_vocab] float32 with what is added to those of tokens, `bias` [batch, d_vocab].

    Only tokens in the nucleus are urged, so that none comes up that the model would not have written, and
    none that the text has used already (`said`, of each row): without that rule texts loop. What is added
    is centred on the nucleus.
    """
    scores, token_ids = nucleus(logits, URGED_TOP_P, 0)  # [batch, n_candidates]
    bias = bias.clone()
    for row, tokens in zip(bias, said, strict=True):
        used = torch.tensor(sorted(tokens), dtype=torch.int64, device=row.device)
        row[used] = row[used].clamp_max(0)
    inside = scores.isfinite()
    here = bias.gather(-1, token_ids).where(inside, 0)
    mean = (here * scores.softmax(-1)).sum(-1, keepdim=True)
    return logits.scatter_add(-1, token_ids, (here - mean).where(inside, 0))


def above_min_p(logits: Tensor, min_p: float) -> Tensor:
    """Logits without tokens less than `min_p` times as probable as the most probable one."""
    if min_p == 0.0:
        return logits
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + math.log(min_p), -torch.inf)


def penalize(logits: Tensor, ids: Sequence[list[int]], penalty: float) -> Tensor:
    """Divide positive and multiply negative logits of each row's tokens so far (CTRL, arXiv 1909.05858)."""
    penalized = logits.clone()
    for row, seen in zip(penalized, ids, strict=True):
        scores = row[seen]
        row[seen] = torch.where(scores > 0, scores / penalty, scores * penalty)
    return penalized


def nucleus(logits: Tensor, top_p: float, top_k: int) -> tuple[Tensor, Tensor]:
    """The candidates that top-k and then top-p sampling leave (arXiv 1904.09751).

    Their logits, -inf where a row has fewer, and their token ids; both [batch, n_candidates].
    """
    d_vocab = logits.shape[-1]
    if top_p == 1.0 and top_k == 0:
        return logits, torch.arange(d_vocab, device=logits.device).expand_as(logits)
    limit = min(top_k or d_vocab, d_vocab)
    if top_p == 1.0:
        return logits.topk(limit)
    for n in (limit,) if top_k else (min(limit, NUCLEUS_GUESS), limit):
        values, token_ids = logits.topk(n)  # [batch, n]
        total = (values if n == limit else logits).logsumexp(-1, keepdim=True)
        probs = (values - total).exp()
        mass = probs.cumsum(-1)
        if (mass[:, -1] >= top_p).all():
            break
    outside = mass - probs >= top_p  # the mass of all more probable tokens
    return values.masked_fill(outside, -torch.inf), token_ids
