"""One pass of a model over two sides of texts, folded at once into the statistics methods look at.

Knows the engine, SAEs and statistics, in bounded memory; knows nothing of what a method makes of them.
"""

import heapq
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, reduce
from itertools import compress, groupby, product

import torch
from torch import Tensor

from ...data.sides import MIN_TEXTS, Side, Sides
from ...errors import InputError
from ...models.engine import Engine, ResidualBatch
from ...models.hooks import HookPoint
from ...models.residuals import MedianNorm
from ...models.tokenizer import Shortfall, Tokens
from ...saes.load import SAEs
from ...saes.peaks import Peaks
from ...saes.sae import SparseAutoencoder
from .log_odds import TokenReading
from .methods import Evidence
from .statistics import TextFold, fold, text_means

HELD_OUT_SHARE = 5  # one text in five
MAX_HELD_OUT = 1000  # a side: bounds the memory for their mean residuals
CHUNK = 512  # texts a side that are sorted by length together
BEFORE, AFTER = 5, 2  # tokens kept around the place where a latent fires most
ENCODED_AT_ONCE = 2**20  # latent activations held at a time

Item = tuple[int, int, Tokens]  # side (0 positive, 1 negative), ordinal within it, tokens


class PointReading:
    """What is collected at one hook point while the texts go by."""

    def __init__(
        self, d_model: int, sae: SparseAutoencoder | None, *, pairs: bool, pause: Callable[[], None]
    ) -> None:
        """`pause` is called between parts of what takes long."""
        self.sae, self._pause = sae, pause
        self.peaks = Peaks(sae.d_sae if sae else 0, before=BEFORE, after=AFTER)
        self.norms = MedianNorm()
        # Texts fitted on and texts held out; both together are all.
        self.evidence = [Evidence.empty(d_model, sae, pairs=pairs) for _ in range(2)]
        self.held_out: tuple[list[Tensor], list[Tensor]] = ([], [])  # mean residuals, a side

    @cached_property
    def all(self) -> Evidence:
        """The statistics of all texts, once they have been read."""
        return self.evidence[0] + self.evidence[1]

    def add(self, batch: ResidualBatch, resid: Tensor, side_of: Tensor, held: Tensor) -> Tensor:
        """Take in a batch; return its texts' mean residuals, [n_texts, d_model]."""
        self.norms.add(resid)
        means = text_means(resid, batch.text_index, len(batch.texts)).cpu()
        folded = self._folded(batch, resid, self.sae) if self.sae else None
        for side, part in product(range(2), range(2)):
            mine = (side_of == side) & (held == bool(part))
            self.evidence[part].means[side].add(means[mine])
            if folded:
                self.evidence[part].latents[side].add(TextFold(*(of_texts[mine] for of_texts in folded)))
            if part:
                self.held_out[side].extend(means[mine])
        return means

    def _folded(self, batch: ResidualBatch, resid: Tensor, sae: SparseAutoencoder) -> TextFold:
        """The activations of residuals [n, d_model], folded over texts a bounded number at a time."""

        def folded(some: slice) -> TextFold:
            self._pause()
            activations = sae.encode(resid[some]).mul_(sae.raw_scale(resid[some]))
            self.peaks.add(activations, batch.places[some], batch.ids)
            return fold(activations, batch.text_index[some], len(batch.texts))

        step = max(1, ENCODED_AT_ONCE // sae.d_sae)
        parts = (folded(slice(i, i + step)) for i in range(0, len(resid), step))
        whole = reduce(lambda whole, part: TextFold(*map(torch.add, whole, part)), parts)
        return TextFold(*(of_texts.cpu() for of_texts in whole))


class Reading:
    """One pass over both sides that fills every hook point's statistics."""

    def __init__(
        self,
        engine: Engine,
        sides: Sides,
        points: Sequence[HookPoint],
        saes: SAEs,
        *,
        pairs: bool = False,
        counts_tokens: bool = False,
    ) -> None:
        """Without hook points nothing is run: texts are told apart by their tokens alone."""
        self.engine, self.sides, self._pairs = engine, sides, pairs
        self.tokens = TokenReading(engine.shape.d_vocab if counts_tokens else 0)
        self.at = {
            point: PointReading(engine.d_model, saes.get(point), pairs=pairs, pause=engine.pause)
            for point in points
        }
        self.n_tokens = torch.zeros(2, dtype=torch.int64)  # that count, a side
        self.n_tokens_run = 0
        self.n_texts = torch.zeros(2, dtype=torch.int64)  # with tokens that count, a side
        self.n_without_tokens = 0  # texts
        self.shortfall = Shortfall()

    def run(self, advance: Callable[[int], None] = lambda _n: None) -> None:
        """Read both sides; `advance` is told how many texts have been read."""
        longest = max(side.n_records for side in self.sides)
        stride = max(HELD_OUT_SHARE, math.ceil(longest / MAX_HELD_OUT))
        for chunk in _chunks(self.engine, self.sides):
            self._read(chunk, stride, advance)
        for side, n_texts in zip(self.sides, self.n_texts.tolist(), strict=True):
            if not n_texts:
                raise InputError(
                    f"{side.label}: every text is a single token; nothing to take statistics over"
                )
            if n_texts < MIN_TEXTS:
                raise InputError(
                    f"{side.label}: {n_texts} distinct texts of more than one token; "
                    f"at least {MIN_TEXTS} a side are needed"
                )

    def _read(self, chunk: list[Item], stride: int, advance: Callable[[int], None]) -> None:
        sides, ordinals, texts = zip(*chunk, strict=True)
        side_of, held = torch.tensor(sides), torch.tensor(ordinals) % stride == stride - 1
        means = {point: torch.zeros(len(texts), self.engine.d_model) for point in self.at}
        seen = torch.tensor([any(tokens.counts) for tokens in texts])
        self.n_texts += side_of[seen].bincount(minlength=2)
        for side, is_held, tokens in zip(sides, held.tolist(), texts, strict=True):
            self.shortfall.add(tokens)
            self.n_tokens[side] += sum(tokens.counts)
            self.tokens.add(side, compress(tokens.ids, tokens.counts), held=is_held)
        for batch in self.engine.residuals(texts, list(self.at)) if self.at else ():
            rows = torch.tensor(batch.texts)
            self.n_tokens_run += sum(len(texts[row].ids) for row in batch.texts)
            for point, at in self.at.items():
                means[point][rows] = at.add(batch, batch.resid[point], side_of[rows], held[rows])
            advance(len(rows))
        self.n_without_tokens += int((~seen).sum())
        advance(int((~seen).sum()) if self.at else len(texts))
        if self._pairs:
            row_of = {item[:2]: row for row, item in enumerate(chunk) if seen[row]}
            pairs = [(row_of[0, n], row_of[1, n]) for side, n in row_of if side == 0 and (1, n) in row_of]
            self._add_pairs(pairs, means, held)

    def _add_pairs(
        self, rows: Sequence[tuple[int, int]], means: Mapping[HookPoint, Tensor], held: Tensor
    ) -> None:
        """Fold the differences of pairs of texts, by their rows in `means` [n_texts, d_model]."""
        positive, negative = torch.tensor(rows, dtype=torch.int64).reshape(-1, 2).T
        for point, at in self.at.items():
            differences = means[point][positive] - means[point][negative]  # [n_pairs, d_model]
            for part, evidence in enumerate(at.evidence):  # a pair is held out as a whole
                evidence.pairs.add(differences[held[positive] == bool(part)])


def _chunks(engine: Engine, sides: Sides) -> Iterator[list[Item]]:
    """Tokenize both sides in step: the texts whose ordinals lie in the same stretch of CHUNK."""

    def tokenized(number: int, side: Side) -> Iterator[Item]:
        for ordinal, passage in side.passages():
            engine.pause()
            yield number, ordinal, engine.tokenize(passage)

    def stretch(item: Item) -> int:
        return item[1] // CHUNK

    merged = heapq.merge(*(tokenized(number, side) for number, side in enumerate(sides)), key=stretch)
    for _, items in groupby(merged, key=stretch):
        yield list(items)
