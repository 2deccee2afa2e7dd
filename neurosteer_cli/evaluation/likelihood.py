"""How probable texts are to a model, and how far a push moves its next-token distributions.

Knows the engine; knows nothing of conditions, judges or files.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ..models.engine import TOKENS_PER_BATCH, Engine, batches, padded
from ..models.hooks import HookPoint, add
from .metrics import kl_divergence


@torch.inference_mode()
def log_probs(
    engine: Engine,
    pairs: Sequence[tuple[list[int], list[int]]],
    advance: Callable[[int], None] = lambda _n: None,
) -> list[Tensor]:
    """Log-probability of each continuation token given all before it, unsteered.

    Args:
        pairs: (prompt ids, continuation ids); a prompt has at least one token.
        advance: told how many pairs are done.

    Returns:
        for each pair a float32 tensor [len(continuation)], in nats.
    """
    found: list[Tensor] = [torch.empty(0)] * len(pairs)
    lengths = [len(prompt) + len(continuation) for prompt, continuation in pairs]
    order = sorted(range(len(pairs)), key=lengths.__getitem__)
    for rows in batches(order, lengths, TOKENS_PER_BATCH[engine.device.type] // 2):
        logits = _logits(engine, [pairs[row][0] + pairs[row][1] for row in rows])  # [batch, pos, d_vocab]
        for i, row in enumerate(rows):
            prompt, continuation = pairs[row]
            predicted = logits[i, len(prompt) - 1 : lengths[row] - 1].float()  # [n, d_vocab]
            targets = torch.tensor(continuation, dtype=torch.int64, device=engine.device)
            found[row] = predicted.log_softmax(-1).gather(-1, targets[:, None])[:, 0].cpu()
        advance(len(rows))
    return found


@torch.inference_mode()
def damage(
    engine: Engine,
    texts: Sequence[list[int]],
    pushes: Sequence[Mapping[HookPoint, Tensor]],
    advance: Callable[[int], None] = lambda _n: None,
) -> list[float]:
    """KL(steered || unsteered) of next-token distributions, mean over tokens of texts, in nats.

    Every position but the first is counted, and every position is steered.

    Args:
        texts: token ids of texts the push was not meant for.
        pushes: for each condition a push [d_model] at each hook point, raw residual units.
        advance: told how many conditions times texts are done.
    """
    totals, n_tokens = [0.0] * len(pushes), 0
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    for rows in batches(order, [len(ids) for ids in texts], TOKENS_PER_BATCH[engine.device.type] // 4):
        batch = [texts[row] for row in rows]
        counted = padded([[0] + [1] * (len(ids) - 1) for ids in batch], value=0).bool().to(engine.device)
        n_tokens += int(counted.sum())
        unsteered = _logits(engine, batch)[counted].float()  # [n, d_vocab]
        for number, push in enumerate(pushes):
            with add(engine.blocks, push):
                steered = _logits(engine, batch)[counted].float()
            totals[number] += float(kl_divergence(steered, unsteered).double().sum())
            advance(len(rows))
    return [total / n_tokens for total in totals]


def _logits(engine: Engine, texts: Sequence[list[int]]) -> Tensor:
    """[batch, pos, d_vocab]; pads stand on the right, where a causal model's real tokens never see them."""
    ids = padded(texts, value=0).to(engine.device)
    logits: Tensor = engine.model(input_ids=ids, use_cache=False).logits
    return logits
