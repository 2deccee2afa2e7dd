"""neurosteer combine: the weighted sum of vectors."""

from itertools import combinations
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from .shared import console


def combine(
    parts: Annotated[
        list[str],
        typer.Argument(metavar="FILE[:WEIGHT]...", help="Vector files; the weight is 1 if not given."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Vector file to write.")],
) -> None:
    """Sum vectors, each times its weight, hook point by hook point.

    Nothing is rescaled: weights multiply pushes. Vectors at different layers join in one file.

    Example: neurosteer combine polite.st:1 happy.st:0.5 -o warm.st
    """
    from ..files import check_target, file_sha256
    from ..vectors.combine import Part, cosine
    from ..vectors.combine import combine as sum_vectors
    from ..vectors.vector import SteeringVector

    check_target(out)
    named = [_split(part) for part in parts]
    loaded = [(path, SteeringVector.load(path), weight) for path, weight in named]
    result = sum_vectors(
        [Part(str(path), vector, weight, file_sha256(path)) for path, vector, weight in loaded]
    )
    result.save(out)
    for (left, one, _), (right, other, _) in combinations(loaded, 2):
        similarity = cosine(one, other)
        shown = "no hook point in common" if similarity is None else f"cosine {similarity:+.3f}"
        console.note(f"{left} and {right}: {shown}")
    console.note(f"wrote {out}: alpha 1 is a dose of {result.dose(1):.2%}")


def _split(part: str) -> tuple[Path, float]:
    """Read `FILE:WEIGHT`, or `FILE`, whose weight is 1."""
    name, colon, weight = part.rpartition(":")
    if not colon or Path(part).exists():
        return Path(part), 1.0
    if not name:
        raise InputError(f"{part}: no file before the weight; write FILE:NUMBER, such as polite.st:0.5")
    try:
        return Path(name), float(weight)
    except ValueError as error:
        raise InputError(
            f"{part}: {weight!r} is not a weight; write FILE:NUMBER, such as polite.st:0.5"
        ) from error
