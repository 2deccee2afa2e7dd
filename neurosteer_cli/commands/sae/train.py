"""neurosteer sae train: a corpus to SAEs at one or several blocks."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from ...errors import InputError
from ..shared import console, options
from ..shared.load import load_engine_with
from ..shared.options import ModelOptions
from ..shared.parse import parse_count, parse_layers
from .common import check_least

if TYPE_CHECKING:
    from ...models.engine import Engine
    from ...models.hooks import HookPoint
    from ...saes.load import SAEs
    from ...saes.training.config import Progress, TrainingConfig

SAVED_AS = ("float32", "float16", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """What is trained, how, and on how much."""

    architecture: Annotated[str, Option(help="topk, batchtopk, jumprelu or matryoshka.")] = "topk"
    d_sae: Annotated[int, Option(help="Latents.")] = 4608
    k: Annotated[int, Option(help="Latents that fire at a token; on average, unless topk.")] = 32
    tokens: Annotated[str, Option(help="Tokens to read from the corpus: 3M, 500k.")] = "3M"
    epochs: Annotated[int, Option(help="Times each token is trained on.")] = 1
    init: Annotated[
        str | None,
        Option(help="Start from an SAE, even of another block, in place of noise: as --sae of `fit`."),
    ] = None
    lr: Annotated[float, Option(help="Learning rate after the first 2 % of steps; 0 at the end.")] = 5e-4
    batch_size: Annotated[int, Option(help="Tokens a step.")] = 1024
    context: Annotated[int, Option(help="Tokens of a sequence.")] = 256
    disk: Annotated[
        str, Option(help="Activations kept on disk at a time, which are shuffled together: 10G bytes.")
    ] = "10G"
    save_as: Annotated[str, Option(help="Number type of the saved weights.")] = "float32"
    seed: Annotated[int, Option(help="Decides the first weights and all orders.")] = 0
    checkpoint_every: Annotated[int, Option(help="Steps between checkpoints.")] = 250
    resume: Annotated[bool, Option("--resume", help="Go on with the unfinished training in the folder.")] = (
        False
    )

    def __post_init__(self) -> None:
        """Find an option out of its range before anything is loaded."""
        from ...saes.training.config import ARCHITECTURES

        if self.architecture not in ARCHITECTURES:
            raise InputError(f"--architecture {self.architecture}: one of {', '.join(ARCHITECTURES)}")
        if self.save_as not in SAVED_AS:
            raise InputError(f"--save-as {self.save_as}: one of {', '.join(SAVED_AS)}")
        check_least({"--d-sae": self.d_sae}, 8)
        check_least({"--k": self.k, "--epochs": self.epochs, "--batch-size": self.batch_size}, 1)
        check_least({"--checkpoint-every": self.checkpoint_every}, 1)
        check_least({"--context": self.context}, 2)
        if self.k > self.d_sae:
            raise InputError(f"--k {self.k}: there are only {self.d_sae} latents")
        if not 0 < self.lr < 1:
            raise InputError(f"--lr must be above 0 and below 1, got {self.lr:g}")
        if self.init is not None and self.architecture == "jumprelu":
            raise InputError("--init: not with --architecture jumprelu, which needs thresholds as well")
        parse_count(self.tokens, "--tokens"), parse_count(self.disk, "--disk")

    def config(self, engine: "Engine", points: "list[HookPoint]", init: "SAEs") -> "TrainingConfig":
        """What the options come to on a model, if its context, tokens and disk are enough for them."""
        from ...saes.training.config import TrainingConfig, row_bytes

        if self.context > engine.max_tokens:
            raise InputError(f"--context {self.context}: the model reads at most {engine.max_tokens} tokens")
        same = ("architecture", "d_sae", "k", "epochs", "context", "batch_size", "lr", "seed")
        config = TrainingConfig(
            **{name: getattr(self, name) for name in same},
            model_id=engine.model_id,
            points=tuple(map(str, points)),
            n_tokens=parse_count(self.tokens, "--tokens"),
            rows_per_round=parse_count(self.disk, "--disk") // row_bytes(len(points), engine.d_model),
            init=",".join(dict.fromkeys(sae.sha256 for sae in init.values())) or None,
            dtype=str(engine.dtype).removeprefix("torch."),
            device=engine.device.type,
        )
        if min(config.rows_per_round, config.n_tokens) < self.batch_size:
            raise InputError(
                f"--batch-size {self.batch_size}: more than --tokens {self.tokens}, "
                f"or than --disk {self.disk} has room for"
            )
        return config


@partial(options.grouped, name="training", group=TrainingOptions)
@options.model_options
def train(
    corpus: options.Corpus,
    out: Annotated[Path, Option("--out", "-o", help="Folder to write; each SAE is a folder in it.")],
    layers: Annotated[
        list[str],
        Option("--layers", "--layer", metavar="LAYERS", help="Blocks to train on: 20, 11,14,17,20 or 11-20."),
    ],
    text_key: options.TextKey = None,
    *,
    training: TrainingOptions,
    where: ModelOptions,
    json: options.Json = False,
) -> None:
    """Train an SAE at each of several blocks, in one pass of the model over a corpus.

    They are saved as sae-lens saves its own, one folder a block: OUT/blocks.20.hook_resid_post.
    Killed, the same command with --resume goes on from the last checkpoint, to the same result.

    Example: neurosteer sae train corpus.jsonl.gz --layers 14,20 --d-sae 4608 --k 32 --tokens 3M -o saes
    """
    from ...data.corpus import checked, corpus_files
    from ...data.records import write_record
    from ...models.hooks import HookPoint

    points = [HookPoint(layer) for layer in parse_layers(layers)]
    parts = corpus_files(corpus, text_key)
    _check_folder(out, points, resume=training.resume)
    init, needed = _find_init(training, where.name, points)
    with checked(parts, console.note) as readable:
        engine, init = load_engine_with(init, where, needed)
        config = training.config(engine, points, init)
        activations, checkpoint, memory = (size / 1e9 for size in config.cost(engine.d_model))
        console.note(
            f"while it runs: {activations:.2f} GB of activations and {checkpoint:.2f} GB of checkpoint on "
            f"disk; in memory, beside the model, {memory:.2f} GB and what one batch takes"
        )
        from ...saes.training.run import Training  # sae-lens: many seconds

        with console.long_run() as show:
            trained = Training(
                config,
                engine,
                readable,
                out,
                init=init,
                checkpoint_steps=training.checkpoint_every,
                dtype=training.save_as,
                tell=lambda now: show(now.phase, now.done, now.total, _quality(now)),
            ).run()
    for folder, (explained, l0, n_dead) in trained.items():
        console.note(
            f"wrote {folder}: explains {explained:.3f} of the variance at L0 {l0:.1f}, {n_dead} dead latents "
            "(training batches; `sae info` measures on texts of your own)"
        )
        if json:
            write_record({"sae": str(folder), "explained_variance": explained, "l0": l0, "dead": n_dead})


def _check_folder(out: Path, points: "list[HookPoint]", *, resume: bool) -> None:
    """Find out before anything is loaded whether a folder can take what is trained."""
    from ...files import check_new_folder
    from ...saes.training.config import STATE_FOLDER

    state = out / STATE_FOLDER
    if os.path.exists(out) and not os.path.isdir(out):
        raise InputError(f"-o {out}: is a file; name a folder")
    if os.path.isdir(state) and resume:
        return
    if os.path.isdir(state):
        raise InputError(f"-o {out}: holds an unfinished training; go on with --resume, or remove {state}")
    if there := [str(point) for point in points if os.path.exists(out / str(point))]:
        raise InputError(f"-o {out}: has {', '.join(there)} already; name another folder")
    try:
        check_new_folder(state if os.path.exists(out) else out)
    except InputError as error:
        raise InputError(f"-o {error}") from error


def _find_init(
    training: TrainingOptions, model: str, points: "list[HookPoint]"
) -> "tuple[SAEs, list[HookPoint]]":
    """What each hook point starts from, by --init, and all that are read for it; held against the model."""
    from ...models.load import model_shape
    from ...saes.load import check_fit, nearest_saes

    init = training.init
    found = {} if init is None else nearest_saes(init, model_id=model, points=points)
    shape = model_shape(model, console.note)
    for point in points:
        point.check(shape.n_layers)
    check_fit(found, shape, model)
    for sae in found.values():
        if sae.d_sae != training.d_sae:
            raise InputError(f"--init {init}: it has {sae.d_sae} latents; give --d-sae as many")
    return found, [*points, *(sae.hook_point for sae in found.values())]


def _quality(progress: "Progress") -> str:
    return " | ".join(
        f"block {name.split('.')[1]}: explains {variance:.3f}, L0 {l0:.1f}, {n_dead} dead"
        for name, (variance, l0, n_dead) in progress.quality.items()
    )
