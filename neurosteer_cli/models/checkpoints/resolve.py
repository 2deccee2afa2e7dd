"""From a model's name to a local checkpoint folder with config, tokenizer and safetensors weights.

Knows named models, the Hugging Face Hub and GGUF files; knows nothing of what a model is for.
"""

import os
from collections.abc import Callable
from pathlib import Path

from ...data.kinds import SAE, known_kind
from ...errors import ModelError
from .adapters import is_adapter, merged
from .gguf import converted
from .named import DEFAULT_MODEL, NAMED
from .shards import is_gguf, model_in

_HINT = f"give an existing folder, a .gguf file, a Hub id such as openai-community/gpt2, or {DEFAULT_MODEL!r}"
_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
_HUB_OTHERS = ["consolidated*", "*/*"]


def resolve(model: str, say: Callable[[str], None] = lambda _message: None) -> Path:
    """Find, or fetch and convert once, the checkpoint folder of a model.

    Args:
        model: `smollm2` or `gemma3-270m`, a local folder, a `.gguf` file or one of its shards, or a Hub id.
        say: told what takes long, before it is begun.
    """
    if model in NAMED:
        return NAMED[model].fetched(say)
    path = Path(model)
    if is_gguf(path) and not os.path.isdir(path):
        if not os.path.isfile(path):
            raise ModelError(f"{model}: no such file")
        return converted(path, say)
    if os.path.isdir(path):
        if not (path / "config.json").is_file() and (gguf := model_in(path)):
            return converted(gguf, say)
        return _model_folder(_checked_folder(path), say)
    if os.path.isfile(path):
        kind = known_kind(path)
        raise ModelError(f"{model}: {kind}. For a model {_HINT}" if kind else f"{model!r} is a file; {_HINT}")
    return _model_folder(_from_hub(model, say), say)


def _model_folder(folder: Path, say: Callable[[str], None]) -> Path:
    """The folder of a model, which an adapter becomes on its base."""
    return merged(folder, resolve, say) if is_adapter(folder) else folder


def model_id(model: str) -> str:
    """What a model is known by, from whichever folder it is named: a local path whole, else its name."""
    is_path = model not in NAMED and os.path.exists(model)
    return str(Path(model).resolve()) if is_path else model


def is_local(model: str) -> bool:
    """Whether `resolve` would find the model without a network."""
    if model in NAMED:
        return NAMED[model].folder.is_dir()
    try:
        return os.path.exists(model) or _hub_cached(model) is not None
    except ValueError:  # neither a path nor of the form a Hub id has
        return False


def _checked_folder(folder: Path) -> Path:
    """A folder that holds a model, or an adapter of one."""
    if is_adapter(folder):
        return folder
    if not (folder / "config.json").is_file():
        lacks = "no config.json; not a Hugging Face checkpoint folder"
    elif not any(folder.glob("*.safetensors")):
        lacks = (
            "no .safetensors weights (pickled ones are not read); "
            "save the model again with `model.save_pretrained(folder)`"
        )
    else:
        return folder
    raise ModelError(f"{folder}: {SAE if known_kind(folder) == SAE else lacks}")


def _hub_cached(model: str) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        return _checked_folder(Path(snapshot_download(model, local_files_only=True)))
    except (ModelError, OSError):  # the client's errors are OSErrors, but for a name that is no Hub id
        return None


def _from_hub(model: str, say: Callable[[str], None]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        if cached := _hub_cached(model):
            return cached
        say(f"fetching {model} from the Hugging Face Hub")
        folder = snapshot_download(model, allow_patterns=_HUB_FILES, ignore_patterns=_HUB_OTHERS)
    except HFValidationError as error:
        raise ModelError(f"{model!r}: no such folder, and not a Hub id; {_HINT}") from error
    except GatedRepoError as error:
        raise ModelError(
            f"{model!r} is gated: accept its terms on its page, then run `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(f"{model!r}: no such folder, and no such model on the Hub") from error
    except Exception as error:  # the client raises its own, httpx's and the system's errors
        raise ModelError(
            f"{model!r}: no such folder, and the Hub cannot be reached ({type(error).__name__}); "
            f"where there is a network, run: hf download {model}"
        ) from error
    return _checked_folder(Path(folder))
