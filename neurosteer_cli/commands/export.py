"""neurosteer export: a vector as llama.cpp's control vector, as a server's logit_bias, or in a checkpoint."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import __version__
from ..errors import InputError
from .shared import console
from .shared.acting import ActingOptions, Kind, what_alpha_does
from .shared.options import Model
from .shared.parse import parse_alphas

if TYPE_CHECKING:
    from ..vectors.vector import SteeringVector

FORMS = ("gguf", "model", "logit_bias")


def export(
    vector: Annotated[Path, typer.Argument(metavar="VECTOR", help="Vector file.")],
    to: Annotated[
        str,
        typer.Option(
            help="gguf: a control vector for llama.cpp; model: a Hugging Face checkpoint that writes "
            "steered text in any engine; logit_bias: JSON that servers take."
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="File (gguf, logit_bias) or new folder (model) to write.")
    ],
    alpha: Annotated[
        str | None,
        typer.Option(
            "--alpha",
            "-a",
            help="Strength to bake in; needed for model and logit_bias [default: for gguf 1, so that "
            "llama.cpp's scale is alpha; to ablate 1, the whole component].",
        ),
    ] = None,
    kind: Kind = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            help="With logit_bias: how many of the strongest to keep [default: 300, as many as OpenAI's "
            "API takes]."
        ),
    ] = None,
    model: Model = None,
) -> None:
    """Take a vector out of neurosteer: to llama.cpp, to servers, or into a model's own weights.

    Every token is steered, as `gen --positions all` does.

    Example: neurosteer export polite.st --to gguf -o polite.gguf
    Example: neurosteer export polite.st --to model --alpha 15 -o polite-smollm2
    Example: neurosteer export words.st --to logit_bias --alpha 8 -o words.json
    """
    if to not in FORMS:
        raise InputError(f"--to {to}: one of {', '.join(FORMS)}")
    if tokens is not None and (to != "logit_bias" or tokens < 1):
        raise InputError("--tokens: a number of at least 1, with --to logit_bias")
    ((_, loaded),) = ActingOptions(kind=kind).load([vector])
    if to == "gguf":
        _to_gguf(vector, loaded, out, _alpha(alpha or "1"))
    elif to == "model":
        _to_model(vector, loaded, out, _strength(alpha, loaded, to), model)
    else:
        _to_logit_bias(vector, loaded, out, _strength(alpha, loaded, to), tokens)


def _strength(alpha: str | None, vector: "SteeringVector", to: str) -> float:
    """The strength to bake in, for which only an ablation has a default."""
    if alpha is None and vector.metadata.kind != "ablate":
        raise InputError(f"--to {to} bakes one strength in: name it, such as --alpha 8")
    return _alpha(alpha or "1")


def _alpha(text: str) -> float:
    alphas = parse_alphas(text)
    if len(alphas) != 1 or alphas[0] == 0:
        raise InputError(f"--alpha {text}: one number other than 0 is baked in")
    return alphas[0]


def _to_gguf(path: Path, vector: "SteeringVector", out: Path, alpha: float) -> None:
    from ..files import check_target, file_sha256
    from ..vectors.exchange.gguf import write_control_vector

    check_target(out)
    write_control_vector(vector, alpha, out, name=str(path), sha256=file_sha256(path))
    console.note(f"wrote {out}: scale 1 in llama.cpp is alpha {alpha:g}, a dose of {vector.dose(alpha):.2%}")
    _warn_bias_left(path, vector)


def _to_model(path: Path, vector: "SteeringVector", out: Path, alpha: float, model: str | None) -> None:
    from ..files import check_new_folder, file_sha256
    from ..models.checkpoints.resolve import resolve
    from ..models.load import read_config
    from ..models.shape import shape_of
    from ..vectors.exchange.bake import bake, leaves_out
    from ..vectors.metadata import now

    check_new_folder(out)
    name = model or vector.own_model(str(path))
    folder = resolve(name, console.note)
    config = read_config(folder)
    vector.check_fits(shape_of(config), name, str(path), console.warn)
    dose = vector.dose(alpha) if vector.adds else None
    made = {"alpha": alpha, "created": now(), "dose": dose, "program_version": __version__}
    source = {"vector": path.name, "vector_metadata": vector.metadata.model_dump()}
    note = {"model": name, **made, **source, "vector_sha256": file_sha256(path)}
    bake(vector, alpha, folder, config, out, model_id=name, note=note)
    does = what_alpha_does(vector, alpha, urges=not leaves_out(vector, config))
    console.note(f"wrote {out}: {name} with {path} at alpha {alpha:g}, {does}")
    if leaves_out(vector, config):
        _warn_bias_left(path, vector)


def _to_logit_bias(path: Path, vector: "SteeringVector", out: Path, alpha: float, tokens: int | None) -> None:
    from ..files import check_target
    from ..vectors.exchange.logit_bias import MOST_TOKENS, logit_bias, write_logit_bias

    check_target(out)
    kept, share = logit_bias(vector, alpha, tokens or MOST_TOKENS, name=str(path))
    write_logit_bias(kept, out)
    low, high = float(kept.bias.min()), float(kept.bias.max())
    console.note(
        f"wrote {out}: {len(kept.ids)} tokens at alpha {alpha:g}, {low:+.2f} to {high:+.2f} nats, "
        f"{share:.0%} of all that is added"
    )
    console.note(
        "a server adds them at every step; `gen` only to likely tokens, and to none that the text has used"
    )
    if vector.pushes:
        console.warn(f"the push of {path} is left out: --to gguf and --to model write it")


def _warn_bias_left(path: Path, vector: "SteeringVector") -> None:
    """Tell that of a vector that also adds to logits only the push is in the file."""
    if vector.bias:
        console.warn(
            f"what {path} adds to the logits of {len(vector.bias.ids)} tokens is left out: "
            "--to logit_bias writes it"
        )
