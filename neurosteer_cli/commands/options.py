"""Options that several commands share."""

import math
from typing import Annotated

import typer

from ..errors import InputError

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        envvar="NEUROSTEER_MODEL",
        help="smollm2 (the embedded default), a Hub id, a local folder or a .gguf file.",
    ),
]
Dtype = Annotated[
    str,
    typer.Option(help="auto, float32, bfloat16 or float16; auto is what this machine does fastest."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Json = Annotated[bool, typer.Option("--json", help="Write JSON to stdout, for programs.")]

MAX_ALPHA = 1e6


def parse_alphas(text: str) -> list[float]:
    """Read `8` or `0,4,8`.

    Raises:
        InputError: not a comma-separated list of finite numbers.
    """
    try:
        alphas = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"--alpha {text}: not a number or a comma-separated list of numbers") from error
    if not all(map(math.isfinite, alphas)):
        raise InputError(f"--alpha {text}: must be finite")
    if any(abs(alpha) > MAX_ALPHA for alpha in alphas):
        raise InputError(f"--alpha {text}: must be between -{MAX_ALPHA:g} and {MAX_ALPHA:g} percent")
    return alphas


def parse_layers(text: str) -> list[int]:
    """Read `20` or `14,17,20`.

    Raises:
        InputError: not a comma-separated list of block numbers, each once.
    """
    try:
        layers = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"--layers {text}: not a block number or a comma-separated list of them") from error
    if any(layer < 0 for layer in layers) or len(set(layers)) != len(layers):
        raise InputError(f"--layers {text}: blocks count from 0, each named once")
    return layers
