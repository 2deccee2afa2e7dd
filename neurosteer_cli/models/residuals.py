"""Documents packed into token sequences, and the median norm of the residuals read from them.

Knows the engine's tokenizer and residuals; knows nothing of SAEs. Memory does not grow with the texts.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

import torch
from torch import Tensor

from .engine import Engine, Tokens

DOCUMENTS_AT_ONCE = 256  # tokenized together


def packed(engine: Engine, documents: Iterable[str], context: int) -> Iterator[Tokens]:
    """Yield sequences of `context` tokens, the last one maybe shorter, from documents end to end.

    Documents are parted by the tokenizer's end-of-text token, where it has one. Position 0 of a
    sequence (an attention sink) and special tokens do not count. The memory is that of some
    hundred documents.
    """
    special = set(engine.tokenizer.all_special_ids)
    parting = [engine.tokenizer.eos_token_id] if engine.tokenizer.eos_token_id is not None else []
    waiting: list[int] = []
    for ids in _tokenized(engine, documents):
        waiting += ids + parting
        for start in range(0, len(waiting) - context + 1, context):
            yield _sequence(waiting[start : start + context], special)
        del waiting[: len(waiting) // context * context]
    if len(waiting) > 1:
        yield _sequence(waiting, special)


def _tokenized(engine: Engine, documents: Iterable[str]) -> Iterator[list[int]]:
    stream = iter(documents)
    while texts := list(islice(stream, DOCUMENTS_AT_ONCE)):
        yield from engine.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]


def _sequence(ids: list[int], special: set[int]) -> Tokens:
    counts = [position > 0 and token not in special for position, token in enumerate(ids)]
    return Tokens(ids, counts)


class MedianNorm:
    """The median of many norms, to 0.1 %, from a histogram of their logarithms."""

    LOW, STEP, BINS = -12.0, 0.001, 36_000  # exp(-12) to exp(24)

    def __init__(self) -> None:
        self._counts = torch.zeros(self.BINS, dtype=torch.int64)

    def add(self, resid: Tensor) -> None:
        """Take in residuals [n, d_model]."""
        logs = resid.norm(dim=-1).log().cpu()
        bins = ((logs - self.LOW) / self.STEP).long().clamp(0, self.BINS - 1)
        self._counts += torch.bincount(bins, minlength=self.BINS)

    @property
    def median(self) -> float:
        cumulated = self._counts.cumsum(0)
        middle = int(torch.searchsorted(cumulated, (cumulated[-1] + 1) // 2))
        return float(torch.tensor(self.LOW + (middle + 0.5) * self.STEP, dtype=torch.float64).exp())
