"""neurosteer import: a control vector (GGUF) of another program as a vector file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import IncompatibleVectorError, InputError
from .shared import console
from .shared.options import Device, Dtype, Model

if TYPE_CHECKING:
    from ..models.hooks import HookPoint
    from ..models.shape import ModelShape
    from ..vectors.gguf import ControlVector


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
    model: Model = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
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
    if control.own:
        _restore(control, file, out, gguf_origin, layers, texts, model)
        return
    if gguf_origin is None:
        raise InputError(
            f"{file} does not say at which blocks its directions act: "
            f"give --gguf-origin, one of {', '.join(ORIGINS)}"
        )
    _adopt(control, file, out, gguf_origin, layers, texts, (model, dtype, device))


def _restore(
    control: "ControlVector",
    file: Path,
    out: Path,
    origin: str | None,
    layers: str | None,
    texts: str | None,
    model: str | None,
) -> None:
    """Write the vector a file was exported from; it brings its facts along, its norms included."""
    from ..models.load import model_shape
    from ..vectors.gguf import restore

    if origin not in (None, "llama.cpp"):
        raise InputError(f"{file} was written by `neurosteer export`: leave out --gguf-origin {origin}")
    if layers is not None or texts is not None:
        raise InputError(f"{file} was written by `neurosteer export`: leave out --layers and --texts")
    vector = restore(control, file)
    if model is not None:
        vector.check_fits(model_shape(model, console.note), model, str(file))
    vector.save(out)
    assert control.own is not None
    console.note(f"wrote {out}: the vector that {file} was exported from at alpha {control.own.alpha:g}")


def _adopt(
    control: "ControlVector",
    file: Path,
    out: Path,
    origin: str,
    layers: str | None,
    texts: str | None,
    loading: tuple[str | None, str, str],
) -> None:
    """Measure the residual norm and write the file's directions in our unit."""
    from ..data.prompts import neutral_texts
    from ..data.records import read_passages
    from ..files import file_sha256
    from ..models.engine import Engine
    from ..models.load import read_config
    from ..models.residuals import median_norms
    from ..models.resolve import DEFAULT_MODEL, resolve
    from ..models.shape import shape_of
    from ..vectors.adopt import adopt

    model, dtype, device = loading
    name = model or DEFAULT_MODEL
    found = control.at_points(origin, str(file))
    points = _chosen(list(found), layers, file)
    known = list(read_passages(texts)) if texts is not None else neutral_texts()
    config = read_config(resolve(name, console.note))
    _check_fits(control, points, shape_of(config), name, file)
    control.check_hint(config.get_text_config().model_type, name, str(file))
    engine = Engine.load(name, points=points, head=False, dtype=dtype, device=device, say=console.note)
    with console.progress("measuring", len(known)) as advance:
        norms = median_norms(engine, points, known, texts or "the neutral texts", advance)
    provenance: dict[str, Any] = {"file": file.name, "sha256": file_sha256(file), "texts": texts or "neutral"}
    vector, scale = adopt(
        control,
        points,
        norms,
        engine=engine,
        origin=origin,
        provenance=provenance,
    )
    vector.save(out)
    console.note(
        f"{len(points)} of {len(found)} directions, {points[0]} to {points[-1]}; the median residual is "
        f"{norms[points[0]]:.1f} to {norms[points[-1]]:.1f} long"
    )
    console.note(
        f"wrote {out}: alpha 1 is a scale of {scale:.4g} in {origin}, scale 1 an alpha of {1 / scale:.4g}"
    )


def _chosen(points: "list[HookPoint]", layers: str | None, file: Path) -> "list[HookPoint]":
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


def _check_fits(
    control: "ControlVector", points: "list[HookPoint]", shape: "ModelShape", model_id: str, file: Path
) -> None:
    if control.d_model != shape.d_model:
        raise IncompatibleVectorError(
            f"{file} has d_model={control.d_model}, model {model_id!r} has d_model={shape.d_model}: "
            "pass --model with the model it was made for"
        )
    if points[-1].layer >= shape.n_layers:
        raise IncompatibleVectorError(
            f"{file} acts on block {points[-1].layer}, model {model_id!r} has {shape.n_layers} blocks, "
            f"0 to {shape.n_layers - 1}: pass --model with the model it was made for"
        )
