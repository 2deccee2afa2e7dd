"""Vectors fitted while the server runs, on the model it serves.

Knows fits and vector files; knows nothing of HTTP. Nothing is written but into a folder of its own,
which goes when the program ends.
"""

import tempfile
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from ..data.sides import sides_of
from ..errors import InputError
from ..models.hooks import HookPoint
from ..saes.load import BUNDLED, default_layers, find_saes, open_saes
from ..saes.sae import SparseAutoencoder
from ..vectors.from_texts import fit
from ..vectors.methods import NEEDS_SAE, SPREAD
from .completions import Service
from .protocol import FitForm
from .scheduler import BusyError, ClosedError

MAX_FITTED = 100


class Workshop:
    """Fits vectors and adds them to a service's catalogue."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._folder = tempfile.TemporaryDirectory(prefix="neurosteer-")
        self._n_fitted = 0
        self._current: Future[dict[str, Any]] | None = None
        self._is_wanted = True  # what is being fitted

    def begin(self, form: FitForm) -> "Future[dict[str, Any]]":
        """Have a vector fitted on the model's thread, while texts are written; what there is to tell of it.

        Raises:
            InputError: the name is taken, or enough have been fitted.
            BusyError: another fit is under way.
            ClosedError: nothing new is taken on.
        """
        if self._current and not self._current.done():
            raise BusyError("another vector is being fitted; try again in a while")
        if form.name in self.service.catalogue:
            raise InputError(f"name: there is a vector named {form.name!r} already; choose another name")
        if self._n_fitted >= MAX_FITTED:
            raise InputError(f"{MAX_FITTED} vectors were fitted already; start the server anew to go on")
        self._is_wanted = True
        self._current = self.service.scheduler.call(lambda: self._fit(form))
        return self._current

    def abandon(self) -> None:
        """Go on with the fit that is under way no further."""
        self._is_wanted = False

    def close(self) -> None:
        """Remove the folder."""
        self._folder.cleanup()

    def _fit(self, form: FitForm) -> dict[str, Any]:
        engine = self.service.engine
        saes: dict[HookPoint, SparseAutoencoder] = {}
        warnings: list[str] = []
        if form.method in NEEDS_SAE:
            layers = default_layers(BUNDLED, model_id=engine.model_id, spread=form.method in SPREAD)
            found = find_saes(BUNDLED, model_id=engine.model_id, layers=layers)
            saes = open_saes(found, engine, warn=warnings.append)
        points = list(saes) or [HookPoint(engine.shape.n_layers * 2 // 3)]
        labels = (form.name, f"not-{form.name}")
        names = (f"{labels[0]}.jsonl", f"{labels[1]}.jsonl")
        sides = sides_of(form.positive, form.negative, labels, names)
        vector, report = fit(engine, sides, points, method=form.method, saes=saes, advance=self._advance)
        self.service.catalogue.add(form.name, vector, "name")
        self._n_fitted += 1
        return {"seconds": round(report.seconds, 2), "warnings": [*warnings, *report.warnings]}

    def _advance(self, _n: int) -> None:
        if not self._is_wanted:
            raise ClosedError("nobody waits for this vector any more")
        self.service.scheduler.breathe()

    def file(self, name: str) -> Path:
        """A vector of the catalogue, as a file to be sent.

        Raises:
            UnknownVectorError: no such vector.
        """
        vector = self.service.catalogue[name]  # so the name is one that the catalogue took
        path = Path(self._folder.name) / f"{name}.st"
        vector.save(path)
        return path
