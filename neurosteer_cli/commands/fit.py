"""neurosteer fit: two sides of labelled texts to one vector file."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from .shared import console
from .shared.options import Device, Dtype, Json, Model, parse_layers

if TYPE_CHECKING:
    from ..models.hooks import HookPoint
    from ..saes.sae import SparseAutoencoder
    from ..vectors.from_texts import FitReport
    from ..vectors.vector import SteeringVector


def fit(
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TOWARDS [AWAY]",
            help="Texts to steer towards and away from (JSONL, .txt, or - for stdin); "
            "or one file whose records have a label.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Vector file to write [default: TOWARDS.st].")
    ] = None,
    target: Annotated[str | None, typer.Option(help="With one file: the label to steer towards.")] = None,
    source: Annotated[str | None, typer.Option(help="With one file: the label to steer away from.")] = None,
    method: Annotated[
        str, typer.Option(help="neurosteer, paper (both through an SAE), diffmean or pca.")
    ] = "neurosteer",
    sae: Annotated[
        str | None,
        typer.Option(help="bundled, a sae-lens folder, or RELEASE/SAE_ID of sae-lens's registry."),
    ] = None,
    top_k: Annotated[int, typer.Option(help="SAE latents to keep at a block.")] = 100,
    latent: Annotated[
        list[str] | None,
        typer.Option(help="In place of texts: a latent and its weight, 960:-1, or BLOCK/960:-1; repeatable."),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            "--layers",
            "--layer",
            help="Blocks to steer at, from 0: 20 or 14,17,20 "
            "[default: the last three with an SAE, for paper the last; without an SAE, two thirds up].",
        ),
    ] = None,
    hook_point: Annotated[
        str | None,
        typer.Option(help="In place of --layers: blocks.20.hook_resid_post, or ..._pre."),
    ] = None,
    model: Model = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Fit a steering vector from labelled texts.

    A record is {"text"}, {"prompt", "completion"} (only the completion counts) or {"messages"}
    (only the last turn, the assistant's, counts).

    Example: neurosteer fit polite.jsonl rude.jsonl -o polite.st
    """
    from ..data.sides import open_sides
    from ..files import check_target
    from ..models.resolve import DEFAULT_MODEL
    from ..vectors.methods import METHODS, NEEDS_SAE
    from .fit_latents import fit_latents

    if latent:
        if method != "neurosteer" or target is not None or source is not None or hook_point is not None:
            raise InputError("--latent: goes with --sae, --layers and -o, not with options for texts")
        fit_latents(latent, texts or [], out, sae, layers, model or DEFAULT_MODEL, dtype, device, json=json)
        return
    if not texts:
        raise InputError("give texts to steer towards and away from, or latents with --latent ID:WEIGHT")
    if method not in METHODS:
        raise InputError(f"--method {method}: one of {', '.join(METHODS)}")
    if top_k < 1:
        raise InputError(f"--top-k must be at least 1, got {top_k}")
    if sae is not None and method not in NEEDS_SAE:
        raise InputError(f"--method {method} uses no SAE; leave out --sae, or choose neurosteer or paper")
    target_file = out or _default_name(texts, target)
    check_target(target_file)
    if any(Path(text) == target_file for text in texts):
        raise InputError(f"-o {target_file}: is one of the texts; name another file")
    points = _points(layers, hook_point)
    model = model or DEFAULT_MODEL
    with open_sides(texts, target, source) as sides:
        option = "--layers" if hook_point is None else "--hook-point"
        saes = _load_saes(method, sae, model, points, option)
        points = list(saes) if saes else points or [_middle(model)]
        from ..saes.load import load_engine_for
        from ..vectors.from_texts import fit as fit_vector

        engine, saes = load_engine_for(
            saes, model, points=points, dtype=dtype, device=device,
            say=console.note, warn=console.warn,
        )  # fmt: skip

        with console.progress("reading", sum(side.n_texts for side in sides)) as advance:
            vector, report = fit_vector(
                engine, sides, points, method=method, saes=saes, top_k=top_k, advance=advance
            )
    vector.save(target_file)
    _summarize(vector, report, target_file)
    if json:
        from ..data.records import write_record

        write_record({"vector": str(target_file), **vector.metadata.model_dump(), "report": asdict(report)})


def _default_name(texts: list[str], target: str | None) -> Path:
    stem = target if target is not None else "vector" if texts[0] == "-" else Path(texts[0]).stem
    return Path(f"{stem}.st")


