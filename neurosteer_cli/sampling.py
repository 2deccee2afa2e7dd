"""Choose next tokens: temperature, top-k, top-p, repetition penalty, and noise of one's own per row.

Knows logits; knows nothing of models, text or steering.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import InputError

NUCLEUS_GUESS = 512  # tokens sorted first in the search for the nucleus; all are, if it is larger


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How next tokens are chosen. `temperature` 0 takes the most probable one (greedy)."""

    temperature: float = 0.9
    top_p: float = 0.9
    top_k: int = 0  # 0: no bound
    repetition_penalty: float = 1.0
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


class Noise:
    """Gumbel noise from a generator per key, so that a row's draws do not depend on its company.

    Rows of one key (a prompt at several alphas) share their noise: with Gumbel-max sampling equal
    distributions then give equal tokens, and what differs between such rows is the steering's.
    """

    def __init__(self, keys: Sequence[tuple[str, int]], seed: int, d_vocab: int) -> None:
        self._keys = list(keys)
        self._d_vocab = d_vocab
        self._generators = {
            key: torch.Generator().manual_seed(_seed_of(seed, *key)) for key in dict.fromkeys(keys)
        }

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""
        self._keys = [self._keys[row] for row in rows]
        self._generators = {key: self._generators[key] for key in dict.fromkeys(self._keys)}

    def draw(self, device: torch.device) -> Tensor:
        """The next step's uniform numbers, [batch, d_vocab] in [0, 1)."""
        drawn = {
            key: torch.rand(self._d_vocab, generator=generator) for key, generator in self._generators.items()
        }
        return torch.stack([drawn[key] for key in self._keys]).to(device)  # [batch, d_vocab]


def _seed_of(seed: int, prompt: str, sample: int) -> int:
    digest = hashlib.sha256(f"{seed}\0{sample}\0{prompt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # torch takes 63 bits


def choose(logits: Tensor, noise: Noise, sampling: Sampling, seen: Tensor | None = None) -> Tensor:
    """Choose one token a row.

    Args:
        logits: [batch, d_vocab].
        seen: the tokens each row has so far, [batch, d_vocab] bool; needed for a repetition penalty.

    Returns:
        token ids, [batch] int64.
    """
    logits = logits.float()
    if sampling.repetition_penalty != 1.0 and seen is not None:
        logits = penalize(logits, seen, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return logits.argmax(-1)
    scores, token_ids = nucleus(logits / sampling.temperature, sampling.top_p, sampling.top_k)
    uniform = noise.draw(logits.device).gather(-1, token_ids)  # [batch, n_candidates]
    gumbel = -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))
    return token_ids.gather(-1, (scores + gumbel).argmax(-1, keepdim=True)).squeeze(-1)


def penalize(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Divide positive and multiply negative logits of the tokens seen (CTRL, arXiv 1909.05858)."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def nucleus(logits: Tensor, top_p: float, top_k: int) -> tuple[Tensor, Tensor]:
    """The candidates that top-k and then top-p sampling leave (arXiv 1904.09751).

    Returns:
        logits of the candidates, -inf where a row has fewer, and their token ids; both
        [batch, n_candidates].
    """
    d_vocab = logits.shape[-1]
    if top_p == 1.0 and top_k == 0:
        return logits, torch.arange(d_vocab, device=logits.device).expand_as(logits)
    limit = min(top_k or d_vocab, d_vocab)
    if top_p == 1.0:
        values, token_ids = logits.topk(limit)
        return values, token_ids
    guess = limit if top_k else min(limit, NUCLEUS_GUESS)
    values, token_ids = logits.topk(guess)  # [batch, guess]
    total = values.logsumexp(-1, keepdim=True) if guess == limit else logits.logsumexp(-1, keepdim=True)
    mass = (values - total).exp().cumsum(-1)
    if guess < limit and bool((mass[:, -1] < top_p).any()):
        values, token_ids = logits.topk(limit)
        total = values.logsumexp(-1, keepdim=True)
        mass = (values - total).exp().cumsum(-1)
    before = mass - (values - total).exp()  # the mass of all more probable tokens
    outside = before >= top_p
    outside[:, 0] = False
    return values.masked_fill(outside, -torch.inf), token_ids
