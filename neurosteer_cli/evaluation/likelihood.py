"""How probable texts are to a model, and how far a push moves its next-token distributions.

Knows the engine; knows nothing of conditions, judges or files.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ..models.engine import TOKENS_PER_BATCH, Engine, batches, padded
from ..models.hooks import HookPoint, add
from .metrics import kl_divergence, mean_log_prob


@torch.inference_mode()
def log_probs(
    engine: Engine,
    pairs: Sequence[tuple[list[int], list[int]]],
    advance: Callable[[int], None] = lambda _n: None,
) -> list[Tensor]:
    """Log-probability of each continuation token given all before it, unsteered, [n_tokens] float32, in nats.

    `pairs` are (prompt ids, at least one; continuation ids); `advance` is told how many are done.
    """
    found: list[Tensor] = [torch.empty(0)] * len(pairs)
    texts = [prompt + continuation for prompt, continuation in pairs]
    for rows in _batches(engine, texts, 2):
        logits = _logits(engine, [texts[row] for row in rows])  # [batch, pos, d_vocab]
        for row, of_text in zip(rows, logits, strict=True):
            prompt, continuation = pairs[row]
            predicted = of_text[len(prompt) - 1 : len(texts[row]) - 1].float()  # [n_tokens, d_vocab]
            targets = torch.tensor(continuation, dtype=torch.int64, device=engine.device)
            found[row] = predicted.log_softmax(-1).gather(-1, targets[:, None])[:, 0].cpu()
        advance(len(rows))
    return found


def perplexities(
    engine: Engine, prompt: str, texts: Sequence[str], *, rendered: bool = False
) -> list[float | None]:
    """exp of each continuation's mean negative log-probability a token, unsteered; None of an empty one.

    `rendered`: the prompt is a chat, special tokens and all.
    """
    ids = engine.prompt_ids(prompt, rendered=rendered)[: engine.max_tokens]
    written = [engine.continuation_ids(prompt, ids, text, rendered=rendered) for text in texts]
    pairs = [(ids, each[: engine.max_tokens - len(ids)]) for each in written]
    means = map(mean_log_prob, log_probs(engine, pairs))
    return [None if mean is None else math.exp(-mean) for mean in means]


@torch.inference_mode()
def damage(
    engine: Engine,
    texts: Sequence[list[int]],
    pushes: Sequence[Mapping[HookPoint, Tensor]],
    advance: Callable[[int], None] = lambda _n: None,
) -> list[float]:
    """KL(steered || unsteered) of next-token distributions, mean over tokens of texts but the first, in nats.

    `texts` are token ids; each of `pushes` is [d_model] at each hook point, raw residual units, and is added
    at every position. `advance` is told how many pushes times texts are done.
    """
    totals = [0.0] * len(pushes)
    for rows in _batches(engine, texts, 4):
        batch = [texts[row] for row in rows]
        counted = padded([[0] + [1] * (len(ids) - 1) for ids in batch], value=0).bool().to(engine.device)
        unsteered = _logits(engine, batch)[counted].float()  # [n, d_vocab]
        for number, push in enumerate(pushes):
            with add(engine.blocks, push):
                steered = _logits(engine, batch)[counted].float()
            totals[number] += float(kl_divergence(steered, unsteered).double().sum())
            advance(len(rows))
    return [total / sum(len(ids) - 1 for ids in texts) for total in totals]


def _batches(engine: Engine, texts: Sequence[list[int]], share: int) -> Iterator[list[int]]:
    """Rows of texts of similar length, each batch one of `share` parts of what the device holds."""
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    return batches(order, [len(ids) for ids in texts], TOKENS_PER_BATCH[engine.device.type] // share)


def _logits(engine: Engine, texts: Sequence[list[int]]) -> Tensor:
    """[batch, pos, d_vocab]; pads stand on the right, where a causal model's real tokens never see them."""
    ids = padded(texts, value=-1).to(engine.device)
    logits: Tensor = engine.model(input_ids=ids.clamp_min(0), use_cache=False).logits
    engine.check_finite(logits.amax(-1)[ids >= 0], ids)  # tokens may be ruled out by -inf
    return logits
