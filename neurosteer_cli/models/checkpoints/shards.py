"""Which GGUF files make up a model, and that they are all there: one, or the shards of llama.cpp's splitter.

Knows names and metadata of GGUF files; knows nothing of what becomes of their tensors.
"""

import os
import re
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ModelError, one_line

if TYPE_CHECKING:
    from gguf import GGUFReader

SUFFIX = ".gguf"
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.gguf)", re.IGNORECASE)
_COUNT = "split.count"
_NO_MODELS = {  # by general.architecture, or else by general.type
    "clip": "a projector of images or sound (mmproj), not a language model: give the model's own file",
    "mmproj": "a projector of images or sound (mmproj), not a language model: give the model's own file",
    "controlvector": "a control vector, not a model: `neurosteer import` makes a vector file of it",
    "adapter": "an adapter (LoRA), not a model: merge it first, with llama.cpp's llama-export-lora",
    "imatrix": "an importance matrix, not a model",
}


def is_gguf(path: str | Path) -> bool:
    """Whether a name is that of a GGUF file."""
    return Path(path).suffix.lower() == SUFFIX


def model_in(folder: Path) -> Path | None:
    """The one GGUF model in a folder, by its file or its first shard; None if there is none.

    Raises:
        ModelError: there are several.
    """
    files = [path for path in sorted(folder.iterdir()) if is_gguf(path) and "mmproj" not in path.name.lower()]
    models = sorted({_first_shard(path) for path in files})
    if len(models) > 1:
        named = ", ".join(path.name for path in models[:5])
        raise ModelError(f"{folder}: {len(models)} GGUF models ({named}); name one of them")
    return models[0] if models else None


def shards_of(path: Path) -> list[Path]:
    """The files of the model that a file belongs to, the first shard first, all of which are there.

    Raises:
        ModelError: one of them is not.
    """
    if not (match := _SHARD.fullmatch(path.name)):
        return [path]
    stem, _, count, suffix = match.groups()
    shards = [path.with_name(f"{stem}-{n:05}-of-{count}{suffix}") for n in range(1, int(count) + 1)]
    if missing := [shard.name for shard in shards if not os.path.isfile(shard)]:
        raise ModelError(
            f"{path}: one of {int(count)} shards, of which {len(missing)} are not beside it, "
            f"first {missing[0]}; fetch them all"
        )
    return shards


def _first_shard(path: Path) -> Path:
    match = _SHARD.fullmatch(path.name)
    return path.with_name(f"{match[1]}-00001-of-{match[3]}{match[4]}") if match else path


def opened(shards: Sequence[Path]) -> "GGUFReader":
    """A reader of a model's shards as if they were one file.

    Raises:
        ModelError: damaged, of another kind than a model, or not all shards of one.
    """
    first, *others = (_reader(path) for path in shards)
    _check_kind(first, shards[0])
    _check_count(first, shards)
    for number, (other, path) in enumerate(zip(others, shards[1:], strict=True), 1):
        if _value(other, "split.no") != number or _value(other, _COUNT) != len(shards):
            raise ModelError(f"{path}: not shard {number + 1} of {len(shards)}, as its name says")
        first.tensors.extend(other.tensors)
    if (expected := _value(first, "split.tensors.count")) not in (None, len(first.tensors)):
        raise ModelError(
            f"{shards[0]}: its shards hold {len(first.tensors)} tensors of {expected} (split.tensors.count); "
            "fetch them again"
        )
    return first


def _reader(path: Path) -> "GGUFReader":
    import gguf

    try:
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
            return gguf.GGUFReader(path)
    except Exception as error:  # the reader raises whatever the file's damage leads to
        raise ModelError(f"{path}: cannot be read as a GGUF model ({one_line(error)})") from error


def _check_kind(reader: "GGUFReader", path: Path) -> None:
    for name in ("general.architecture", "general.type"):
        if what := _NO_MODELS.get(str(_value(reader, name))):
            raise ModelError(f"{path}: {what}")
    if not reader.tensors and not (_value(reader, _COUNT) or 0) > 1:
        raise ModelError(f"{path}: holds no tensors, but at most a vocabulary")


def _check_count(first: "GGUFReader", shards: Sequence[Path]) -> None:
    count, number = _value(first, _COUNT) or 1, _value(first, "split.no") or 0
    if count != len(shards) or number:
        raise ModelError(
            f"{shards[0]}: shard {number + 1} of {count} ({_COUNT}); put all of them into one folder, named "
            f"as llama.cpp's splitter does: {shards[0].stem}-00001-of-{count:05}.gguf"
        )


def _value(reader: "GGUFReader", name: str) -> Any:
    field = reader.fields.get(name)
    return None if field is None else field.contents()
