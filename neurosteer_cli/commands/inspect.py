"""neurosteer inspect: everything a vector file says."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError, NeurosteerError
from .shared import console
from .shared.options import Json

if TYPE_CHECKING:
    from ..models.hooks import HookPoint
    from ..vectors.metadata import Calibration
    from ..vectors.vector import SteeringVector

N_TOKENS = 5  # promoted, and suppressed, a latent


def inspect(
    file: Annotated[Path, typer.Argument(metavar="VECTOR", help="Vector file.")],
    latents: Annotated[int, typer.Option(help="Latents to show at each hook point.")] = 20,
    json: Json = False,
) -> None:
    """Show a vector's origin, its latents and the tokens they promote and suppress.

    Example: neurosteer inspect polite.st
    """
    from ..vectors.vector import SteeringVector

    if latents < 0:
        raise InputError(f"--latents must be at least 0, got {latents}")
    vector = SteeringVector.load(file)
    tables = {point: _latent_rows(vector, point, latents) for point in vector.pushes}
    _add_tokens(vector, tables)
    if json:
        from ..data.records import write_record

        points = {
            str(point): {"push_norm": float(push.norm()), "latents": tables[point]}
            for point, push in vector.pushes.items()
        }
        write_record({"vector": str(file), **vector.metadata.model_dump(), "pushes": points})
    else:
        _show(file, vector, tables)


def _latent_rows(vector: "SteeringVector", point: "HookPoint", n: int) -> list[dict[str, Any]]:
    """The first n latents; none for a method without an SAE."""
    if point not in vector.latents:
        return []
    latents = vector.latents[point]
    sae = vector.metadata.points[str(point)].sae
    page = sae.neuronpedia_id if sae else None
    return [
        {
            "latent_id": latent,
            "weight": weight,
            "positive_rate": positive,
            "negative_rate": negative,
            "neuronpedia": f"https://www.neuronpedia.org/{page}/{latent}" if page else None,
        }
        for latent, weight, positive, negative in zip(
            latents.ids.tolist()[:n],
            latents.weights.tolist(),
            *latents.firing_rates.tolist(),
            strict=False,
        )
    ]


def _add_tokens(vector: "SteeringVector", tables: "dict[HookPoint, list[dict[str, Any]]]") -> None:
    """Add the tokens each push and latent promotes and suppresses, where the model is at hand."""
    from ..models.resolve import is_local

    model_id = vector.metadata.model_id
    if not is_local(model_id):
        console.note(f"model {model_id!r} is not on this machine: promoted tokens are left out")
        return
    import torch

    from ..models.engine import Engine
    from ..models.logit_lens import promoted_tokens
    from ..saes.descriptions import find, names
    from ..saes.load import load_sae

    try:
        engine = Engine.load(model_id, points=[], say=console.note)
    except NeurosteerError as error:
        console.note(f"promoted tokens are left out: {error}")
        return
    if engine.shape != vector.metadata.model_shape:
        console.note(
            f"model {model_id!r} is not the one the vector was fitted on: promoted tokens are left out"
        )
        return
    for point, push in vector.pushes.items():
        rows = tables[point]
        directions = [push]
        sae = vector.metadata.points[str(point)].sae
        if rows and sae:
            try:
                loaded = load_sae(sae.sae_id, model_id=model_id, layer=point.layer, sha256=sae.sha256)
            except NeurosteerError as error:
                console.note(f"tokens of single latents are left out: {error}")
            else:
                described = names(find(loaded, model_id), [row["latent_id"] for row in rows])
                for row in rows:
                    row["name"] = described.get(row["latent_id"])
                directions += list(loaded.decoder_rows(torch.tensor([row["latent_id"] for row in rows])))
        found = promoted_tokens(engine, torch.stack(directions), N_TOKENS)
        whole = {"latent_id": None, "weight": None}
        for row, (promoted, suppressed) in zip([whole, *rows], found, strict=False):
            row.update(promoted=promoted, suppressed=suppressed)
        tables[point] = [whole, *rows]


def _show(file: Path, vector: "SteeringVector", tables: "dict[HookPoint, list[dict[str, Any]]]") -> None:
    facts = vector.metadata
    shape = facts.model_shape
    origin = f"format {facts.format_version}, neurosteer {facts.program_version}, {facts.created}"
    lines = [
        ("vector", f"{file} ({origin})"),
        (
            "model",
            f"{facts.model_id} ({shape.architecture}, d_model {shape.d_model}, {shape.n_layers} blocks)",
        ),
        ("method", " ".join([facts.method, *(f"{key}={value}" for key, value in facts.parameters.items())])),
    ]
    for name, side in (("towards", facts.positive), ("away", facts.negative)):
        if side is not None:
            counts = f"{side.n_texts} texts, {side.n_tokens} tokens"
            lines.append((name, f"{side.label}: {counts}, sha256 {side.sha256[:12]}..."))
    for parent in facts.parents:
        lines.append(
            ("parent", f"{parent['weight']:+g} x {parent['name']} (sha256 {parent['sha256'][:12]}...)")
        )
    lines += [(name, _point_line(vector, name)) for name in facts.points]
    if facts.calibration is not None:
        lines.append(("calibration", _calibration_line(facts.calibration)))
    for name, text in lines:
        typer.echo(f"{name}: {text}")
    for point, rows in tables.items():
        if rows:
            console.table(str(point), *_table(vector, rows), stdout=True)


def _calibration_line(found: "Calibration") -> str:
    points = {point.alpha: point for point in found.curve}
    parts = [f"calibrated by {found.judge} on {found.n_prompts} prompts"]
    for name, alpha in (("auto", found.alpha_up), ("-auto", found.alpha_down)):
        if alpha is not None:
            point = points[alpha]
            parts.append(
                f"alpha {name} is {alpha:g} (expected rate {point.expected_rate:.0%}, "
                f"perplexity ratio {point.perplexity_ratio:.2f})"
            )
    return "; ".join(parts)


def _point_line(vector: "SteeringVector", name: str) -> str:
    point = vector.metadata.points[name]
    push = next(push for hook, push in vector.pushes.items() if str(hook) == name)
    parts = [
        f"alpha 1 adds {float(push.norm()):.2f}, {float(push.norm()) / point.resid_norm:.2%} of the median "
        f"residual norm {point.resid_norm:.1f}"
    ]
    if point.auroc is not None:
        parts.append(f"held-out AUROC {point.auroc:.2f}")
    if point.shift_norm is not None:
        parts.append(f"the sides differ by {point.shift_norm:.1f}")
    if point.sae is not None:
        parts.append(f"SAE {point.sae.sae_id}, d_sae {point.sae.d_sae}, sha256 {point.sae.sha256[:12]}...")
    return "; ".join(parts)


def _table(
    vector: "SteeringVector", rows: list[dict[str, Any]]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headings and cells; columns that no row fills are left out."""
    facts = vector.metadata
    sides = [side.label if side else "" for side in (facts.positive, facts.negative)]
    if sides[0] == sides[1]:
        sides = ["towards", "away"]
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        ">latent": lambda row: "whole push" if row["latent_id"] is None else str(row["latent_id"]),
        ">weight": lambda row: "" if row["weight"] is None else f"{row['weight']:+.3f}",
        f">fires {sides[0]}": lambda row: _rate(row, "positive_rate"),
        f">fires {sides[1]}": lambda row: _rate(row, "negative_rate"),
        "promotes": lambda row: _pieces(row.get("promoted")),
        "suppresses": lambda row: _pieces(row.get("suppressed")),
        "described as": lambda row: row.get("name") or "",
        "neuronpedia": lambda row: row.get("neuronpedia") or "",
    }
    filled = {name: cell for name, cell in columns.items() if any(cell(row) for row in rows)}
    return tuple(filled), [tuple(cell(row) for cell in filled.values()) for row in rows]


def _rate(row: dict[str, Any], key: str) -> str:
    return f"{row[key]:.1%}" if key in row else ""


def _pieces(tokens: list[str] | None) -> str:
    return " ".join(repr(token) for token in tokens or [])
