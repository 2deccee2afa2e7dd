"""Load a checkpoint folder, or only the part of it that is needed.

Knows transformers' configurations and weights, devices and number types; not what a model is for.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers.quantizers.auto import AutoHfQuantizer

from ..errors import InputError, ModelError, one_line
from .architectures.cpu import suit_cpu
from .architectures.decoder import reduce_to, writer
from .architectures.families import check_steered, model_class
from .checkpoints.quiet import quiet_transformers
from .checkpoints.resolve import resolve
from .checkpoints.weights import damaged, stored_tensors
from .shape import ModelShape, shape_of

DEVICES = ("cpu", "cuda", "mps")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def read_config(folder: Path) -> Any:
    """A checkpoint's configuration; ModelError if it is of no known architecture, or of one not steered."""
    try:
        config = transformers.AutoConfig.from_pretrained(folder)
    except Exception as error:  # each architecture checks its fields in its own way
        raise ModelError(f"{folder}: cannot read its configuration ({one_line(error)})") from error
    check_steered(config, str(folder))
    return config


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
) -> tuple[Any, nn.ModuleList]:
    """Build the text part of a model with its first `n_blocks` blocks, and read only their tensors.

    Returns the model and those blocks.

    Raises:
        InputError: the model has fewer blocks.
        ModelError: its weights are damaged, incomplete, of another shape than its configuration says, or
            quantised in a way that cannot be read here.
    """
    n_layers = shape_of(config).n_layers
    if n_blocks > n_layers:
        raise InputError(f"block {n_blocks - 1}: the model has {n_layers} blocks, 0 to {n_layers - 1}")
    whole, config = model_class(config)
    found: list[nn.ModuleList] = []
    reduced = _reduced(whole, lambda model: found.append(reduce_to(model, n_blocks, head=head)))
    model = _read(folder, reduced, config, dtype, device)
    model.__class__ = whole
    blocks = found[0]
    model = writer(model, blocks)
    if device.type == "cpu" and dtype == torch.float32:
        suit_cpu(model, head)
    return model.eval().requires_grad_(False), blocks


def _reduced(whole: Any, reduce: Callable[[Any], None]) -> Any:
    """A model's class whose instances are without what is not needed as soon as they are made.

    So transformers finds, renames, joins and ties the tensors of what is left, as it does for the whole.
    """

    def make(self: Any, config: Any) -> None:
        whole.__init__(self, config)
        reduce(self)

    return type(whole.__name__, (whole,), {"__init__": make, "__module__": whole.__module__})


def _read(folder: Path, reduced: Any, config: Any, dtype: torch.dtype, device: torch.device) -> Any:
    tensors = stored_tensors(folder)
    try:
        with quiet_transformers():
            _check_quantisation(folder, config)
            model, info = reduced.from_pretrained(
                None,
                config=config,
                state_dict=tensors,
                dtype=dtype,
                device_map=None if device.type == "cpu" else {"": device},
                output_loading_info=True,
            )
    except ModelError:
        raise
    except (SafetensorError, OSError) as error:
        raise damaged(folder, error) from error
    except Exception as error:  # of transformers, and of the packages that read quantised weights
        raise ModelError(f"{folder}: {_why_not(config, error)}") from error
    if missing := sorted(info["missing_keys"]):
        raise ModelError(f"{folder}: {_missing(config, missing)}")
    return model


def _missing(config: Any, names: list[str]) -> str:
    """What to say of weights that a checkpoint has not."""
    where = f"its .safetensors files: {', '.join(names[:3])}"
    if method := _quantised(config):
        return f"its weights are quantised ({method}), which transformers cannot read; missing from {where}"
    return f"weights are missing from {where}"


def _check_quantisation(folder: Path, config: Any) -> None:
    """Refuse what transformers would pass over, and read as plain weights."""
    said = _quantisation(config)
    if said and not AutoHfQuantizer.supports_quant_method(said):  # type: ignore[no-untyped-call]
        method = _quantised(config)
        raise ModelError(f"{folder}: its weights are quantised ({method}), which transformers cannot read")


def _quantised(config: Any) -> str | None:
    """The method by which a checkpoint's weights are quantised, if they are."""
    if (said := _quantisation(config)) is None:
        return None
    return str(said.get("quant_method", "bitsandbytes"))  # which did not always write its name


def _quantisation(config: Any) -> dict[str, Any] | None:
    parts = config, config.get_text_config(decoder=True)
    return next(filter(None, (getattr(part, "quantization_config", None) for part in parts)), None)


def _why_not(config: Any, error: Exception) -> str:
    """Why a model cannot be built from its configuration and weights."""
    if method := _quantised(config):
        return f"its weights are quantised ({method}), and cannot be read here: {one_line(error)}"
    if "mismatch" in str(error):
        return "the shapes of its weights do not fit its config.json"
    return f"cannot be loaded ({one_line(error)})"
