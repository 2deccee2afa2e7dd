"""neurosteer inspect: everything a vector file says."""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...data.records import write_record
from ...errors import InputError, NeurosteerError
from ..shared import console, results
from ..shared.acting import what_alpha_does
from ..shared.options import Json

if TYPE_CHECKING:
    from torch import Tensor

    from ...models.engine import Engine
    from ...models.hooks import HookPoint
    from ...saes.sae import SparseAutoencoder
    from ...vectors.kinds import TokenBias
    from ...vectors.metadata import Calibration, Detector, PointMetadata, VectorMetadata
    from ...vectors.vector import SteeringVector

N_TOKENS = 5  # promoted, and suppressed, a latent

Row = dict[str, Any]  # a latent, or the whole push, of which some things may be unknown


def inspect(
    file: Annotated[Path, typer.Argument(metavar="VECTOR", help="Vector file.")],
    latents: Annotated[
        int, typer.Option(help="Latents to show at each hook point, and tokens that are urged most.")
    ] = 20,
    json: Json = False,
) -> None:
    """Show a vector's origin, how it acts, its latents and the tokens they promote and suppress.

    Example: neurosteer inspect polite.st
    """
    from ...vectors.vector import SteeringVector

    if latents < 0:
        raise InputError(f"--latents must be at least 0, got {latents}")
    vector = SteeringVector.load(file)
    engine = _engine(vector)
    tables = {point: _rows(vector, point, latents, engine) for point in vector.pushes}
    if json:
        pushes = {
            str(point): {"push_norm": float(push.norm()), "latents": tables[point]}
            for point, push in vector.pushes.items()
        }
        bias = _most_urged(vector.bias, latents, engine) if vector.bias else None
        write_record({"vector": str(file), **vector.metadata.model_dump(), "pushes": pushes, "bias": bias})
        return
    for name, text in _lines(file, vector):
        typer.echo(f"{name}: {text}")
    headings = _headings(vector.metadata)
    for point, rows in tables.items():
        if rows:
            console.table(str(point), headings, [*map(_cells, rows)], stdout=True, only_filled=True)
    if vector.bias and latents:
        _show_urged(_most_urged(vector.bias, latents, engine))


def _engine(vector: "SteeringVector") -> "Engine | None":
    """The first block and the head of the model, where it is at hand; without, no tokens are shown."""
    from ...models.checkpoints.resolve import is_local
    from ...models.engine import Engine
    from ...models.hooks import HookPoint

    model_id = vector.metadata.model_id
    reason = "is not on this machine"
    if is_local(model_id):
        try:
            engine = Engine.load(model_id, points=[HookPoint(0)], say=console.note)
        except NeurosteerError as error:
            console.note(f"promoted tokens are left out: {error}")
            return None
        if engine.shape.steers_like(vector.metadata.model_shape):
            return engine
        reason = "is not the one the vector was fitted on"
    console.note(f"model {model_id!r} {reason}: promoted tokens are left out")
    return None


def _rows(vector: "SteeringVector", point: "HookPoint", n: int, engine: "Engine | None") -> list[Row]:
    """The whole push, if its tokens are known, and its first n latents."""
    from ...saes.descriptions import names

    latents, about = vector.latents.get(point), vector.metadata.points[str(point)].sae
    page = about and about.neuronpedia_id
    rows: list[Row] = [
        {
            "latent_id": latent,
            "weight": weight,
            "positive_rate": positive,
            "negative_rate": negative,
            "neuronpedia": f"https://www.neuronpedia.org/{page}/{latent}" if page else None,
        }
        for latent, weight, positive, negative in (latents.first(n) if latents else [])
    ]
    if engine is None:
        return rows
    whole: Row = {"latent_id": None, "weight": None}
    _add_tokens([whole], engine, vector.pushes[point][None])
    sae = _sae(vector, point) if rows else None
    if sae and latents:
        ids = latents.ids[:n]
        described = names(sae, vector.metadata.model_id, ids.tolist())
        for row in rows:
            row["name"] = described.get(row["latent_id"])
        _add_tokens(rows, engine, sae.decoder_rows(ids))
    return [whole, *rows]


def _sae(vector: "SteeringVector", point: "HookPoint") -> "SparseAutoencoder | None":
    """The SAE that the latents at a hook point are of, where it is at hand."""
    try:
        return vector.load_sae(point)
    except NeurosteerError as error:
        console.note(f"tokens of single latents are left out: {error}")
        return None


def _add_tokens(rows: list[Row], engine: "Engine", directions: "Tensor") -> None:
    """Add the tokens that each row's direction [d_model] promotes and suppresses."""
    from ...models.logit_lens import promoted_tokens

    for row, (promoted, suppressed) in zip(rows, promoted_tokens(engine, directions, N_TOKENS), strict=True):
        row.update(promoted=promoted, suppressed=suppressed)


def _most_urged(bias: "TokenBias", n: int, engine: "Engine | None") -> dict[str, Any]:
    """The n tokens whose logits are raised most, and as many that are lowered most, strongest first."""
    ids, nats = bias.ids.tolist(), bias.bias.tolist()
    strongest = sorted(zip(ids, nats, strict=True), key=lambda each: -abs(each[1]))

    def rows(sign: int) -> list[Row]:
        some = [each for each in strongest if sign * each[1] > 0][:n]
        texts = [engine.decode([], [token]) if engine else None for token, _ in some]
        return [
            {"token_id": token, "token": text, "bias": number}
            for (token, number), text in zip(some, texts, strict=True)
        ]

    return {"n_tokens": len(ids), "raised": rows(1), "lowered": rows(-1)}


