"""A GGUF model as a checkpoint folder: dequantised to bfloat16 safetensors, once.

Knows transformers' reader of GGUF, what it leaves out and how to hurry it; nothing of where files come from.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ModelError, one_line
from .quiet import quiet_transformers
from .rope import set_rope
from .shards import opened, shards_of
from .wheels import cache_folder, content_key, made_once

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFReader

CONVERSION = 3  # counts what is made differently here: what an older one made is made anew
SECONDS_BETWEEN_SIGNS = 10.0
DEQUANTISED_AT_ONCE = 2**24  # numbers: the arithmetic needs several times their memory
ENDS = [f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom")]
# Tensors that transformers' reader leaves out, and that say nothing or are read here.
_READ_HERE = ("rope_freqs", "rope_factors_long", "rope_factors_short", "attn_rot_embd")

Say = Callable[[str], None]


def converted(path: Path, say: Say) -> Path:
    """The checkpoint folder of a GGUF file and its shards, made once per content (path, size and time)."""
    shards = shards_of(path)

    def make(place: Path) -> Path:
        gigabytes = sum(map(os.path.getsize, shards)) / 1e9
        say(f"converting {shards[0].name} ({gigabytes:.2f} GB) to bfloat16 safetensors (once)")
        convert(shards, place / "model", say)
        return place / "model"

    return made_once(cache_folder() / f"{shards[0].stem}-{content_key(shards, str(CONVERSION))}", make)


def convert(shards: Sequence[Path], folder: Path, say: Say) -> None:
    """Dequantise a GGUF model to a bfloat16 safetensors checkpoint.

    Raises:
        ModelError: it is damaged, no model, incomplete, or holds tensors that would be left out.
    """
    import torch
    from safetensors import SafetensorError

    path, reader = shards[0], opened(shards)
    try:
        with _reading(reader, path.name, say):
            model, tokenizer, missing = _read(path)
    except Exception as error:  # the reader raises whatever the file's damage leads to
        raise ModelError(f"{path}: cannot be read as a GGUF model ({one_line(error)})") from error
    _check_whole(path, reader, model, missing)
    set_rope(path, reader, model.config)
    # The weights are plain tensors now; without this transformers refuses to save a "quantized" model.
    model.hf_quantizer = None
    model.config.__dict__.pop("quantization_config", None)
    model.config.dtype = torch.bfloat16
    model.generation_config.eos_token_id = _ends(reader, model, tokenizer) or None
    try:
        with quiet_transformers():
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    except SafetensorError as error:  # its own word for a full disk
        raise OSError(str(error)) from error


def _read(path: Path) -> tuple[Any, Any, list[str]]:
    """A file's model, its tokenizer, and which of the model's weights the file does not have."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        **source,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
        output_loading_info=True,
    )
    model, info = loaded
    return model, AutoTokenizer.from_pretrained(**source), sorted(info["missing_keys"])


@contextmanager
def _reading(reader: "GGUFReader", name: str, say: Say) -> Iterator[None]:
    """Have transformers take what has been read, all shards of it, and dequantise in bounded memory.

    It opens a file three times by itself, each time through all of its vocabulary, and knows no shards.
    """
    import gguf

    plain = gguf.GGUFReader, gguf.dequantize
    done, total, said = 0, sum(tensor.n_elements for tensor in reader.tensors), time.monotonic()

    def dequantize(data: Any, kind: Any) -> "np.ndarray[Any, Any]":
        nonlocal done, said
        if time.monotonic() - said > SECONDS_BETWEEN_SIGNS:
            said = time.monotonic()
            say(f"converting {name}: {done / total:.0%}")
        numbers = _dequantised(data, kind)
        done += numbers.size
        return numbers

    try:
        gguf.GGUFReader = lambda _path: reader  # type: ignore[assignment, misc]
        gguf.dequantize = dequantize  # type: ignore[assignment]
        # its bar knows no switch
        with quiet_transformers(), open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
            yield
    finally:
        gguf.GGUFReader, gguf.dequantize = plain  # type: ignore[misc]


def _dequantised(data: Any, kind: Any) -> "np.ndarray[Any, Any]":
    """gguf's dequantize, some rows at a time."""
    import numpy as np
    from gguf.quants import dequantize

    rows = data.reshape(-1, data.shape[-1])
    step = max(1, DEQUANTISED_AT_ONCE // (2 * data.shape[-1]))
    first = dequantize(rows[:step], kind)
    if len(rows) <= step:
        return first.reshape(*data.shape[:-1], -1)
    numbers = np.empty((len(rows), first.shape[-1]), dtype=first.dtype)
    numbers[:step] = first
    for start in range(step, len(rows), step):
        numbers[start : start + step] = dequantize(rows[start : start + step], kind)
    return numbers.reshape(*data.shape[:-1], -1)


def _check_whole(path: Path, reader: "GGUFReader", model: Any, missing: Sequence[str]) -> None:
    """Every weight of the model must be in the file, and every tensor of the file in the model."""
    wanted, held = _names_wanted(reader, model), {tensor.name for tensor in reader.tensors}
    stems = {_stem(name) for name in held}
    # halves of experts' joint weights, which transformers leaves at zero
    halves = sorted(name for name in wanted if "_exps" in name and _stem(name) not in stems)
    if lacking := [*missing, *halves]:
        raise ModelError(
            f"{path}: incomplete: {len(lacking)} tensors are missing, first {lacking[0]}; "
            "fetch the whole model again"
        )
    left = [name for name in held if name not in wanted and _stem(name) not in wanted]
    if left := sorted(name for name in left if not _stem(name).endswith(_READ_HERE)):
        raise ModelError(
            f"{path}: transformers' reader of GGUF leaves out {len(left)} of its tensors, first {left[0]}: "
            "give the model's own folder or Hub id"
        )


def _names_wanted(reader: "GGUFReader", model: Any) -> set[str]:
    """The tensors that transformers' reader looks for; those of experts without their .weight."""
    from transformers import modeling_gguf_pytorch_utils

    untyped: Any = modeling_gguf_pytorch_utils
    kind = untyped.TENSOR_PROCESSORS.get(_architecture(reader), untyped.TensorProcessor)
    try:
        return set(untyped.get_gguf_hf_weights_map(model, kind(config=model.config.to_dict())))
    except NotImplementedError:  # of families that are read in another way, which leaves nothing out
        return {tensor.name for tensor in reader.tensors}


def _architecture(reader: "GGUFReader") -> str:
    return str(reader.fields["general.architecture"].contents())


def _stem(name: str) -> str:
    return name.removesuffix(".weight").removesuffix(".bias")


def _ends(reader: "GGUFReader", model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end a text: those the file names, or, of a turn, that its chat template writes."""
    declared = model.generation_config.eos_token_id
    ends = list(declared) if isinstance(declared, list) else [declared]
    ends += [field.contents() for name in ENDS if (field := reader.fields.get(name))]
    if ENDS[1] not in reader.fields:
        ends.append(_turn_end(tokenizer))
    return list(dict.fromkeys(end for end in ends if end is not None))


def _turn_end(tokenizer: Any) -> int | None:
    """The special token that a chat template puts after an answer, if it puts one."""
    answer = "\ue000"
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": answer}]
    try:
        after = tokenizer.apply_chat_template(chat, tokenize=False).rpartition(answer)[2]
        token: int = tokenizer(after, add_special_tokens=False)["input_ids"][0]
    except Exception:  # no template, one that refuses such a chat, or that writes nothing after an answer
        return None
    added = tokenizer.added_tokens_decoder.get(token)
    return token if added and added.special else None
