"""neurosteer combine: the weighted sum of vectors."""

import os
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...errors import InputError
from ..shared import console
from ..shared.acting import what_alpha_does

if TYPE_CHECKING:
    from ...vectors.vector import SteeringVector


def combine_(
    parts: Annotated[
        list[str],
        typer.Argument(metavar="FILE[:WEIGHT]...", help="Vector files; the weight is 1 if not given."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Vector file to write.")],
) -> None:
    """Sum vectors, each times its weight, hook point by hook point.

    Nothing is rescaled: weights multiply pushes and what is added to logits. Vectors at different layers
    join in one file. Vectors that do not act alike, as one that adds and one that ablates, are not summed.

    Example: neurosteer combine polite.st:1 happy.st:0.5 -o warm.st
    """
    from ...files import check_target, file_sha256
    from ...vectors.combine import Part, combine
    from ...vectors.vector import SteeringVector

    check_target(out)
    terms = [
        Part(str(path), SteeringVector.load(path), weight, file_sha256(path))
        for path, weight in [_split(part) for part in parts]
    ]
    result = combine(terms)
    result.save(out)
    for left, right in combinations(terms, 2):
        console.note(f"{left.name} and {right.name}: {_alike(left.vector, right.vector)}")
    console.note(f"wrote {out}: alpha 1 is {what_alpha_does(result, 1)}")


def _alike(left: "SteeringVector", right: "SteeringVector") -> str:
    """How alike two vectors' pushes are, and what they add to logits."""
    from ...vectors.combine import bias_cosine, cosine

    pushes, biases = cosine(left, right), bias_cosine(left, right)
    found = [f"cosine {pushes:+.3f}"] if pushes is not None else []
    if biases is not None:
        found.append(f"cosine of what they add to logits {biases:+.3f}")
    return ", ".join(found) or "no hook point in common"


def _split(part: str) -> tuple[Path, float]:
    """Read `FILE:WEIGHT`, or `FILE`, whose weight is 1."""
    name, colon, weight = part.rpartition(":")
    if not colon or os.path.exists(part):
        return Path(part), 1.0
    form = "write FILE:NUMBER, such as polite.st:0.5"
    if not name:
        raise InputError(f"{part}: no file before the weight; {form}")
    try:
        return Path(name), float(weight)
    except ValueError as error:
        raise InputError(f"{part}: {weight!r} is not a weight; {form}") from error
