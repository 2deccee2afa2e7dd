"""Load a checkpoint folder, or only the part of it that is needed.

Knows transformers' configurations and weights, devices and number types; not what a model is for.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..errors import InputError, ModelError, one_line
from .checkpoints.quiet import quiet_transformers
from .checkpoints.resolve import resolve
from .shape import ModelShape, shape_of

DEVICES = ("cpu", "cuda", "mps")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def read_config(folder: Path) -> Any:
    """A checkpoint's configuration; ModelError if it is of no known architecture."""
    try:
        return transformers.AutoConfig.from_pretrained(folder)
    except Exception as error:  # each architecture checks its fields in its own way
        raise ModelError(f"{folder}: cannot read its configuration ({one_line(error)})") from error


def model_shape(model: str, say: Callable[[str], None] = lambda _message: None) -> ModelShape:
    """A model's shape, by its configuration alone; ModelError as `resolve` and `read_config`."""
    return shape_of(read_config(resolve(model, say)))


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` is a GPU where there is one."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except Exception as error:  # torch raises RuntimeError, AssertionError, NotImplementedError
        raise InputError(f"--device {name}: not available here ({one_line(error)})") from error
    if device.type not in DEVICES:
        raise InputError(f"--device {name}: one of {', '.join(DEVICES)} is needed")
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The number type of that name; `auto` is what the device does fastest."""
    if name in DTYPES:
        return DTYPES[name]
    if name != "auto":
        raise InputError(f"--dtype {name}: not one of auto, {', '.join(DTYPES)}")
    fast = True
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        # Without these instructions bfloat16 is emulated, many times slower than float32.
        able = torch.cpu.get_capabilities()
        fast = any(able.get(instructions, False) for instructions in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.bfloat16 if fast else torch.float32


def load_weights(
    folder: Path, config: Any, n_blocks: int, *, head: bool, dtype: torch.dtype, device: torch.device
) -> Any:
    """Build the model with its first `n_blocks` blocks and read only their tensors."""
    n_layers = config.get_text_config().num_hidden_layers
    if n_blocks > n_layers:
        raise InputError(f"block {n_blocks - 1}: the model has {n_layers} blocks, 0 to {n_layers - 1}")
    _truncate(config, n_blocks)
    model_class = _model_class(folder, config, head)
    tensors = _read_tensors(folder, n_blocks, n_layers, dtype, device)
    try:
        with quiet_transformers():
            model, info = model_class.from_pretrained(
                None, config=config, state_dict=tensors, dtype=dtype, output_loading_info=True
            )
    except RuntimeError as error:  # shapes that do not match
        raise ModelError(f"{folder}: the shapes of its weights do not fit its config.json") from error
    del tensors
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"{folder}: weights are missing from its .safetensors files: {', '.join(missing[:3])}"
        )
    if device.type == "cpu" and dtype == torch.float32:
        _suit_cpu(model, head)
    return model.to(device).eval().requires_grad_(False)


def _model_class(folder: Path, config: Any, head: bool) -> Any:
    """The class of a model, with its output head or without."""
    if config.is_encoder_decoder:
        raise ModelError(f"{folder}: not a decoder-only language model ({config.model_type})")
    auto = transformers.AutoModelForCausalLM if head else transformers.AutoModel
    try:
        with torch.device("meta"):
            return type(auto.from_config(config))  # type: ignore[no-untyped-call]
    except (ValueError, KeyError, ImportError) as error:
        raise ModelError(f"{folder}: not a decoder-only language model ({one_line(error)})") from error


def _suit_cpu(model: Any, head: bool) -> None:
    """Make a float32 model quicker where it writes, and smaller where it only reads."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = _DecodingLinear
    embedding = model.get_input_embeddings()
    if head or type(embedding) is not nn.Embedding:  # Gemma's does more than look up: it scales
        return
    weight = embedding.weight.data
    if all(torch.equal(part, part.bfloat16().float()) for part in torch.split(weight, 4096)):
        embedding.weight.data = weight.bfloat16()
        embedding.__class__ = _NarrowEmbedding


class _DecodingLinear(nn.Linear):
    """A linear layer that is quick where a batch goes on by one token, on a CPU.

    There the product is taken as (W x^T)^T: with x W^T the library rearranges the large W at each
    call, and 8 rows take up to twice as long (measured with MKL on AVX2, float32).
    """

    FEW = 64

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 3 or x.shape[1] != 1 or not 1 < x.shape[0] <= self.FEW:
            return super().forward(x)
        y = (self.weight @ x[:, 0].T).T  # [batch, out_features]
        return (y if self.bias is None else y + self.bias)[:, None]


class _NarrowEmbedding(nn.Embedding):
    """A float32 embedding whose values are all bfloat16 ones, kept in half the memory."""

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids).float()


def _truncate(config: Any, n_blocks: int) -> None:
    """Make a configuration describe the first blocks only, its lists with an entry a layer included."""
    text = config.get_text_config()
    n_layers = text.num_hidden_layers
    for name, value in list(vars(text).items()):
        if isinstance(value, list) and len(value) == n_layers:
            setattr(text, name, value[:n_blocks])
    text.num_hidden_layers = n_blocks


def _read_tensors(
    folder: Path, n_blocks: int, n_layers: int, dtype: torch.dtype, device: torch.device
) -> dict[str, Tensor]:
    """Read a checkpoint without the blocks beyond `n_blocks`.

    A file is opened anew for each tensor that is converted: what has been read of a mapped file
    counts as memory until the file is closed.
    """
    tensors: dict[str, Tensor] = {}
    try:
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
            for name in names:
                layer = re.search(r"\.(\d+)\.", name)  # the first number in a name is its block
                if layer and n_blocks <= int(layer[1]) < n_layers:
                    continue
                with safe_open(path, framework="pt") as file:
                    tensor = file.get_tensor(name)
                    tensors[name] = tensor.to(device, dtype if tensor.is_floating_point() else None)
                    del tensor
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{folder}: damaged weights ({one_line(error)})") from error
    return tensors
