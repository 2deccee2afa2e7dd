"""One pass of a model over two sides of texts, folded at once into the statistics methods look at.

Knows the engine, SAEs and statistics; knows nothing of what a method makes of them. Memory does not
grow with the number of texts.
"""

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor

from ..data.sides import MIN_TEXTS, Side, Sides
from ..errors import InputError
from ..models.engine import Engine, ResidualBatch, Tokens
from ..models.hooks import HookPoint
from ..models.residuals import MedianNorm
from ..saes.peaks import Peaks
from ..saes.sae import SparseAutoencoder
from .methods import Evidence, SideStats
from .statistics import LatentStats, MeanStats, PairStats, TextFold, fold, text_means

HELD_OUT_SHARE = 5  # one text in five
MAX_HELD_OUT = 1000  # a side: bounds the memory for their mean residuals
CHUNK = 512  # texts a side that are sorted by length together
BEFORE, AFTER = 5, 2  # tokens kept around the place where a latent fires most
ENCODED_AT_ONCE = 2**20  # latent activations held at a time

Item = tuple[int, int, Tokens]  # side (0 positive, 1 negative), ordinal within it, tokens


class PointReading:
    """What is collected at one hook point while the texts go by."""

    def __init__(self, d_model: int, sae: SparseAutoencoder | None, *, pairs: bool) -> None:
        def empty_side() -> SideStats:
            return SideStats(MeanStats.empty(d_model), LatentStats.empty(sae.d_sae) if sae else None)

        self.sae = sae
        self.norms = MedianNorm()
        self.peaks = Peaks(sae.d_sae, before=BEFORE, after=AFTER) if sae else None
        # Texts fitted on and texts held out; both together are all.
        self.evidence = [
            Evidence(empty_side(), empty_side(), PairStats.empty(d_model) if pairs else None, sae)
            for _ in range(2)
        ]
        self.held_out: tuple[list[Tensor], list[Tensor]] = ([], [])  # mean residuals, a side

    @property
    def all(self) -> Evidence:
        """The statistics of all texts."""
        return self.evidence[0] + self.evidence[1]


