"""One pass of a model over two sides of texts, folded at once into the statistics methods look at.

Knows the engine, SAEs and statistics; knows nothing of what a method makes of them. Memory does not
grow with the number of texts.
"""

import heapq
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, reduce
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
from .methods import Evidence
from .statistics import TextFold, fold, text_means

HELD_OUT_SHARE = 5  # one text in five
MAX_HELD_OUT = 1000  # a side: bounds the memory for their mean residuals
CHUNK = 512  # texts a side that are sorted by length together
BEFORE, AFTER = 5, 2  # tokens kept around the place where a latent fires most
ENCODED_AT_ONCE = 2**20  # latent activations held at a time

Item = tuple[int, int, Tokens]  # side (0 positive, 1 negative), ordinal within it, tokens


class LatentReading:
    """Encodes residuals, and remembers where each latent fires most."""

    def __init__(self, sae: SparseAutoencoder) -> None:
        self.sae = sae
        self.peaks = Peaks(sae.d_sae, before=BEFORE, after=AFTER)

    def fold(self, batch: ResidualBatch, resid: Tensor) -> TextFold:
        """The activations of residuals [n, d_model], folded over texts a bounded number at a time."""
        step = max(1, ENCODED_AT_ONCE // self.sae.d_sae)
        parts = (self._part(batch, resid, slice(i, i + step)) for i in range(0, len(resid), step))
        return reduce(lambda whole, part: TextFold(*map(torch.add, whole, part)), parts)

    def _part(self, batch: ResidualBatch, resid: Tensor, tokens: slice) -> TextFold:
        activations = self.sae.encode(resid[tokens]).mul_(self.sae.raw_scale(resid[tokens]))
        self.peaks.add(activations, batch.places[tokens], batch.ids)
        return fold(activations, batch.text_index[tokens], len(batch.texts))


class PointReading:
    """What is collected at one hook point while the texts go by."""

    def __init__(self, d_model: int, sae: SparseAutoencoder | None, *, pairs: bool) -> None:
        self.latents = LatentReading(sae) if sae else None
        self.norms = MedianNorm()
        # Texts fitted on and texts held out; both together are all.
        self.evidence = [Evidence.empty(d_model, sae, pairs=pairs) for _ in range(2)]
        self.held_out: tuple[list[Tensor], list[Tensor]] = ([], [])  # mean residuals, a side
        self._pairs = pairs

    @cached_property
    def all(self) -> Evidence:
        """The statistics of all texts, once they have been read."""
        return self.evidence[0] + self.evidence[1]

    def add(self, batch: ResidualBatch, resid: Tensor, side_of: Tensor, held: Tensor) -> Tensor:
        """Take in a batch; return its texts' mean residuals, [n_texts, d_model]."""
        self.norms.add(resid)
        means = text_means(resid, batch.text_index, len(batch.texts)).cpu()
        folded = [part.cpu() for part in self.latents.fold(batch, resid)] if self.latents else None
        for part, evidence in enumerate(self.evidence):
            for side in (0, 1):
                mine = (side_of == side) & (held == bool(part))
                if mine.any():
                    evidence.means[side].add(means[mine])
                    if folded:
                        evidence.latents[side].add(TextFold(*(part[mine] for part in folded)))
        return means

    def add_texts(self, rows: Mapping[tuple[int, int], int], means: Tensor, held: Tensor) -> None:
        """Keep the held-out texts' means, and fold the differences of pairs.

        Args:
            rows: of texts in `means` [n_texts, d_model] and `held` [n_texts], by (side, ordinal).
        """
        for (side, _), row in rows.items():
            if held[row]:
                self.held_out[side].append(means[row])
        for part, evidence in enumerate(self.evidence):
            pairs = [
                (row, rows[1, ordinal])
                for (side, ordinal), row in rows.items()
                if side == 0 and (1, ordinal) in rows and bool(held[row]) == bool(part)
            ]
            if self._pairs and pairs:
                positive, negative = torch.tensor(pairs).T
                evidence.pairs.add(means[positive] - means[negative])


class Reading:
    """One pass over both sides that fills every hook point's statistics."""

    def __init__(
        self,
        engine: Engine,
        sides: Sides,
        points: Sequence[HookPoint],
        saes: Mapping[HookPoint, SparseAutoencoder],
        *,
        pairs: bool = False,
    ) -> None:
        self.engine, self.sides = engine, sides
        self.at = {point: PointReading(engine.d_model, saes.get(point), pairs=pairs) for point in points}
        self.n_tokens = [0, 0]
        self.n_texts = [0, 0]  # with a token that counts
        self.n_tokens_run = 0
        self.n_without_tokens = 0

    @property
    def n_held_out(self) -> tuple[int, int]:
        positive, negative = next(iter(self.at.values())).held_out
        return len(positive), len(negative)

    def run(self, advance: Callable[[int], None] = lambda _n: None) -> None:
        """Read both sides.

        Args:
            advance: told how many texts have been read.

        Raises:
            InputError: a side has hardly a text of more than one token.
        """
        longest = max(side.n_records for side in self.sides)
        stride = max(HELD_OUT_SHARE, math.ceil(longest / MAX_HELD_OUT))
        for chunk in _chunks(self.engine, self.sides):
            self._read(chunk, stride, advance)
        for side, n_tokens, n_texts in zip(self.sides, self.n_tokens, self.n_texts, strict=True):
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
        means = {point: torch.zeros(len(texts), self.engine.d_model) for point in self.at}
        seen = torch.zeros(len(texts), dtype=torch.bool)
        for batch in self.engine.residuals(texts, list(self.at)):
            rows = torch.tensor(batch.texts)
            seen[rows] = True
            self._count(batch, side_of[rows], sum(len(texts[row].ids) for row in batch.texts))
            for point, at in self.at.items():
                means[point][rows] = at.add(batch, batch.resid[point], side_of[rows], held[rows])
            advance(len(rows))
        self.n_without_tokens += int((~seen).sum())
        advance(int((~seen).sum()))
        row_of = {(side, ordinal): row for row, (side, ordinal, _) in enumerate(chunk) if seen[row]}
        for point, at in self.at.items():
            at.add_texts(row_of, means[point], held)

    def _count(self, batch: ResidualBatch, side_of: Tensor, n_tokens_run: int) -> None:
        counted = torch.bincount(batch.text_index.cpu(), minlength=len(side_of))
        self.n_tokens_run += n_tokens_run
        for side in (0, 1):
            self.n_texts[side] += int((side_of == side).sum())
            self.n_tokens[side] += int(counted[side_of == side].sum())


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
