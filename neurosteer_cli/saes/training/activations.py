"""Residuals of packed sequences kept in a file on disk, to be drawn from in any order.

Rows are float16 in training units (residual x scale), so memory holds one group of sequences,
whatever the file's size. Knows nothing of SAEs or training.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor

from ...errors import InputError
from ...files import replace_file, writing
from ...models.engine import Engine
from ...models.hooks import HookPoint
from ...models.residuals import usual
from ...models.tokenizer import Tokens
from .config import row_bytes

SEQUENCES_PER_GROUP = 32  # at most: run, written and noted down together
SHA256_OF_NOTHING = hashlib.sha256().hexdigest()


class ReadingState(BaseModel, frozen=True):
    """How far the reading of the corpus has come; what a resumed run goes on from."""

    round: int = 0  # which filling of the file
    n_rows: int = 0  # in the file
    n_sequences: int = 0  # read since the beginning of the corpus
    sha256: str = SHA256_OF_NOTHING  # of their token ids
    exhausted: bool = False  # the corpus has no more
    medians: tuple[float, ...] = ()  # residual norm, by hook point; () before the first group
    scales: tuple[float, ...] = ()  # residual x scale has a mean norm of sqrt(d_model)

    @classmethod
    def load(cls, file: Path) -> "ReadingState":
        """Read what `save` wrote; the beginning if there is nothing."""
        return cls.model_validate_json(file.read_bytes()) if file.exists() else cls()

    def save(self, file: Path) -> None:
        with replace_file(file) as temporary:
            temporary.write_text(self.model_dump_json())


class ActivationStore:
    """The file of rows [n, n_points, d_model] float16, filled from a corpus in rounds."""

    def __init__(self, folder: Path, points: Sequence[HookPoint], d_model: int) -> None:
        self.points, self.d_model = list(points), d_model
        self.row_bytes = row_bytes(len(points), d_model)
        self.rows_file, self.state_file = folder / "activations.f16", folder / "reading.json"
        self.state = ReadingState.load(self.state_file)

    def next_round(self) -> None:
        """Begin to fill the file anew, with what comes next in the corpus."""
        self._note(round=self.state.round + 1, n_rows=0)

    def fill(
        self, engine: Engine, sequences: Iterator[Tokens], n_rows: int, tell: Callable[[int], None]
    ) -> None:
        """Read a corpus from its beginning, past what was read already, until n_rows are held or it ends.

        `tell` is told how many rows are held; InputError if the corpus is not the one that was read before.
        """
        if (
            reduce(_chained, islice(sequences, self.state.n_sequences), SHA256_OF_NOTHING)
            != self.state.sha256
        ):
            raise InputError(
                "the corpus is not the one this training has read so far; give the same files in that order"
            )
        while group := _group(sequences, n_rows - self.state.n_rows):
            resid = [
                torch.stack([batch.resid[point] for point in self.points], 1).cpu()
                for batch in engine.residuals(group, self.points)
            ]
            self._take(torch.cat([torch.empty(0, len(self.points), self.d_model), *resid]), group, n_rows)
            tell(self.state.n_rows)
        self._note(exhausted=self.state.n_rows < n_rows)

    def _note(self, **changes: Any) -> None:
        self.state = self.state.model_copy(update=changes)
        self.state.save(self.state_file)

    def _take(self, resid: Tensor, group: list[Tokens], n_rows: int) -> None:
        """Append a group's residuals [n, n_points, d_model] to the file, up to n_rows, and note it down."""
        rows = self._scaled(resid)[: n_rows - self.state.n_rows].to(torch.float16).contiguous()
        with writing(self.rows_file), self.rows_file.open("ab") as file:
            file.truncate(self.state.n_rows * self.row_bytes)  # what a killed run wrote beyond
            file.write(rows.view(torch.uint8).numpy().data)
            file.flush()
            os.fsync(file.fileno())
        self._note(
            n_rows=self.state.n_rows + len(rows),
            n_sequences=self.state.n_sequences + len(group),
            sha256=reduce(_chained, group, self.state.sha256),
        )

    def _scaled(self, resid: Tensor) -> Tensor:
        """Residuals in training units, outliers at any hook point left out; the first ones set the units."""
        if not len(resid):
            return resid
        norms = resid.norm(dim=-1)  # [n, n_points]
        medians = torch.tensor(self.state.medians) if self.state.medians else norms.median(dim=0).values
        kept = usual(resid, medians).all(dim=-1)
        if not self.state.medians:
            scales = [math.sqrt(self.d_model) / mean for mean in norms[kept].mean(dim=0).tolist()]
            self.state = self.state.model_copy(
                update={"medians": tuple(medians.tolist()), "scales": tuple(scales)}
            )
        return resid[kept] * torch.tensor(self.state.scales)[:, None]

    def draw(self, rows: Tensor) -> Tensor:
        """Rows by number, [n, n_points, d_model] float32, read from the file and nowhere kept."""
        order = rows.argsort()
        drawn = torch.empty(len(rows), len(self.points), self.d_model, dtype=torch.float16)
        view = memoryview(drawn.view(torch.uint8).numpy()).cast("B")  # type: ignore[arg-type]
        with self.rows_file.open("rb", buffering=0) as file:
            for slot, row in zip(order.tolist(), rows[order].tolist(), strict=True):
                file.seek(row * self.row_bytes)
                file.readinto(view[slot * self.row_bytes : (slot + 1) * self.row_bytes])
        return drawn.float()


def order_of(n: int, seed: tuple[int, int, int]) -> Tensor:
    """A permutation of n that depends on (seed, round, epoch) alone."""
    mixed = (seed[0] * 1_000_003 + seed[1] + 1) * 1_000_003 + seed[2]
    return torch.randperm(n, generator=torch.Generator().manual_seed(mixed % 2**63))


def _group(sequences: Iterator[Tokens], n_rows: int) -> list[Tokens]:
    """The next sequences to run together: no more than give n_rows tokens that count."""
    group: list[Tokens] = []
    while n_rows > 0 and len(group) < SEQUENCES_PER_GROUP and (tokens := next(sequences, None)):
        group.append(tokens)
        n_rows -= sum(tokens.counts)
    return group


def _chained(digest: str, tokens: Tokens) -> str:
    """The hash of all token ids so far and of these."""
    return hashlib.sha256((digest + json.dumps(tokens.ids)).encode()).hexdigest()