class Reading:
    """One pass over both sides that fills every hook point's statistics."""

    def __init__(
        self,
        engine: Engine,
        points: Sequence[HookPoint],
        saes: dict[HookPoint, SparseAutoencoder],
        *,
        pairs: bool,
    ) -> None:
        self.engine, self.points = engine, list(points)
        self.at = {point: PointReading(engine.d_model, saes.get(point), pairs=pairs) for point in points}
        self.n_tokens = [0, 0]
        self.n_texts = [0, 0]  # with a token that counts
        self.n_tokens_run = 0
        self.n_without_tokens = 0

    @property
    def n_held_out(self) -> tuple[int, int]:
        positive, negative = self.at[self.points[0]].held_out
        return len(positive), len(negative)

    def run(self, sides: Sides, advance: Callable[[int], None]) -> None:
        longest = max(side.n_records for side in sides)
        stride = max(HELD_OUT_SHARE, math.ceil(longest / MAX_HELD_OUT))
        for chunk in _chunks(self.engine, sides):
            self._read(chunk, stride, advance)
        for side, n_tokens, n_texts in zip(sides, self.n_tokens, self.n_texts, strict=True):
            if 0 < n_texts < MIN_TEXTS:
                raise InputError(
                    f"{side.label}: {n_texts} distinct texts of more than one token; "
                    f"at least {MIN_TEXTS} a side are needed"
                )
            if n_tokens == 0:
                raise InputError(
                    f"{side.label}: every text is a single token; nothing to take statistics over"
                )

    def _read(self, chunk: list[Item], stride: int, advance: Callable[[int], None]) -> None:
        side_of = torch.tensor([side for side, _, _ in chunk])
        held = torch.tensor([ordinal % stride == stride - 1 for _, ordinal, _ in chunk])
        texts = [tokens for _, _, tokens in chunk]
        means = {point: torch.zeros(len(texts), self.engine.d_model) for point in self.points}
        seen = torch.zeros(len(texts), dtype=torch.bool)
        for batch in self.engine.residuals(texts, self.points):
            rows = torch.tensor(batch.texts)
            seen[rows] = True
            self.n_tokens_run += sum(len(texts[row].ids) for row in batch.texts)
            counted = torch.bincount(batch.text_index.cpu(), minlength=len(rows))
            for side in (0, 1):
                self.n_texts[side] += int((side_of[rows] == side).sum())
                self.n_tokens[side] += int(counted[side_of[rows] == side].sum())
            for point in self.points:
                means[point][rows] = self._take(point, batch, side_of[rows], held[rows]).cpu()
            advance(len(rows))
        self.n_without_tokens += int((~seen).sum())
        advance(int((~seen).sum()))
        for point in self.points:
            self._finish(point, chunk, means[point], seen, held)

    def _take(self, point: HookPoint, batch: ResidualBatch, side_of: Tensor, held: Tensor) -> Tensor:
        """Fold a batch into a point's statistics; return its texts' mean residuals."""
        at, resid, n_texts = self.at[point], batch.resid[point], len(batch.texts)
        at.norms.add(resid)
        means = text_means(resid, batch.text_index, n_texts)
        folded = self._encode(at, batch, resid) if at.sae else None
        for part in (0, 1):
            for side, stats in enumerate((at.evidence[part].positive, at.evidence[part].negative)):
                mine = (side_of == side) & (held == bool(part))
                if mine.any():
                    stats.means.add(means.cpu()[mine])
                    if folded and stats.latents:
                        stats.latents.add(TextFold(*(t.cpu()[mine] for t in folded)))
        return means

    def _encode(self, at: PointReading, batch: ResidualBatch, resid: Tensor) -> TextFold:
        """Encode a batch a bounded number of tokens at a time and fold it over its texts."""
        assert at.sae is not None and at.peaks is not None
        folded: TextFold | None = None
        step = max(1, ENCODED_AT_ONCE // at.sae.d_sae)
        for start in range(0, len(resid), step):
            tokens = slice(start, start + step)
            activations = at.sae.encode(resid[tokens]).mul_(at.sae.raw_scale(resid[tokens]))
            part = fold(activations, batch.text_index[tokens], len(batch.texts))
            at.peaks.add(activations, batch.places[tokens], batch.ids)
            folded = TextFold(*map(torch.add, folded, part)) if folded else part
        assert folded is not None
        return folded

    def _finish(self, point: HookPoint, chunk: list[Item], means: Tensor, seen: Tensor, held: Tensor) -> None:
        """Keep the held-out texts' means, and fold the differences of pairs."""
        at = self.at[point]
        row_of = {(side, ordinal): row for row, (side, ordinal, _) in enumerate(chunk) if seen[row]}
        for (side, _), row in row_of.items():
            if held[row]:
                at.held_out[side].append(means[row])
        for part in (0, 1):
            pairs = at.evidence[part].pairs
            if pairs is not None:
                rows = [
                    (row, row_of[1, ordinal])
                    for (side, ordinal), row in row_of.items()
                    if side == 0 and (1, ordinal) in row_of and bool(held[row]) == bool(part)
                ]
                if rows:
                    positive, negative = torch.tensor(rows).T
                    pairs.add(means[positive] - means[negative])


def _chunks(engine: Engine, sides: Sides) -> Iterator[list[Item]]:
    """Tokenize both sides in step: the texts whose ordinals lie in the same stretch of CHUNK."""

    def tokenized(number: int, side: Side) -> Iterator[Item]:
        for ordinal, passage in side.passages():
            yield number, ordinal, engine.tokenize(passage)

    def stretch(item: Item) -> int:
        return item[1] // CHUNK

    merged = heapq.merge(*(tokenized(number, side) for number, side in enumerate(sides)), key=stretch)
    for _, items in groupby(merged, key=stretch):
        yield list(items)
