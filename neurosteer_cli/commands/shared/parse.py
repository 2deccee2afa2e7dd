"""Options' values read from what a person types: layers, alphas, counts.

Knows lists, ranges and units; knows nothing of typer.
"""

import json
import math
import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from ...errors import InputError

_RANGE = re.compile("([0-9]{1,6})(?:-([0-9]{1,6}))?")
MAX_LAYERS = 10_000  # of a range
_PYTHON = {"True": True, "False": False, "None": None}  # as people write them, too
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}


def parse_layers(texts: Sequence[str] | None) -> list[int]:
    """Read `20`, `14,17,20` or `11-20`, in the order given; none of None.

    Raises:
        InputError: not block numbers and ranges of them, each block named once.
    """
    text = ",".join(texts or [])
    parts = [_RANGE.fullmatch(part.strip()) for part in text.split(",")] if texts else []
    ranges = [range(int(part[1]), int(part[2] or part[1]) + 1) for part in parts if part]
    if len(ranges) < len(parts) or not all(0 < len(blocks) <= MAX_LAYERS for blocks in ranges):
        raise InputError(f"--layers {text}: not block numbers, from 0, such as 20, 14,17,20 or 11-20")
    layers = list(chain.from_iterable(ranges))
    if len(set(layers)) != len(layers):
        raise InputError(f"--layers {text}: each block once")
    return layers


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
    from ...vectors.vector import MAX_ALPHA

    if any(abs(alpha) > MAX_ALPHA for alpha in alphas):
        raise InputError(f"--alpha {text}: must be between -{MAX_ALPHA:g} and {MAX_ALPHA:g} percent")
    return alphas


def check_paired(vectors: Sequence[Path], alphas: Sequence[str]) -> None:
    if alphas and len(alphas) != len(vectors):
        raise InputError(
            f"{len(vectors)} --vector and {len(alphas)} --alpha: give one --alpha for each --vector"
        )


def parse_template_args(texts: Sequence[str]) -> dict[str, Any]:
    """Read `enable_thinking=false`: a value is JSON or Python's True, False or None, or a text as it stands.

    Raises:
        InputError: no name, one that is given twice, or one that is no argument of a template.
    """
    from ...data.records import NOT_THE_TEMPLATES

    args: dict[str, Any] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name.isidentifier() or name in args:
            raise InputError(f"--template-arg {text}: give KEY=VALUE, each key once")
        if name in NOT_THE_TEMPLATES:
            raise InputError(f"--template-arg {text}: {name} is set by neurosteer itself")
        try:
            args[name] = json.loads(value)
        except ValueError:
            args[name] = _PYTHON.get(value, value)
    return args


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
