"""neurosteer doctor: what there is on this machine, on one page to paste into a bug report."""

import os
import platform
import re
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any

import typer
from packaging.markers import Marker
from packaging.requirements import Requirement

from .. import __version__
from ..data.records import write_record
from ..errors import one_line
from .shared.options import Json

LIBRARIES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "sae-lens",
    "numpy",
    "typer",
    "rich",
    "gguf",
)
VARIABLES = re.compile(
    "NEUROSTEER_|HF_|HUGGING|TRANSFORMERS_|CUDA_VISIBLE|OMP_|MKL_|TOKENIZERS_|XDG_CACHE|TMPDIR"
)
SECRET = re.compile("TOKEN|KEY|SECRET|PASSWORD")

Page = dict[str, str | list[str]]


def doctor(*, json: Json = False) -> None:
    """Show what neurosteer finds on this machine: versions, device, cache, models, SAEs, extras.

    Nothing is fetched. Paste the page into a bug report; keys and tokens are left out of it.

    Example: neurosteer doctor
    """
    page = _page()
    if json:
        write_record(page)
        return
    for name, found in page.items():
        lines = [found] if isinstance(found, str) else found or ["none"]
        typer.echo(_without_home(f"{name}: " + ("\n" + " " * (len(name) + 2)).join(lines)))


def _page() -> Page:
    python = f"{platform.python_version()} ({platform.python_implementation()}), {sys.executable}"
    return {
        "neurosteer": f"{__version__}, {Path(__file__).parents[1]}",
        "python": python,
        "machine": _found(lambda: _machine().processor()),
        "libraries": [f"{name} {_version(name) or 'is missing'}" for name in LIBRARIES],
        "accelerators": _found(lambda: _machine().devices()),
        "--device auto, --dtype auto": _found(lambda: _machine().choices()),
        "cache": _found(lambda: _machine().cache()),
        "models at hand": _found(lambda: _machine().models_at_hand()),
        "SAEs at hand": _found(_saes),
        "extras": _extras(),
        "environment": _environment(),
    }


def _found(look: Callable[[], str | list[str]]) -> str | list[str]:
    """What is found; of what is broken, how: that is what the page is for."""
    try:
        return look()
    except Exception as error:
        return f"cannot be told: {type(error).__name__}: {one_line(error)}"


def _machine() -> Any:
    from ..models import machine  # it loads torch

    return machine


def _saes() -> list[str]:
    found = sorted((Path(__file__).parents[1] / "saes" / "bundled").glob("*/*/cfg.json"))
    return [f"bundled for {path.parents[1].name}: {path.parent.name}" for path in found]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _extras() -> list[str]:
    """Each extra: ready, or what it lacks on this machine and how to get it."""
    needed = [Requirement(text) for text in requires("neurosteer") or []]
    names = metadata("neurosteer").get_all("Provides-Extra") or []
    return [_extra(name, needed) for name in sorted(names) if name != "test"]


def _extra(name: str, needed: Sequence[Requirement]) -> str:
    own = [each for each in needed if each.marker and _is_of(each.marker, name)]
    missing = [each.name for each in own if not _is_met(each)]
    lacks = f"lacks {', '.join(missing)}; pip install 'neurosteer[{name}]'"
    return f"{name}: {lacks if missing else 'ready'}"


def _is_met(requirement: Requirement) -> bool:
    found = _version(requirement.name)
    return found is not None and requirement.specifier.contains(found, prereleases=True)


def _is_of(marker: Marker, extra: str) -> bool:
    """Whether a requirement is of this extra, on this machine, and not of every installation."""
    return marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})


def _environment() -> list[str]:
    """The variables that change what is done; of secrets only that they are set."""
    names = sorted(name for name in os.environ if VARIABLES.match(name))
    return [f"{name}={'(set)' if SECRET.search(name) else os.environ[name]}" for name in names]


def _without_home(text: str) -> str:
    home = str(Path.home())
    return text.replace(home, "~") if len(home) > 1 else text
