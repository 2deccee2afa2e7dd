"""neurosteer sae train: a corpus to SAEs at one or several blocks."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...errors import InputError
from ..shared import console
from ..shared.options import Corpus, Device, Dtype, Json, Model, parse_count, parse_layers

if TYPE_CHECKING:
    from ...data.corpus import Part
    from ...models.engine import Engine
    from ...models.hooks import HookPoint
    from ...saes.sae import SparseAutoencoder
    from ...saes.training.config import Progress, Trained, TrainingConfig

ARCHITECTURES = ("topk", "batchtopk", "jumprelu", "matryoshka")
SAVED_AS = ("float32", "float16", "bfloat16")


def train(
    corpus: Corpus,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write; each SAE is a folder in it.")],
    layers: Annotated[
        str, typer.Option("--layers", "--layer", help="Blocks whose output to train on: 20 or 11,14,17,20.")
    ],
    architecture: Annotated[str, typer.Option(help="topk, batchtopk, jumprelu or matryoshka.")] = "topk",
    d_sae: Annotated[int, typer.Option(help="Latents.")] = 4608,
    k: Annotated[int, typer.Option(help="Latents that fire at a token; on average, unless topk.")] = 32,
    tokens: Annotated[str, typer.Option(help="Tokens to read from the corpus: 3M, 500k.")] = "3M",
    epochs: Annotated[int, typer.Option(help="Times each token is trained on.")] = 1,
    init: Annotated[
        str | None,
        typer.Option(help="Start from an SAE, even of another block, in place of noise: as --sae of `fit`."),
    ] = None,
    lr: Annotated[
        float, typer.Option(help="Learning rate after the first 2 % of steps; 0 at the end.")
    ] = 5e-4,
    batch_size: Annotated[int, typer.Option(help="Tokens a step.")] = 1024,
    context: Annotated[int, typer.Option(help="Tokens of a sequence.")] = 256,
    disk: Annotated[
        str, typer.Option(help="Activations kept on disk at a time, which are shuffled together: 10G bytes.")
    ] = "10G",
    save_as: Annotated[str, typer.Option(help="Number type of the saved weights.")] = "float32",
    seed: Annotated[int, typer.Option(help="Decides the first weights and all orders.")] = 0,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 250,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the unfinished training in the folder.")
    ] = False,
    model: Model = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Train an SAE at each of several blocks, in one pass of the model over a corpus.

    They are saved as sae-lens saves its own, one folder a block: OUT/blocks.20.hook_resid_post.
    Killed, the same command with --resume goes on from the last checkpoint, to the same result.

    Example: neurosteer sae train corpus.jsonl.gz --layers 14,20 --d-sae 4608 --k 32 --tokens 3M -o saes
    """
    from ...data.corpus import checked, corpus_files
    from ...models.hooks import HookPoint
    from ...models.resolve import DEFAULT_MODEL
    from ...saes.training.config import TrainingConfig

    points = [HookPoint(layer) for layer in parse_layers(layers)]
    _check(architecture, d_sae, k, epochs, lr, batch_size, context, checkpoint_every, save_as)
    n_tokens, n_bytes = parse_count(tokens, "--tokens"), parse_count(disk, "--disk")
    parts = corpus_files(corpus)
    _check_folder(out, points, resume=resume)
    model = model or DEFAULT_MODEL
    found = _find_init(init, model, architecture, d_sae, points)
    with checked(parts) as readable:
        engine, starting = _load_engine(model, points, found, context, dtype, device)
        settings = TrainingConfig(
            model_id=engine.model_id,
            points=tuple(map(str, points)),
            architecture=architecture,
            d_sae=d_sae,
            k=k,
            n_tokens=n_tokens,
            epochs=epochs,
            rows_per_round=n_bytes // (2 * engine.d_model * len(points)),
            context=context,
            batch_size=batch_size,
            lr=lr,
            seed=seed,
            init=_init_hash(starting),
            dtype=str(engine.dtype).removeprefix("torch."),
            device=engine.device.type,
        )
        if settings.rows_per_round < batch_size or n_tokens < batch_size:
            raise InputError(
                f"--batch-size {batch_size}: more than --tokens {tokens}, or than --disk {disk} has room for"
            )
        _say_cost(settings, engine)
        trained = _run(settings, engine, readable, out, starting, checkpoint_every, save_as)
    _summarize(trained)
    if json:
        from ...data.records import write_record

        for one in trained:
            write_record({
                "sae": str(one.folder), "explained_variance": one.explained_variance, "l0": one.l0,
                "dead": one.n_dead,
            })  # fmt: skip


def _check(
    architecture: str, d_sae: int, k: int, epochs: int, lr: float, batch_size: int, context: int,
    checkpoint_every: int, save_as: str,
) -> None:  # fmt: skip
    if architecture not in ARCHITECTURES:
        raise InputError(f"--architecture {architecture}: one of {', '.join(ARCHITECTURES)}")
    if save_as not in SAVED_AS:
        raise InputError(f"--save-as {save_as}: one of {', '.join(SAVED_AS)}")
    for option, value, least in (
        ("--d-sae", d_sae, 8), ("--k", k, 1), ("--epochs", epochs, 1), ("--batch-size", batch_size, 1),
        ("--context", context, 2), ("--checkpoint-every", checkpoint_every, 1),
    ):  # fmt: skip
        if value < least:
            raise InputError(f"{option} must be at least {least}, got {value}")
    if k > d_sae:
        raise InputError(f"--k {k}: there are only {d_sae} latents")
    if not 0 < lr < 1:
        raise InputError(f"--lr must be above 0 and below 1, got {lr:g}")