def _show_urged(found: dict[str, Any]) -> None:
    """Tokens by weight, those raised beside those lowered."""

    def cells(row: Row | None) -> list[str]:
        if row is None:
            return ["", ""]
        return [str(row["token_id"]) if row["token"] is None else repr(row["token"]), f"{row['bias']:+.3f}"]

    pairs = zip_longest(found["raised"], found["lowered"])
    rows = [[*cells(raised), *cells(lowered)] for raised, lowered in pairs]
    console.table("logits, at alpha 1", ["raised", ">nats", "lowered", ">nats"], rows, stdout=True)


def _lines(file: Path, vector: "SteeringVector") -> Iterator[tuple[str, str]]:
    """Everything but latents: a name and what there is to say under it."""
    metadata, shape = vector.metadata, vector.metadata.model_shape
    written = f"format {metadata.format_version}, neurosteer {metadata.program_version}, {metadata.created}"
    yield "vector", f"{file} ({written})"
    known = f"{shape.architecture}, d_model {shape.d_model}, {shape.n_layers} blocks"
    yield "model", f"{metadata.model_id} ({known})"
    parameters = [f"{key}={value}" for key, value in metadata.parameters.items()]
    yield "method", " ".join([metadata.method, *parameters])
    yield "kind", f"{metadata.kind}; alpha 1 is {what_alpha_does(vector, 1)}"
    for name, side in (("towards", metadata.positive), ("away", metadata.negative)):
        if side is not None:
            counts = f"{side.n_texts} texts, {side.n_tokens} tokens"
            yield name, f"{side.label}: {counts}, sha256 {side.sha256[:12]}..."
    for parent in metadata.parents:
        hash_ = f" (sha256 {parent['sha256'][:12]}...)" if parent["sha256"] else ""
        yield "parent", f"{parent['weight']:+g} x {parent['name']}{hash_}"
    for point, push in vector.pushes.items():
        yield str(point), _point_line(vector, metadata.points[str(point)], float(push.norm()))
    if vector.bias:
        nats = vector.bias.bias
        yield "logits", f"alpha 1 adds {nats.min():+.3f} to {nats.max():+.3f} to those of {len(nats)} tokens"
    if metadata.detector is not None:
        yield "detector", _detector_line(metadata.detector)
    if metadata.calibration is not None:
        yield "calibration", _calibration_line(metadata.calibration)


def _calibration_line(found: "Calibration") -> str:
    points = {point.alpha: point for point in found.curve}
    parts = [f"calibrated by {found.judge} on {found.n_prompts} prompts"]
    for name, alpha in (("auto", found.alpha_up), ("-auto", found.alpha_down)):
        if alpha is not None:
            point = points[alpha]
            parts.append(
                f"alpha {name} is {alpha:g} (expected rate {point.expected_rate:.0%}, "
                f"{results.cost(found, point)})"
            )
    return "; ".join(parts)


def _detector_line(found: "Detector") -> str:
    return (
        f"z is a text's projection less {found.middle:.4g}, over {found.spread:.4g}; the probability of the "
        f"first side is sigmoid({found.slope:.3g} z {found.intercept:+.3g}); {found.n_texts} texts held out"
    )


def _point_line(vector: "SteeringVector", point: "PointMetadata", length: float) -> str:
    share = f"{length / point.resid_norm:.2%} of the median residual norm {point.resid_norm:.1f}"
    parts = [f"{'alpha 1 adds' if vector.adds else 'its length is'} {length:.2f}, {share}"]
    if point.middle is not None:
        parts.append(f"the middle of the sides is at {point.middle:.2f} along it")
    if point.auroc is not None:
        parts.append(f"held-out AUROC {point.auroc:.2f}")
    if point.shift_norm is not None:
        parts.append(f"the sides differ by {point.shift_norm:.1f}")
    if point.sae is not None:
        parts.append(f"SAE {point.sae.sae_id}, d_sae {point.sae.d_sae}, sha256 {point.sae.sha256[:12]}...")
    return "; ".join(parts)


def _headings(metadata: "VectorMetadata") -> list[str]:
    sides = [side.label if side else "" for side in (metadata.positive, metadata.negative)]
    if sides[0] == sides[1]:
        sides = ["towards", "away"]
    rates = [f">fires {side}" for side in sides]
    return [">latent", ">weight", *rates, "promotes", "suppresses", "described as", "neuronpedia"]


def _cells(row: Row) -> list[str]:
    rates = [row.get(side) for side in ("positive_rate", "negative_rate")]
    return [
        "whole push" if row["latent_id"] is None else str(row["latent_id"]),
        "" if row["weight"] is None else f"{row['weight']:+.3f}",
        *("" if rate is None else f"{rate:.1%}" for rate in rates),
        *(" ".join(map(repr, row.get(tokens, []))) for tokens in ("promoted", "suppressed")),
        row.get("name") or "",
        row.get("neuronpedia") or "",
    ]
