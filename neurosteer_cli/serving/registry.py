"""Vectors by name: what a request may steer with. A name is looked up, and never becomes a path.

Knows vector files and alphas; knows nothing of requests.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ..errors import InputError
from ..models.shape import ModelShape
from ..vectors.vector import DEFAULT_ALPHA, MAX_REQUEST_ALPHA, SteeringVector

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class UnknownVectorError(InputError):
    """No vector has that name."""


class Catalogue:
    """The vectors of one model, by name."""

    def __init__(self, shape: ModelShape, model_id: str) -> None:
        self.shape, self.model_id = shape, model_id
        self._vectors: dict[str, SteeringVector] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._vectors))

    def __len__(self) -> int:
        return len(self._vectors)

    def __getitem__(self, name: str) -> SteeringVector:
        if name not in self._vectors:
            known = ", ".join(sorted(self._vectors)[:20]) or "there is none"
            raise UnknownVectorError(f"no vector is named {name[:64]!r}; known: {known}")
        return self._vectors[name]

    def add(self, name: str, vector: SteeringVector, where: str) -> None:
        """Take a vector in.

        Raises:
            InputError: a name that cannot be one, or is taken.
            IncompatibleVectorError: the vector is another model's.
        """
        if not NAME.fullmatch(name):
            raise InputError(
                f"{where}: {name[:80]!r} cannot be a vector's name; "
                "use 1 to 64 letters, digits, '_', '-' and '.'"
            )
        if name in self._vectors:
            raise InputError(f"{where}: there is a vector named {name!r} already; choose another name")
        vector.check_fits(self.shape, self.model_id, where)
        self._vectors[name] = vector

    def alphas(self, model: str, steering: Mapping[str, float]) -> dict[str, float]:
        """What a model's name such as `smollm2+polite:8` and a request's steering come to.

        Raises:
            InputError: another model, a vector named twice, or an alpha that is none.
            UnknownVectorError: no such vector.
        """
        found: dict[str, float] = {}
        for name, alpha in [*self._in_name(model), *steering.items()]:
            self[name]
            if name in found:
                raise InputError(f"vector {name!r} is named twice; give it one alpha")
            if not math.isfinite(alpha) or abs(alpha) > MAX_REQUEST_ALPHA:
                raise InputError(
                    f"alpha of {name!r} must be a number from -{MAX_REQUEST_ALPHA:g} "
                    f"to {MAX_REQUEST_ALPHA:g}, got {alpha:g}"
                )
            found[name] = alpha
        return found

    def _in_name(self, model: str) -> Iterator[tuple[str, float]]:
        if not (model == self.model_id or model.startswith(f"{self.model_id}+")):
            raise UnknownVectorError(
                f"model {model[:80]!r} is not served; "
                f"ask for {self.model_id!r} or {self.model_id}+VECTOR:ALPHA"
            )
        for part in model[len(self.model_id) + 1 :].split("+") if model != self.model_id else ():
            name, colon, alpha = part.partition(":")
            if not colon:
                raise InputError(f"model {model[:80]!r}: give the alpha of {name[:64]!r}, as {name[:64]}:8")
            try:
                yield name, float(alpha)
            except ValueError as error:
                raise InputError(f"model {model[:80]!r}: alpha {alpha[:20]!r} is not a number") from error

    def suggested_alpha(self, name: str) -> float:
        """The alpha that calibration found, or the usual one."""
        calibration = self[name].metadata.calibration
        return (calibration and calibration.alpha_up) or DEFAULT_ALPHA


def vector_files(paths: Sequence[Path]) -> list[Path]:
    """The files named, and the `*.st` files of the folders named.

    Raises:
        InputError: a folder without vectors.
    """
    found: list[Path] = []
    for path in paths:
        files = sorted(path.glob("*.st")) if path.is_dir() else [path]
        if not files:
            raise InputError(f"{path}: no .st file in this folder; `neurosteer fit` writes one")
        found += files
    return found


def load_catalogue(
    files: Iterable[tuple[Path, SteeringVector]], shape: ModelShape, model_id: str
) -> Catalogue:
    """Vectors by the names of their files, `.st` left out.

    Raises:
        InputError: a name that cannot be one, or stands twice.
        IncompatibleVectorError: a vector of another model.
    """
    catalogue = Catalogue(shape, model_id)
    for file, vector in files:
        catalogue.add(file.stem, vector, str(file))
    return catalogue
