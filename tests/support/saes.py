"""Random SAEs in the forms in which libraries save them, written with no library but torch."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from .tiny import D_MODEL

D_SAE, K = 48, 5


def random(*shape: int, seed: int = 14) -> Tensor:
    """Weights large enough to matter; no bias is zero, no row of unit length."""
    return 0.4 * torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


W_ENC, W_DEC = random(D_MODEL, D_SAE), random(D_SAE, D_MODEL, seed=15)
B_ENC, B_DEC = random(D_SAE), random(D_MODEL)
THRESHOLD = random(D_SAE, seed=16).abs() * 9


def hidden(resid: Tensor, *, subtracts: bool) -> Tensor:
    """Pre-activations, [n, d_sae]."""
    return (resid - B_DEC * subtracts) @ W_ENC + B_ENC


def top(pre: Tensor) -> Tensor:
    """The K largest of each row where they are positive, by sorting."""
    least = pre.sort(dim=-1, descending=True).values[:, K - 1 : K]
    return pre.relu() * (pre >= least)


def write(folder: Path, files: dict[str, Any]) -> Path:
    """Write JSON, safetensors or torch's files, by their endings."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".json":
            path.write_text(json.dumps(content))
        elif path.suffix == ".safetensors":
            save_file({key: tensor.contiguous() for key, tensor in content.items()}, path)
        else:
            torch.save(content, path)
    return folder
