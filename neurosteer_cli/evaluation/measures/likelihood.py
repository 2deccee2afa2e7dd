"""How probable texts are to a model, and how far a push moves its next-token distributions.

Knows the engine; knows nothing of conditions, judges or files.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...generation.sampling import urged
from ...models.architectures.head import FinalStates
from ...models.engine import TOKENS_PER_BATCH, Engine, batches, padded
from ...models.hooks import change
from ...vectors.kinds import TokenBias
from ...vectors.steering import Steering
from .metrics import kl_divergence, mean_log_prob


class Written(NamedTuple):
    """A text that goes on from a prompt."""

    prompt: str
    text: str
    rendered: bool  # whether the prompt is a chat, special tokens and all


@dataclass(frozen=True)
class Likelihoods:
    """How probable texts are to a model given their prompts, an entry a text."""

    means: list[float | None]  # mean log-probability a token, in nats; None of a text without tokens
    bits: list[float | None]  # negative log2-probability of the whole text
    n_bytes: list[int]  # of the text, in UTF-8
    n_tokens: list[int]
    n_cut: int  # texts that were too long for the model, of which the first tokens count


def likelihoods(
    engine: Engine, texts: Sequence[Written], advance: Callable[[int], None] = lambda _n: None
) -> Likelihoods:
    """How probable texts are to an unsteered model; `advance` is told how many are done."""
    pairs, n_bytes, n_cut = [], [], 0
    for prompt, text, rendered in texts:
        ids = engine.prompt_ids(prompt, rendered=rendered)[: engine.max_tokens]
        whole = engine.continuation_ids(prompt, ids, text, rendered=rendered)
        read = whole[: engine.max_tokens - len(ids)]
        n_cut += len(read) < len(whole)
        pairs.append((ids, read))
        n_bytes.append(len((text if len(read) == len(whole) else engine.decode(ids, read)).encode()))
    found = log_probs(engine, pairs, advance)
    bits = [-float(each.double().sum()) / math.log(2) if len(each) else None for each in found]
    return Likelihoods([*map(mean_log_prob, found)], bits, n_bytes, [*map(len, found)], n_cut)


@torch.inference_mode()
def log_probs(
    engine: Engine,
    pairs: Sequence[tuple[list[int], list[int]]],
    advance: Callable[[int], None] = lambda _n: None,
) -> list[Tensor]:
    """Log-probability of each continuation token given all before it, unsteered, [n_tokens] float32, in nats.

    `pairs` are (prompt ids, at least one; continuation ids); `advance` is told how many are done.
    """
    found: dict[int, Tensor] = {}
    for rows in _batches(engine, [prompt + continuation for prompt, continuation in pairs]):
        found.update(zip(rows, _of_batch(engine, [pairs[row] for row in rows]), strict=True))
        advance(len(rows))
    return [found[row] for row in range(len(pairs))]


def _of_batch(engine: Engine, pairs: Sequence[tuple[list[int], list[int]]]) -> Sequence[Tensor]:
    ids = padded([prompt + continuation for prompt, continuation in pairs], value=-1).to(engine.device)
    predicting = [range(len(prompt) - 1, len(prompt + after) - 1) for prompt, after in pairs]
    places = [(row, position) for row, positions in enumerate(predicting) for position in positions]
    at = torch.tensor(places, dtype=torch.int64, device=engine.device).reshape(-1, 2)
    targets = ids[at[:, 0], at[:, 1] + 1]
    found = torch.empty(len(at))
    for some, logits in _logits(engine, FinalStates(engine.model, ids.clamp_min(0)), ids, at):
        found[some] = logits.log_softmax(-1).gather(-1, targets[some, None])[:, 0].cpu()
    return torch.split(found, [len(after) for _, after in pairs])


def perplexities(
    engine: Engine, prompt: str, texts: Sequence[str], *, rendered: bool = False
) -> list[float | None]:
    """exp of each continuation's mean negative log-probability a token, unsteered; None of an empty one.

    `rendered`: the prompt is a chat, special tokens and all.
    """
    found = likelihoods(engine, [Written(prompt, text, rendered) for text in texts])
    return [None if mean is None else math.exp(-mean) for mean in found.means]


@torch.inference_mode()
def damage(
    engine: Engine,
    texts: Sequence[list[int]],
    steerings: Sequence[Steering],
    advance: Callable[[int], None] = lambda _n: None,
) -> list[float]:
    """KL(steered || unsteered) of next-token distributions, mean over tokens of texts but the first, in nats.

    `texts` are token ids, and every one of them is steered. `advance` is told how many steerings times texts
    are done.
    """
    totals = [0.0] * len(steerings)
    for rows in _batches(engine, texts):
        ids = padded([texts[row] for row in rows], value=-1).to(engine.device)
        places = (ids[:, 1:] >= 0).nonzero() + torch.tensor([0, 1], device=ids.device)
        unsteered = FinalStates(engine.model, ids.clamp_min(0))
        for number, steering in enumerate(steerings):
            with change(engine.blocks, steering.changes()):
                steered = FinalStates(engine.model, ids.clamp_min(0))
            both = (_logits(engine, states, ids, places) for states in (steered, unsteered))
            for (some, moved), (_, plain) in zip(*both, strict=True):
                if steering.bias:
                    moved = _urged(moved, steering.bias, ids, places[some])
                totals[number] += float(kl_divergence(moved, plain).double().sum())
            advance(len(rows))
    return [total / sum(len(ids) - 1 for ids in texts) for total in totals]


def _urged(logits: Tensor, bias: TokenBias, ids: Tensor, places: Tensor) -> Tensor:
    """Logits [n, d_vocab] at places [n, 2] with a bias; said is what a text has before its place."""
    said = [ids[row, :position].tolist() for row, position in places.tolist()]
    dense = bias.dense(logits.shape[-1]).to(logits.device)
    return urged(logits, dense.expand_as(logits), said)


def _batches(engine: Engine, texts: Sequence[list[int]]) -> Iterator[list[int]]:
    """Rows of texts of similar length, as many as the device reads at a time."""
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    return batches(order, [len(ids) for ids in texts], TOKENS_PER_BATCH[engine.device.type])


def _logits(
    engine: Engine, states: FinalStates, ids: Tensor, places: Tensor
) -> Iterator[tuple[slice, Tensor]]:
    """As `FinalStates.logits`, held to be finite, of tokens [batch, pos] with -1 for pads.

    Pads stand on the right, where a causal model's real tokens never see them.
    """
    for some, logits in states.logits(places):
        engine.check_finite(logits.amax(-1), ids)  # tokens may be ruled out by -inf
        yield some, logits