def _points(layers: str | None, hook_point: str | None) -> "list[HookPoint]":
    """The hook points asked for; none if neither option is given."""
    from ..models.hooks import HookPoint

    if layers is not None and hook_point is not None:
        raise InputError("--layers and --hook-point say the same thing; give one of them")
    if hook_point is not None:
        points = [HookPoint.parse(name) for name in hook_point.split(",")]
        if len(set(points)) != len(points):
            raise InputError(f"--hook-point {hook_point}: each named once")
        return points
    return [HookPoint(number) for number in parse_layers(layers)] if layers is not None else []


def _middle(model: str) -> "HookPoint":
    """Where to steer when nothing says so: two thirds up, where steering was seen to work best."""
    from ..models.hooks import HookPoint
    from ..models.load import model_shape

    return HookPoint(model_shape(model, console.note).n_layers * 2 // 3)


def _load_saes(
    method: str, sae: str | None, model: str, points: "list[HookPoint]", option: str
) -> "dict[HookPoint, SparseAutoencoder]":
    """The SAE of each hook point, for a method that needs them; the SAE says where it belongs."""
    from ..errors import SAEError
    from ..saes.load import BUNDLED, default_layers, find_saes
    from ..vectors.methods import NEEDS_SAE, SPREAD

    if method not in NEEDS_SAE:
        return {}
    sae = sae or BUNDLED
    asked = [point.layer for point in points]
    wanted = asked or default_layers(sae, model_id=model, spread=method in SPREAD)
    found = find_saes(sae, model_id=model, layers=wanted)
    if points and set(found) != set(points):
        raise SAEError(
            f"SAE {sae!r} belongs to {', '.join(map(str, found))}, "
            f"not to {', '.join(map(str, points))}; leave out {option}, or choose another SAE"
        )
    return found


def _summarize(vector: "SteeringVector", report: "FitReport", out: Path) -> None:
    """Tell what was fitted, on stderr."""
    facts = vector.metadata
    assert facts.positive is not None and facts.negative is not None
    for warning in report.warnings:
        console.warn(warning)
    if report.n_duplicates:
        console.note(f"{report.n_duplicates} duplicate texts were dropped")
    if report.n_without_tokens:
        console.note(f"{report.n_without_tokens} texts of a single token were left out")
    console.note(
        f"{facts.positive.label} {facts.positive.n_texts} texts, {facts.positive.n_tokens} tokens; "
        f"{facts.negative.label} {facts.negative.n_texts} texts, {facts.negative.n_tokens} tokens; "
        f"{report.seconds:.1f} s, {report.tokens_per_second:.0f} tokens/s"
    )
    for name, point in facts.points.items():
        held = "no text held out" if point.auroc is None else (
            f"held-out AUROC {point.auroc:.2f} on {report.n_held_out[0]} + {report.n_held_out[1]} texts"
        )  # fmt: skip
        console.note(
            f"{name}: {held}; the sides differ by {point.shift_norm:.1f}, the median residual is "
            f"{point.resid_norm:.1f} long"
        )
    _show_latents(report, (facts.positive.label, facts.negative.label))
    console.note(f"wrote {out}")


def _show_latents(report: "FitReport", labels: tuple[str, str]) -> None:
    """The strongest latents of either sign, as many in all at several blocks as at one."""
    from ..models.hooks import HookPoint

    n_points = len(report.strongest)
    rows = [
        (str(HookPoint.parse(name).layer), row)
        for name, found in report.strongest.items()
        for turned in ([r for r in found if r.weight > 0], [r for r in found if r.weight < 0])
        for row in turned[: max(1, len(turned) // n_points)]
    ]
    if not rows:
        return
    several, named = n_points > 1, any(row.name for _, row in rows)
    console.table(
        "strongest latents",
        ([">block"] * several + [">latent", ">weight", ">t", *(f">fires\n{label}" for label in labels)]
         + ["fires most at"] + ["described as"] * named),
        [(block,) * several + _latent_cells(row) + (row.name or "",) * named for block, row in rows],
    )  # fmt: skip


def _latent_cells(row: Any) -> tuple[str, ...]:
    piece = " ".join(row.piece.split())
    return (
        str(row.latent_id),
        f"{row.weight:+.3f}",
        f"{row.t:+.1f}",
        f"{row.positive_rate:.1%}",
        f"{row.negative_rate:.1%}",
        f"{row.token.strip()!r} in {piece!r}",
    )
