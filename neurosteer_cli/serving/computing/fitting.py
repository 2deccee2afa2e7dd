"""Vectors fitted while the server runs, on the model it serves, and the files of texts for them.

Knows fits, the scheduler and vector files; knows nothing of HTTP. Nothing stays on disk.
"""

import base64
import binascii
from concurrent.futures import Future
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ...data.json_text import Record
from ...data.records import as_passage
from ...data.sides import sides_of
from ...data.sources import read_records
from ...errors import InputError
from ...models.engine import Engine
from ...vectors.fitting.from_texts import fit
from ..protocol.vectors import FitRequest, TextsRequest
from ..registry import VectorRegistry
from ..scheduler import BusyError, Scheduler
from .sharing import SharedEngine, Turns

MAX_FITTED = 100


class Fitting:
    """Fits vectors, one at a time, and adds them to the registry."""

    def __init__(self, engine: Engine, registry: VectorRegistry, scheduler: Scheduler) -> None:
        self.engine, self.registry, self.scheduler = engine, registry, scheduler
        self._turns = Turns(self.scheduler)  # of what is being fitted
        self._n_fitted = 0
        self._current: Future[dict[str, Any]] | None = None
        self._progress: dict[str, Any] = {}

    @property
    def progress(self) -> dict[str, Any]:
        """What is being fitted, and how many of its texts have been read; nothing while there is none."""
        return self._progress if self._current and not self._current.done() else {}

    def begin(self, request: FitRequest) -> "Future[dict[str, Any]]":
        """Fit a vector on the model's thread, while texts are written; what there is to tell of it."""
        if self._current and not self._current.done():
            raise BusyError("another vector is being fitted; try again in a while")
        self.registry.check_free(request.name, "name")
        if self._n_fitted >= MAX_FITTED:
            raise InputError(f"{MAX_FITTED} vectors were fitted already; start the server anew to go on")
        self._turns, self._progress = Turns(self.scheduler), {"name": request.name, "n_read": 0, "n_texts": 0}
        self._current = self.scheduler.call(lambda: self._fit(request))
        return self._current

    def abandon(self) -> None:
        """Go on with the fit that is under way no further."""
        self._turns.abandon()

    def file(self, name: str) -> bytes:
        """The file of a vector in the registry."""
        with TemporaryDirectory(prefix="neurosteer-") as folder:
            path = Path(folder) / "vector.st"
            self.registry[name].save(path)
            return path.read_bytes()

    def _fit(self, request: FitRequest) -> dict[str, Any]:
        positive, negative = request.name, f"not-{request.name}"
        files = f"{positive}.jsonl", f"{negative}.jsonl"  # as errors call the texts
        sides = sides_of(request.positive, request.negative, (positive, negative), files)
        n_texts = sum(side.n_texts for side in sides)
        self._progress = {"name": request.name, "n_read": 0, "n_texts": n_texts}
        engine = SharedEngine.of(self.engine, self._turns)
        vector, report = fit(engine, sides, method=request.method, advance=self._advance)
        self.registry.add(request.name, vector, "name")
        self._n_fitted += 1
        return {"seconds": round(report.seconds, 2), "warnings": report.warnings}

    def _advance(self, n: int) -> None:
        self._progress["n_read"] += n


def texts_of(request: TextsRequest) -> list[Record]:
    """The records of a file of texts, whatever it keeps them in."""
    try:
        content = base64.b64decode(request.content, validate=True)
    except binascii.Error as error:
        raise InputError(f"content: not base64 ({error})") from error
    with TemporaryDirectory(prefix="neurosteer-") as folder:
        path = Path(folder) / "texts"
        path.write_bytes(content)
        located = list(read_records(str(path), name=request.name))
    for each in located:
        as_passage(each)  # a record without a text is refused here, by its line
    return [each.record for each in located]
