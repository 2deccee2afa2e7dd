"""An adapter folder, as PEFT saves it, merged onto the model that it was trained on, once.

Knows PEFT's files; knows nothing of how a model's name is resolved.
"""

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import ModelError, NeurosteerError, one_line
from .quiet import quiet_transformers
from .wheels import cache_folder, content_key, made_once

ADAPTER = "adapter_config.json"

Say = Callable[[str], None]


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, and no model of its own beside it."""
    others = (path for path in folder.glob("*.safetensors") if not path.name.startswith("adapter_"))
    return (folder / ADAPTER).is_file() and not any(others)


def merged(folder: Path, find: Callable[[str, Say], Path], say: Say) -> Path:
    """The checkpoint folder of an adapter's base with the adapter in it, made once per content.

    Args:
        folder: the adapter's.
        find: from the base's name to its checkpoint folder.
        say: told what takes long, before it is begun.

    Raises:
        ModelError: PEFT is not installed, the base cannot be found, or the two cannot be merged.
    """
    name = _base_name(folder)
    if importlib.util.find_spec("peft") is None:
        raise ModelError(
            f"{folder}: an adapter of {name}, no model of its own; run: pip install 'neurosteer[peft]', or "
            "merge it with PEFT's merge_and_unload() and save what comes of it"
        )
    try:
        base = find(name, say)
    except NeurosteerError as error:
        raise ModelError(f"{folder}: an adapter of {name}, which cannot be found: {error}") from error

    def make(place: Path) -> Path:
        say(f"merging the adapter {folder.name} onto {name} (once)")
        try:
            with quiet_transformers():
                _merge(folder, base, place / "model")
        except OSError:
            raise
        except Exception as error:  # whatever PEFT's many methods lead to
            raise ModelError(f"{folder}: cannot be merged onto {name} ({one_line(error)})") from error
        return place / "model"

    files = sorted(path for place in (folder, base) for path in place.iterdir() if path.is_file())
    return made_once(cache_folder() / f"{folder.resolve().name}-{content_key(files)}", make)


def _base_name(folder: Path) -> str:
    try:
        name = json.loads((folder / ADAPTER).read_text())["base_model_name_or_path"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ModelError(f"{folder}: {ADAPTER} names no base model") from error
    if not isinstance(name, str) or not name:
        raise ModelError(f"{folder}: {ADAPTER} names no base model")
    return name


def _merge(folder: Path, base: Path, place: Path) -> None:
    """Write the base with the adapter in it, and the tokenizer of the adapter or else of the base."""
    import transformers
    from peft import PeftModel

    from ..architectures.families import model_class

    model: Any = model_class(transformers.AutoConfig.from_pretrained(base))[0].from_pretrained(
        base, dtype="auto"
    )
    PeftModel.from_pretrained(model, str(folder)).merge_and_unload().save_pretrained(place)
    source = folder if (folder / "tokenizer.json").is_file() else base
    for pattern in ("*token*", "*.jinja", "*.txt", "merges*", "vocab*"):
        for path in source.glob(pattern):
            if path.suffix != ".safetensors":
                shutil.copyfile(path, place / path.name)
