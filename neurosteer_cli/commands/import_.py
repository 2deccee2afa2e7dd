"""neurosteer import: a control vector (GGUF) of another program as a vector file."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from .shared import console, options
from .shared.command import completing
from .shared.load import load_engine_with
from .shared.options import ModelOptions, model_options
from .shared.parse import parse_layers

if TYPE_CHECKING:
    from ..models.hooks import HookPoint
    from ..vectors.exchange.gguf import ControlVector
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
    layers: options.Layers = None,
    texts: Annotated[
        str | None,
        typer.Option(
            help="Texts to measure the residual norm on, the unit of alpha (as for `fit`, or -). "
            "[default: 32 neutral ones]"
        ),
    ] = None,
    text_key: options.TextKey = None,
    kind: Annotated[
        str,
        typer.Option(
            help="How its directions are to act: add, or ablate.", autocompletion=completing("add", "ablate")
        ),
    ] = "add",
    *,
    where: ModelOptions,
) -> None:
    """Make a control vector of llama.cpp or repeng a vector file, its strength in the unit of alpha.

    Example: neurosteer import happy.gguf --gguf-origin repeng --model mistralai/Mistral-7B-v0.1 -o happy.st
    """
    from ..files import check_target
    from ..models.load import model_shape
    from ..vectors.exchange.gguf import ORIGINS, read_control_vector

    if gguf_origin is not None and gguf_origin not in ORIGINS:
        raise InputError(f"--gguf-origin {gguf_origin}: one of {', '.join(ORIGINS)}")
    if kind not in ("add", "ablate"):
        raise InputError(f"--kind must be add or ablate, got {kind!r:.60}")
    check_target(out)
    control = read_control_vector(file)
    control.check_acts(kind, console.warn)  # type: ignore[arg-type]  # checked
    if exported := control.exported:
        own = f"{file} was written by `neurosteer export`"
        if gguf_origin not in (None, "llama.cpp"):
            raise InputError(f"{own}: leave out --gguf-origin {gguf_origin}")
        if layers or texts is not None:
            raise InputError(f"{own}: leave out --layers and --texts")
        vector, alpha = exported
        if where.model is not None:
            vector.check_fits(model_shape(where.model, console.note), where.model, str(file), console.warn)
        summary = f"the vector that {file} was exported from at alpha {alpha:g}"
    elif gguf_origin is not None:
        vector, summary = _converted(control, gguf_origin, layers, texts, text_key, where)
    else:
        raise InputError(
            f"{file} does not say at which blocks its directions act: "
            f"give --gguf-origin, one of {', '.join(ORIGINS)}"
        )
    vector.acting(kind).save(out)  # type: ignore[arg-type]  # checked
    console.note(f"wrote {out}: {summary}")


def _converted(
    control: "ControlVector",
    origin: str,
    layers: Sequence[str] | None,
    texts: str | None,
    text_key: str | None,
    where: ModelOptions,
) -> "tuple[SteeringVector, str]":
    """Measure the residual norm and put the file's directions into our unit."""
    from ..data.prompts import neutral_texts
    from ..data.sources import read_passages
    from ..models.checkpoints.resolve import resolve
    from ..models.load import read_config
    from ..models.residuals import median_norms
    from ..vectors.exchange.foreign import from_control_vector

    found = control.at_points(origin)
    points = _chosen(list(found), layers, control.path)
    if texts is None:
        passages = neutral_texts()
    else:
        passages = list(read_passages(texts, text_key=text_key, say=console.note))
    config = read_config(resolve(where.name, console.note))
    control.check_fits(points, config, where.name, console.warn)
    engine, _ = load_engine_with({}, where, points)
    with console.progress("measuring", len(passages)) as advance:
        norms = median_norms(engine, points, passages, texts or "the neutral texts", advance, console.warn)
    vector = from_control_vector(control, origin, norms, engine, texts=texts or "neutral")
    console.note(
        f"{len(points)} of {len(found)} directions, {points[0]} to {points[-1]}; the median residual is "
        f"{norms[points[0]]:.1f} to {norms[points[-1]]:.1f} long"
    )
    if origin == "repeng" and layers is None:
        console.warn(
            f"{control.path} has directions for {len(points)} blocks, and repeng's ControlModel steers those "
            "it is given: name them with --layers to get the same text"
        )
    scale = vector.metadata.parameters["scale"]
    return vector, f"alpha 1 is a scale of {scale:.4g} in {origin}, scale 1 an alpha of {1 / scale:.4g}"


def _chosen(points: "Sequence[HookPoint]", layers: Sequence[str] | None, file: Path) -> "Sequence[HookPoint]":
    """The hook points at the blocks that --layers names."""
    if not layers:
        return points
    wanted = set(parse_layers(layers))
    if absent := sorted(wanted - {point.layer for point in points}):
        raise InputError(
            f"--layers {','.join(layers)}: {file} has no direction for block {absent[0]}, "
            f"it has blocks {points[0].layer} to {points[-1].layer}"
        )
    return [point for point in points if point.layer in wanted]
