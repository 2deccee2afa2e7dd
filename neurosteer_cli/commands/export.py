"""neurosteer export: a vector as llama.cpp's control vector, or baked into a checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from .. import __version__
from ..errors import InputError
from .shared import console
from .shared.options import Model
from .shared.parse import parse_alphas

FORMS = ("gguf", "model")


def export(
    vector: Annotated[Path, typer.Argument(metavar="VECTOR", help="Vector file.")],
    to: Annotated[
        str,
        typer.Option(
            help="gguf: a control vector for llama.cpp; model: a Hugging Face checkpoint that writes "
            "steered text in any engine."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File (gguf) or new folder (model) to write.")],
    alpha: Annotated[
        str | None,
        typer.Option(
            "--alpha",
            "-a",
            help="Strength to bake in; needed for model. With gguf 1, so that llama.cpp's scale is alpha.",
        ),
    ] = None,
    model: Model = None,
) -> None:
    """Take a vector out of neurosteer: to llama.cpp, or into a model's own weights.

    Every token is steered, as `gen --positions all` does.

    Example: neurosteer export polite.st --to gguf -o polite.gguf
    Example: neurosteer export polite.st --to model --alpha 15 -o polite-smollm2
    """
    if to not in FORMS:
        raise InputError(f"--to {to}: one of {', '.join(FORMS)}")
    if to == "model" and alpha is None:
        raise InputError("--to model bakes one strength in: name it, such as --alpha 8")
    strength = _alpha(alpha or "1")
    if to == "gguf":
        _to_gguf(vector, out, strength)
    else:
        _to_model(vector, out, strength, model)


def _alpha(text: str) -> float:
    alphas = parse_alphas(text)
    if len(alphas) != 1 or alphas[0] == 0:
        raise InputError(f"--alpha {text}: one number other than 0 is baked in")
    return alphas[0]


def _to_gguf(path: Path, out: Path, alpha: float) -> None:
    from ..files import check_target, file_sha256
    from ..vectors.exchange.gguf import write_control_vector
    from ..vectors.vector import SteeringVector

    check_target(out)
    vector = SteeringVector.load(path)
    write_control_vector(vector, alpha, out, name=str(path), sha256=file_sha256(path))
    console.note(f"wrote {out}: scale 1 in llama.cpp is alpha {alpha:g}, a dose of {vector.dose(alpha):.2%}")


def _to_model(path: Path, out: Path, alpha: float, model: str | None) -> None:
    from ..files import check_new_folder, file_sha256
    from ..models.checkpoints.resolve import resolve
    from ..models.load import read_config
    from ..models.shape import shape_of
    from ..vectors.exchange.bake import bake
    from ..vectors.metadata import now
    from ..vectors.vector import SteeringVector

    check_new_folder(out)
    vector = SteeringVector.load(path)
    name = model or vector.own_model(str(path))
    folder = resolve(name, console.note)
    config = read_config(folder)
    vector.check_fits(shape_of(config), name, str(path), console.warn)
    made = {"alpha": alpha, "created": now(), "dose": vector.dose(alpha), "program_version": __version__}
    source = {"vector": path.name, "vector_metadata": vector.metadata.model_dump()}
    note = {"model": name, **made, **source, "vector_sha256": file_sha256(path)}
    bake(folder, config, vector.after_blocks(alpha), out, model_id=name, note=note)
    console.note(f"wrote {out}: {name} with {path} at alpha {alpha:g}, a dose of {vector.dose(alpha):.2%}")
