"""A GGUF file as a checkpoint folder: dequantised to bfloat16 safetensors, once.

Knows transformers' reader of GGUF; knows nothing of where a file comes from.
"""

import hashlib
import os
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path

from ...errors import ModelError, one_line
from .quiet import quiet_transformers
from .wheels import cache_folder, made_once


def converted(gguf: Path, say: Callable[[str], None]) -> Path:
    """A GGUF file's checkpoint folder, made once per file content (told by path, size and time)."""

    def make(place: Path) -> Path:
        say(f"converting {gguf.name} to bfloat16 safetensors (once)")
        convert(gguf, place / "model")
        return place / "model"

    stat = gguf.stat()
    key = hashlib.sha256(f"{gguf.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}".encode()).hexdigest()
    return made_once(cache_folder() / f"{gguf.stem}-{key[:12]}", make)


def convert(gguf: Path, folder: Path) -> None:
    """Dequantise a GGUF file to a bfloat16 safetensors checkpoint."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    try:
        # the bar of the GGUF reader knows no switch
        with quiet_transformers(), open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
            model = AutoModelForCausalLM.from_pretrained(
                **source, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
            )
            tokenizer = AutoTokenizer.from_pretrained(**source)
    except Exception as error:  # the reader raises whatever the file's damage leads to
        raise ModelError(f"{gguf}: cannot be read as a GGUF model ({one_line(error)})") from error
    # The weights are plain tensors now; without this transformers refuses to save a "quantized" model.
    model.hf_quantizer = None  # type: ignore[assignment]
    model.config.__dict__.pop("quantization_config", None)
    model.config.dtype = torch.bfloat16
    try:
        with quiet_transformers():
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    except SafetensorError as error:  # its own word for a full disk
        raise OSError(str(error)) from error
