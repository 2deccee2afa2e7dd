"""neurosteer fit: two sides of labelled texts, or chosen latents, to one vector file."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..data.records import write_record
from ..data.sides import LABEL_KEY
from ..errors import InputError
from .shared import console
from .shared.command import completing
from .shared.fitted import show_choice, summarize, written
from .shared.load import load_engine_with
from .shared.options import Json, LabelKey, ModelOptions, TextKey, chat_model_options
from .shared.parse import parse_layers

if TYPE_CHECKING:
    from ..models.hooks import HookPoint
    from ..saes.load import SAEs
    from ..vectors.fitting.from_latents import Weights
    from ..vectors.fitting.report import FitReport
    from ..vectors.vector import SteeringVector


@chat_model_options
def fit_(
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TOWARDS [AWAY]",
            help="Texts to steer towards and away from (JSONL, CSV, Parquet, plain lines, a folder, or - for "
            "stdin); or one file of labelled records or of preference pairs.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Vector file to write [default: TOWARDS.st].")
    ] = None,
    target: Annotated[str | None, typer.Option(help="With one file: the label to steer towards.")] = None,
    source: Annotated[str | None, typer.Option(help="With one file: the label to steer away from.")] = None,
    text_key: TextKey = None,
    label_key: LabelKey = LABEL_KEY,
    method: Annotated[
        str,
        typer.Option(
            help="neurosteer, paper (both through an SAE), diffmean, pca, or logodds (urges tokens).",
            autocompletion=completing("neurosteer", "paper", "diffmean", "pca", "logodds"),
        ),
    ] = "neurosteer",
    sae: Annotated[
        str | None, typer.Option(help="bundled, an SAE's folder, RELEASE/SAE_ID or OWNER/REPO/FOLDER.")
    ] = None,
    top_k: Annotated[int, typer.Option(help="SAE latents to keep at a block.")] = 100,
    logits_share: Annotated[
        float,
        typer.Option(help="Share of it, below 1, that urges tokens as logodds does, and does not push."),
    ] = 0.0,
    shuffle_labels: Annotated[
        int | None,
        typer.Option(
            metavar="SEED", help="A control: deal the texts out to the sides at random, by this seed."
        ),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            help="How the vector is to act: add, ablate or clamp [default: add].",
            autocompletion=completing("add", "ablate", "clamp"),
        ),
    ] = None,
    latent: Annotated[
        list[str] | None,
        typer.Option(help="In place of texts: a latent and its weight, 960:-1, or BLOCK/960:-1; repeatable."),
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(
            "--layers",
            "--layer",
            metavar="LAYERS",
            help="Blocks to steer at, from 0: 20, 14,17,20 or 11-20 "
            "[default: the last three with an SAE, for paper the last; without an SAE, two thirds up].",
        ),
    ] = None,
    hook_point: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOOK_POINTS", help="In place of --layers: blocks.20.hook_resid_post, or ..._pre."
        ),
    ] = None,
    *,
    where: ModelOptions,
    json: Json = False,
) -> None:
    """Fit a steering vector from labelled texts.

    A record is {"text"}, {"prompt", "completion"} (only the completion counts) or {"messages"}
    (only the last turn, the assistant's, counts); ShareGPT's and Alpaca's keys are known as well.

    Example: neurosteer fit polite.jsonl rude.jsonl -o polite.st
    """
    from ..data.sides import open_sides
    from ..files import check_target
    from ..models.load import model_shape
    from ..saes.load import BUNDLED
    from ..vectors.fitting import from_texts
    from ..vectors.fitting.from_latents import find_latents, parse_latents

    _check_kind(kind, method, logits_share)
    if latent:
        for_texts = (target, source, hook_point, shuffle_labels, logits_share or None)
        if method != "neurosteer" or any(option is not None for option in for_texts):
            raise InputError("--latent: goes with --sae, --layers, --kind and -o, not with options for texts")
        file = out or Path("latents.st")
        check_target(file)
        found = find_latents(parse_latents(latent), where.name, sae or BUNDLED, parse_layers(layers))
        vector = _from_latents(*found, texts or [], text_key, where)
        _save(vector, kind, file, json=json)
        return
    if not texts:
        raise InputError("give texts to steer towards and away from, or latents with --latent ID:WEIGHT")
    _check_method(method, top_k, sae)
    if shuffle_labels is not None and shuffle_labels < 0:
        raise InputError(f"--shuffle-labels must be at least 0, got {shuffle_labels}")
    file = _target(out, texts, target, is_control=shuffle_labels is not None)
    points = _points(layers, hook_point)
    from_texts.check_share(method, points, logits_share)
    reading = open_sides(texts, target, source, text_key=text_key, label_key=label_key, say=console.note)
    with reading as sides:
        option = "--hook-point" if hook_point else "--layers"
        saes = from_texts.choose_saes(method, where.name, points, sae or BUNDLED, option=option)
        points = list(saes) or points
        points = points or from_texts.default_points(method, model_shape(where.name, console.note).n_layers)
        engine, saes = load_engine_with(saes, where, points)
        with console.progress("reading", sum(side.n_texts for side in sides)) as advance:
            vector, report = from_texts.fit(
                engine,
                sides,
                points,
                method=method,
                saes=saes,
                top_k=top_k,
                logits_share=logits_share,
                shuffle_labels=shuffle_labels,
                advance=advance,
            )
    summarize(vector, report)
    _save(vector, kind, file, report, json=json)


def _save(
    vector: "SteeringVector", kind: str | None, file: Path, report: "FitReport | None" = None, *, json: bool
) -> None:
    """Write the vector, acting as is asked, and say so."""
    vector = vector.acting(kind) if kind else vector  # type: ignore[arg-type]  # checked
    vector.save(file)
    console.note(written(file, vector))
    if json:
        told = {"report": asdict(report)} if report else {}
        write_record({"vector": str(file), **vector.metadata.model_dump(), **told})


def _check_kind(kind: str | None, method: str, logits_share: float) -> None:
    if kind not in (None, "add", "ablate", "clamp"):
        raise InputError(f"--kind must be one of add, ablate, clamp, got {kind!r:.60}")
    if kind and method == "logodds":
        raise InputError("--method logodds acts on logits; leave out --kind, or choose another method")
    if kind in ("ablate", "clamp") and logits_share:
        raise InputError(f"--kind {kind}: does without --logits-share, which is for what is added")


def _check_method(method: str, top_k: int, sae: str | None) -> None:
    from ..vectors.fitting.methods import NEEDS_SAE, check_method

    check_method(method)
    if top_k < 1:
        raise InputError(f"--top-k must be at least 1, got {top_k}")
    if sae is not None and method not in NEEDS_SAE:
        raise InputError(f"--method {method} uses no SAE; leave out --sae, or choose neurosteer or paper")


def _target(out: Path | None, texts: Sequence[str], label: str | None, *, is_control: bool) -> Path:
    """The file to write, found fit to be written; its name is that of what it steers towards."""
    from ..data.kinds import kind_of, stem_of
    from ..files import check_target, is_pipe

    stem = label if label is not None else "vector" if is_pipe(texts[0]) else stem_of(texts[0])
    file = out or Path(f"{stem}-shuffled.st" if is_control else f"{stem}.st")
    check_target(file)
    for text in texts:
        if os.path.exists(file) and os.path.exists(text) and file.samefile(text):
            if not (kind := kind_of(text)).texts:  # a vector given as a text, with its own name to write
                raise InputError(f"{text}: {kind}")
            raise InputError(f"-o {file}: is one of the texts; name another file")
    return file


def _points(layers: Sequence[str] | None, hook_points: Sequence[str] | None) -> "list[HookPoint]":
    """The hook points asked for; none if neither option is given."""
    from ..models.hooks import HookPoint

    if not hook_points:
        return [HookPoint(number) for number in parse_layers(layers)]
    if layers:
        raise InputError("--layers and --hook-point say the same thing; give one of them")
    points = [HookPoint.parse(name) for name in ",".join(hook_points).split(",")]
    if len(set(points)) != len(points):
        raise InputError(f"--hook-point {','.join(hook_points)}: each named once")
    return points


def _from_latents(
    saes: "SAEs", weights: "Weights", texts: Sequence[str], text_key: str | None, where: ModelOptions
) -> "SteeringVector":
    """The vector of chosen latents; texts, if any, are what the residual's norm is measured on."""
    from ..data.corpus import corpus_files, documents
    from ..vectors.fitting.from_latents import N_TOKENS, described, from_latents, measured

    files = corpus_files(texts, text_key)
    choices = [] if files else described(saes, weights, where.name)
    engine, saes = load_engine_with(saes, where, saes if files else [])
    if files:
        name = ", ".join(part.name for part in files)
        with console.progress("measuring", N_TOKENS) as advance:
            choices = measured(
                engine, saes, weights, documents(files, console.note), name=name, advance=advance
            )
    vector = from_latents(engine, choices)
    for choice in choices:
        show_choice(choice, where.name)
    return vector
