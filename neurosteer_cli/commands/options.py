"""Options that several commands share."""

import math
import re
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
SAE = Annotated[
    str,
    typer.Argument(metavar="SAE", help="bundled, a sae-lens folder, a folder of such, or RELEASE/SAE_ID."),
]
Corpus = Annotated[
    list[str],
    typer.Argument(metavar="CORPUS...", help="JSONL or .txt files, also .gz; folders of such; - for stdin."),
]
OfLayers = Annotated[
    str | None, typer.Option("--layers", "--layer", help="Of several SAEs, those of these blocks.")
]

MAX_ALPHA = 1e6
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}


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


def parse_count(text: str, option: str) -> int:
    """Read `3M`, `500k` or `20000`.

    Raises:
        InputError: no such number, or none at all.
    """
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)([kmgb]?)", text.strip().lower())
    count = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if count < 1:
        raise InputError(f"{option} {text}: not a count such as 3M, 500k or 20000")
    return count
