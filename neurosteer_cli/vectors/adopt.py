"""Make another program's control vector one of ours: at which blocks, and how much alpha 1 is.

Knows the engine, control-vector files and the unit of alpha; knows nothing of the terminal.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ..data.records import Passage, as_passage, read_records
from ..errors import InputError, VectorFileError
from ..models.engine import Engine
from ..models.hooks import HookPoint
from ..models.residuals import MedianNorm
from .gguf import ControlVector
from .metadata import FORMAT_VERSION, PointMetadata, VectorMetadata
from .vector import SteeringVector

NEUTRAL_TEXTS = Path(__file__).parents[1] / "data" / "neutral.txt"
CHUNK = 512  # texts that are sorted by length together


def passages(source: str) -> Iterator[Passage]:
    """The texts of a JSONL or plain-text file, in the forms that `fit` reads.

    Raises:
        InputError: the file or a record in it is malformed.
    """
    return map(as_passage, read_records(source))


def median_norms(
    engine: Engine,
    points: Sequence[HookPoint],
    texts: Iterable[Passage],
    name: str,
    advance: Callable[[int], None] = lambda _n: None,
) -> dict[HookPoint, float]:
    """The median residual norm at each hook point over the tokens `fit` would count, raw units.

    Args:
        name: what errors call the texts.
        advance: told how many texts have been read.

    Raises:
        InputError: no text has a second token, and the first of a text does not count.
    """
    norms = {point: MedianNorm() for point in points}
    n_tokens = 0
    waiting = iter(texts)
    while chunk := list(islice(waiting, CHUNK)):
        for batch in engine.residuals([engine.tokenize(passage) for passage in chunk], points):
            n_tokens += len(batch.places)
            for point in points:
                norms[point].add(batch.resid[point])
        advance(len(chunk))
    if not n_tokens:
        raise InputError(f"{name}: every text is a single token; nothing to measure the residual on")
    return {point: norm.median for point, norm in norms.items()}


def adopt(
    control: ControlVector,
    points: Sequence[HookPoint],
    norms: dict[HookPoint, float],
    *,
    engine: Engine,
    origin: str,
    facts: dict[str, Any],
    program_version: str,
    created: str,
) -> tuple[SteeringVector, float]:
    """A file's directions as one vector in our unit; their lengths relative to each other are kept.

    Args:
        points: where to steer: all that the file has, or some of them.
        norms: the median residual norm at each.
        facts: what else is to be recorded as parameters.

    Returns:
        the vector, whose alpha 1 pushes by 1 % of the median residual norm, all points together, and
        the scale of the file's directions that alpha 1 is.

    Raises:
        VectorFileError: all directions are zero.
    """
    directions = control.at_points(origin, str(facts["file"]))
    dose = sum(float(directions[point].norm()) / norms[point] for point in points)
    if dose == 0:
        raise VectorFileError(f"{facts['file']}: its directions are zero: nothing would be steered")
    scale = 0.01 / dose
    metadata = VectorMetadata(
        format_version=FORMAT_VERSION,
        program_version=program_version,
        created=created,
        model_id=engine.model_id,
        model_shape=engine.shape,
        method="import",
        parameters={"gguf_origin": origin, "scale": scale, "model_hint": control.model_hint, **facts},
        positive=None,
        negative=None,
        points={
            str(point): PointMetadata(resid_norm=norms[point], shift_norm=None, auroc=None, sae=None)
            for point in points
        },
        parents=[],
        calibration=None,
    )
    pushes = {point: scale * directions[point] for point in points}
    return SteeringVector(metadata, pushes, {}, torch.empty(0, dtype=torch.int64)), scale
