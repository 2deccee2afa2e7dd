"""neurosteer import: a control vector (GGUF) of another program as a vector file."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from .shared import console
from .shared.options import ModelOptions, model_options

if TYPE_CHECKING:
    from ..models.hooks import HookPoint
    from ..vectors.gguf import ControlVector
    from ..vectors.vector import SteeringVector


@model_options
def import_vector(
    file: Annotated[Path, typer.Argument(metavar="FILE.gguf", help="Control vector.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Vector file to write.")],
    gguf_origin: Annotated[
        str | None,
        typer.Option(
            help="Who made the file: llama.cpp or repeng (direction.k belongs to the output of block k), "
            "or cvector-generator (to that of block k-1, which llama.cpp's generator read). "
            "A file of `neurosteer export` knows."
        ),
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help="Blocks to take, from 0: 20, 14,17,20 or 10-24. [default: all]")
    ] = None,
    texts: Annotated[
        str | None,
        typer.Option(
            help="Texts to measure the residual norm on, the unit of alpha (JSONL, .txt, or -). "
            "[default: 32 neutral ones]"
        ),
    ] = None,
    *,
    where: ModelOptions,
) -> None:
    """Make a control vector of llama.cpp or repeng a vector file, its strength in the unit of alpha.

    Example: neurosteer import happy.gguf --gguf-origin repeng --model mistralai/Mistral-7B-v0.1 -o happy.st
    """
    from ..files import check_target
    from ..vectors.gguf import ORIGINS, read_control_vector

    if gguf_origin is not None and gguf_origin not in ORIGINS:
        raise InputError(f"--gguf-origin {gguf_origin}: one of {', '.join(ORIGINS)}")
    check_target(out)
    control = read_control_vector(file)
    if control.exported is not None:
        if gguf_origin not in (None, "llama.cpp"):
            raise InputError(
                f"{file} was written by `neurosteer export`: leave out --gguf-origin {gguf_origin}"
            )
        if layers is not None or texts is not None:
            raise InputError(f"{file} was written by `neurosteer export`: leave out --layers and --texts")
        vector, told = _restored(control, where.model)
    elif gguf_origin is not None:
        vector, told = _converted(control, gguf_origin, layers, texts, where)
    else:
        raise InputError(
            f"{file} does not say at which blocks its directions act: "
            f"give --gguf-origin, one of {', '.join(ORIGINS)}"
        )
    vector.save(out)
    console.note(f"wrote {out}: {told}")


def _restored(control: "ControlVector", model: str | None) -> "tuple[SteeringVector, str]":
    """The vector a file was exported from; it brings its metadata along, its norms included."""
    from ..models.load import model_shape
    from ..vectors.gguf import restore

    vector, alpha = restore(control)
    if model is not None:
        vector.check_fits(model_shape(model, console.note), model, str(control.path))
    return vector, f"the vector that {control.path} was exported from at alpha {alpha:g}"


def _converted(
    control: "ControlVector", origin: str, layers: str | None, texts: str | None, where: ModelOptions
) -> "tuple[SteeringVector, str]":
    """Measure the residual norm and put the file's directions into our unit."""
    from ..data.prompts import neutral_texts
    from ..data.records import read_passages
    from ..models.engine import Engine
    from ..models.load import read_config
    from ..models.residuals import median_norms
    from ..models.resolve import resolve
    from ..vectors.gguf import from_control_vector

    model = where.name
    found = control.at_points(origin)
    points = _chosen(list(found), layers, control.path)
    passages = list(read_passages(texts)) if texts is not None else neutral_texts()
    control.check_fits(points, read_config(resolve(model, console.note)), model)
    engine = Engine.load(
        model, points=points, head=False, dtype=where.dtype, device=where.device, say=console.note
    )
    with console.progress("measuring", len(passages)) as advance:
        norms = median_norms(engine, points, passages, texts or "the neutral texts", advance)
    vector = from_control_vector(control, origin, norms, engine, texts=texts or "neutral")
    console.note(
        f"{len(points)} of {len(found)} directions, {points[0]} to {points[-1]}; the median residual is "
        f"{norms[points[0]]:.1f} to {norms[points[-1]]:.1f} long"
    )
    scale = vector.metadata.parameters["scale"]
    return vector, f"alpha 1 is a scale of {scale:.4g} in {origin}, scale 1 an alpha of {1 / scale:.4g}"


def _chosen(points: "Sequence[HookPoint]", layers: str | None, file: Path) -> "Sequence[HookPoint]":
    """The hook points at the blocks that --layers names."""
    if layers is None:
        return points
    wanted = _numbers(layers)
    if absent := sorted(wanted - {point.layer for point in points}):
        raise InputError(
            f"--layers {layers}: {file} has no direction for block {absent[0]}, "
            f"it has blocks {points[0].layer} to {points[-1].layer}"
        )
    return [point for point in points if point.layer in wanted]


def _numbers(layers: str) -> set[int]:
    """Read `20`, `14,17,20` or `10-24`."""
    numbers: set[int] = set()
    try:
        for part in layers.split(","):
            first, dash, last = part.partition("-")
            stretch = range(int(first), int(last if dash else first) + 1)
            numbers |= set(stretch[:10_000])
            if not stretch or len(stretch) > 10_000:
                raise ValueError
    except ValueError as error:
        raise InputError(f"--layers {layers}: not block numbers such as 20, 14,17,20 or 10-24") from error
    return numbers