def _check_folder(out: Path, points: "list[HookPoint]", *, resume: bool) -> None:
    """Hold a folder against what it is to hold.

    Raises:
        InputError: it has an SAE or an unfinished training already, or cannot be written.
    """
    from ...saes.training.config import STATE_FOLDER

    unfinished = (out / STATE_FOLDER).is_dir()
    if out.exists() and not out.is_dir():
        raise InputError(f"-o {out}: is a file; name a folder")
    if unfinished and not resume:
        raise InputError(
            f"-o {out}: holds an unfinished training; go on with --resume, or remove {out / STATE_FOLDER}"
        )
    there = [str(point) for point in points if (out / str(point)).exists()]
    if there and not unfinished:
        raise InputError(f"-o {out}: has {', '.join(there)} already; name another folder")
    if not out.exists() and not out.parent.is_dir():
        raise InputError(f"-o {out}: no folder {str(out.parent)!r}; create it first")
    try:
        with tempfile.TemporaryFile(dir=out if out.exists() else out.parent):
            pass
    except OSError as error:
        raise InputError(f"-o {out}: cannot write there ({error.strerror})") from error


def _find_init(
    init: str | None, model: str, architecture: str, d_sae: int, points: "list[HookPoint]"
) -> "dict[HookPoint, SparseAutoencoder]":
    """What each hook point starts from: of a family, the SAE of its block or of the nearest one."""
    from ...saes.load import load_sae, sae_layers

    if init is None:
        return {}
    if architecture == "jumprelu":
        raise InputError("--init: not with --architecture jumprelu, which needs thresholds as well")
    family = sae_layers(init, model_id=model)
    found = {}
    for point in points:
        layer = min(family, key=lambda one: abs(one - point.layer)) if family else None
        found[point] = load_sae(init, model_id=model, layer=layer)
        if found[point].d_sae != d_sae:
            raise InputError(f"--init {init}: it has {found[point].d_sae} latents; give --d-sae as many")
    return found


def _load_engine(
    model: str,
    points: "list[HookPoint]",
    init: "dict[HookPoint, SparseAutoencoder]",
    context: int,
    dtype: str,
    device: str,
) -> "tuple[Engine, dict[HookPoint, SparseAutoencoder]]":
    """Load the blocks that are needed, and hold the options against the model."""
    from ...models.load import model_shape
    from ...saes.load import load_engine_for

    shape = model_shape(model, console.note)
    needed = [*points, *(sae.hook_point for sae in init.values())]
    for point in needed:
        point.check(shape.n_layers)
    for sae in init.values():
        if sae.d_model != shape.d_model:
            raise InputError(
                f"--init: SAE {sae.sae_id!r} has d_model={sae.d_model}, model {model!r} has {shape.d_model}; "
                "choose an SAE of this model"
            )
    engine, starting = load_engine_for(
        init, model, points=needed, dtype=dtype, device=device,
        say=console.note, warn=console.warn,
    )  # fmt: skip
    if context > engine.max_tokens:
        raise InputError(f"--context {context}: the model reads at most {engine.max_tokens} tokens")
    return engine, starting


def _init_hash(init: "dict[HookPoint, SparseAutoencoder]") -> str | None:
    """What tells one start from another: the hashes of the SAEs."""
    return ",".join(dict.fromkeys(sae.sha256 for sae in init.values())) or None


def _say_cost(settings: "TrainingConfig", engine: "Engine") -> None:
    """Tell what a run takes, before it begins."""
    n = len(settings.points)
    on_disk = min(settings.n_tokens, settings.rows_per_round) * 2 * engine.d_model * n
    weights = n * 2 * engine.d_model * settings.d_sae * 4
    console.note(
        f"while it runs: {on_disk / 1e9:.2f} GB of activations and {3 * weights / 1e9:.2f} GB of checkpoint "
        f"on disk; in memory, beside the model, {4 * weights / 1e9:.2f} GB and what one batch takes"
    )


def _run(
    settings: "TrainingConfig",
    engine: "Engine",
    corpus: "list[Part]",
    out: Path,
    init: "dict[HookPoint, SparseAutoencoder]",
    checkpoint_every: int,
    save_as: str,
) -> "list[Trained]":

    from ...saes.training.run import Training

    with console.long_run() as show:

        def tell(progress: "Progress") -> None:
            show(progress.phase, progress.done, progress.total, _facts(progress))

        training = Training(
            settings, engine, corpus, out, init=init, checkpoint_steps=checkpoint_every,
            dtype=save_as, tell=tell,
        )  # fmt: skip
        return training.run()


def _facts(progress: "Progress") -> str:
    return " | ".join(
        f"block {name.split('.')[1]}: explains {variance:.3f}, L0 {l0:.1f}, {n_dead} dead"
        for name, (variance, l0, n_dead) in progress.quality.items()
    )


def _summarize(trained: "list[Trained]") -> None:
    for one in trained:
        console.note(
            f"wrote {one.folder}: explains {one.explained_variance:.3f} of the variance at L0 {one.l0:.1f}, "
            f"{one.n_dead} dead latents (training batches; `sae info` measures on texts of your own)"
        )
