"""Residuals of packed sequences kept in a file on disk, to be drawn from in any order.

Knows the engine and files; knows nothing of SAEs or training. Rows are float16 in training units
(residual x scale), so memory holds one group of sequences, whatever the file's size.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from ...errors import InputError, OutputError
from ...files import replace_file
from ...models.engine import Engine, Tokens
from ...models.hooks import HookPoint
from ...models.residuals import usual

SEQUENCES_PER_GROUP = 32  # at most: run, written and noted down together
BYTES_PER_NUMBER = 2


@dataclass(frozen=True, kw_only=True)
class ReadingState:
    """How far the reading of the corpus has come; what a resumed run goes on from."""

    round: int  # which filling of the file
    n_rows: int  # in the file
    n_sequences: int  # read since the beginning of the corpus
    sha256: str  # of their token ids
    exhausted: bool  # the corpus has no more
    medians: tuple[float, ...]  # residual norm, by hook point; () before the first group
    scales: tuple[float, ...]  # residual x scale has a mean norm of sqrt(d_model)

    @classmethod
    def start(cls) -> "ReadingState":
        return cls(
            round=0, n_rows=0, n_sequences=0, sha256=hashlib.sha256().hexdigest(), exhausted=False,
            medians=(), scales=(),
        )  # fmt: skip

    @classmethod
    def load(cls, file: Path) -> "ReadingState":
        """Read what `save` wrote."""
        facts = json.loads(file.read_text())
        return cls(**{**facts, "medians": tuple(facts["medians"]), "scales": tuple(facts["scales"])})

    def save(self, file: Path) -> None:
        with replace_file(file) as temporary:
            temporary.write_text(json.dumps(asdict(self)))


class Harvest:
    """The file of rows [n, n_points, d_model] float16, filled from a corpus in rounds."""

    def __init__(self, folder: Path, points: Sequence[HookPoint], d_model: int) -> None:
        self.points, self.d_model = list(points), d_model
        self.rows_file, self.place_file = folder / "activations.f16", folder / "reading.json"
        self.place = ReadingState.load(self.place_file) if self.place_file.exists() else ReadingState.start()

    @property
    def row_bytes(self) -> int:
        return len(self.points) * self.d_model * BYTES_PER_NUMBER

    def next_round(self) -> None:
        """Begin to fill the file anew, with what comes next in the corpus."""
        self.place = replace(self.place, round=self.place.round + 1, n_rows=0)

    def fill(
        self,
        engine: Engine,
        sequences: Iterator[Tokens],
        n_rows: int,
        advance: Callable[[int], None],
    ) -> None:
        """Read until the file holds n_rows tokens or the corpus ends.

        Args:
            sequences: of the corpus, from its beginning; those read already are passed over.
            advance: told how many rows have come in.

        Raises:
            InputError: the corpus is not the one that was read before.
            OutputError: the file cannot be written.
        """
        self._pass_over(sequences)
        while group := _group(sequences, n_rows - self.place.n_rows):
            resid = torch.cat(
                [torch.stack([batch.resid[point] for point in self.points], 1).cpu()
                 for batch in engine.residuals(group, self.points)]
                or [torch.empty(0, len(self.points), self.d_model)]
            )  # [n, n_points, d_model]  # fmt: skip
            before = self.place.n_rows
            self._take(resid, group, n_rows)
            advance(self.place.n_rows - before)
        if self.place.n_rows < n_rows:
            self.place = replace(self.place, exhausted=True)
        self.place.save(self.place_file)

    def _pass_over(self, sequences: Iterator[Tokens]) -> None:
        digest, passed = hashlib.sha256().hexdigest(), 0
        for tokens in islice(sequences, self.place.n_sequences):
            digest, passed = _chained(digest, [tokens]), passed + 1
        if passed != self.place.n_sequences or digest != self.place.sha256:
            raise InputError(
                "the corpus is not the one this training has read so far; give the same files in that order"
            )

    def _take(self, resid: Tensor, group: list[Tokens], n_rows: int) -> None:
        """Scale a group's residuals, leave outliers out, and append them to the file."""
        if not self.place.medians and len(resid):
            self._measure(resid)
        kept = resid[_usual(resid, self.place.medians)] if len(resid) else resid
        rows = (kept * torch.tensor(self.place.scales)[:, None]) if len(kept) else kept
        rows = rows[: n_rows - self.place.n_rows].to(torch.float16).contiguous()
        try:
            with self.rows_file.open("r+b" if self.rows_file.exists() else "w+b") as file:
                file.truncate(self.place.n_rows * self.row_bytes)  # what a killed run wrote beyond
                file.seek(0, os.SEEK_END)
                file.write(rows.view(torch.uint8).numpy().data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(f"{self.rows_file}: cannot write ({error.strerror})") from error
        self.place = replace(
            self.place,
            n_rows=self.place.n_rows + len(rows),
            n_sequences=self.place.n_sequences + len(group),
            sha256=_chained(self.place.sha256, group),
        )
        self.place.save(self.place_file)

    def _measure(self, resid: Tensor) -> None:
        """Set the unit of each hook point by the first group of sequences."""
        norms = resid.norm(dim=-1)  # [n, n_points]
        medians = tuple(norms.median(dim=0).values.tolist())
        means = norms[_usual(resid, medians)].mean(dim=0).tolist()
        self.place = replace(
            self.place, medians=medians, scales=tuple(math.sqrt(self.d_model) / mean for mean in means)
        )

    def draw(self, rows: Tensor) -> Tensor:
        """Rows by number, [n, n_points, d_model] float32, read from the file and nowhere kept."""
        order = rows.argsort()
        found = torch.empty(len(rows), len(self.points), self.d_model, dtype=torch.float16)
        view = memoryview(found.view(torch.uint8).numpy()).cast("B")  # type: ignore[arg-type]
        with self.rows_file.open("rb", buffering=0) as file:
            for slot, row in zip(order.tolist(), rows[order].tolist(), strict=True):
                file.seek(row * self.row_bytes)
                file.readinto(view[slot * self.row_bytes : (slot + 1) * self.row_bytes])
        return found.float()


def _usual(resid: Tensor, medians: Sequence[float]) -> Tensor:
    """Which tokens [n] have no outlying norm at any hook point."""
    return usual(resid, torch.tensor(medians)).all(dim=-1)


def _group(sequences: Iterator[Tokens], n_rows: int) -> list[Tokens]:
    """The next sequences to run together: no more than give n_rows tokens that count."""
    group: list[Tokens] = []
    while n_rows > 0 and len(group) < SEQUENCES_PER_GROUP and (tokens := next(sequences, None)):
        group.append(tokens)
        n_rows -= sum(tokens.counts)
    return group


def _chained(digest: str, group: Sequence[Tokens]) -> str:
    """The hash of all token ids so far and of a group's, however they are grouped."""
    for tokens in group:
        digest = hashlib.sha256((digest + json.dumps(tokens.ids)).encode()).hexdigest()
    return digest
