"""Residuals of many texts: packed into sequences, read in groups, their median norm and its outliers.

Knows the engine's tokenizer and residuals; knows nothing of SAEs. Memory does not grow with the texts.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice

import torch
from torch import Tensor

from ..data.records import Passage
from ..errors import InputError
from .engine import Engine, ResidualBatch
from .hooks import HookPoint
from .tokenizer import Shortfall, Tokens

DOCUMENTS_AT_ONCE = 256  # tokenized together
TEXTS_AT_ONCE = 512  # sorted by length together
OUTLIER = 5.0  # times the median norm


def packed(engine: Engine, documents: Iterable[str], context: int) -> Iterator[Tokens]:
    """Yield sequences of `context` tokens, the model's own at most, from documents end to end.

    Documents are parted by the tokenizer's end-of-text token, where it has one. The last sequence may be
    shorter. Position 0 of a sequence (an attention sink) and special tokens do not count.
    """
    end = engine.tokenizer.eos_token_id
    parting = [] if end is None else [end]
    stream = chain.from_iterable(ids + parting for ids in _tokenized(engine, documents))
    while len(ids := list(islice(stream, min(context, engine.max_tokens)))) > 1:
        yield Tokens(
            ids, [position > 0 and token not in engine.special_ids for position, token in enumerate(ids)]
        )


def _tokenized(engine: Engine, documents: Iterable[str]) -> Iterator[list[int]]:
    stream = iter(documents)
    while texts := list(islice(stream, DOCUMENTS_AT_ONCE)):
        yield from engine.plain_ids(texts)


def read(
    engine: Engine,
    sequences: Iterable[Tokens],
    points: Sequence[HookPoint],
    wanted: Callable[[], bool] = lambda: True,
    group: int = TEXTS_AT_ONCE,
) -> Iterator[ResidualBatch]:
    """Yield residuals of token sequences, `group` of them run together, while more is `wanted`."""
    stream = iter(sequences)
    while wanted() and (together := list(islice(stream, group))):
        yield from engine.residuals(together, points)


def usual(resid: Tensor, median: float | Tensor) -> Tensor:
    """Which residuals [..., d_model] are no outliers in norm, bool [...]; `median` may be one a hook point.

    Some tokens besides the first have residuals many times as long as all others; they would own
    every mean and every SAE's loss.
    """
    kept: Tensor = resid.norm(dim=-1) < OUTLIER * median
    return kept


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


def median_norms(
    engine: Engine,
    points: Sequence[HookPoint],
    texts: Iterable[Passage],
    name: str,
    advance: Callable[[int], None] = lambda _n: None,
    warn: Callable[[str], None] = lambda _warning: None,
) -> dict[HookPoint, float]:
    """The median residual norm at each hook point over the tokens that count, in raw units.

    name: what errors call the texts; advance: told how many texts have been read; warn: told of texts
    that were cut.
    """

    def tokenized() -> Iterator[Tokens]:
        for passage in texts:
            tokens = engine.tokenize(passage)
            shortfall.add(tokens)
            if not any(tokens.counts):
                advance(1)  # it will be in no batch
            yield tokens

    norms = {point: MedianNorm() for point in points}
    n_tokens, shortfall = 0, Shortfall()
    for batch in read(engine, tokenized(), points):
        n_tokens += len(batch.places)
        advance(len(batch.texts))
        for point, resid in batch.resid.items():
            norms[point].add(resid)
    for line in shortfall.warnings(engine.max_tokens):
        warn(line)
    if not n_tokens:
        raise InputError(f"{name}: every text is a single token; nothing to measure the residual on")
    return {point: norm.median for point, norm in norms.items()}
