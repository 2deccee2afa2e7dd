"""Where in a model numbers stop being finite, and what to do about it.

Knows modules and number types; knows nothing of what the numbers were wanted for.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError
from .hooks import RESID_PRE, HookPoint, capture


@torch.inference_mode()
def not_finite(name: str, model: Any, blocks: nn.ModuleList, ids: Tensor) -> ModelError:
    """What to say where a pass over tokens [batch, pos], pads -1, gave numbers that are not finite.

    They are run again, unsteered, to see where it begins.
    """
    points = [HookPoint(0, RESID_PRE), *(HookPoint(layer) for layer in range(len(blocks)))]
    with capture(blocks, points) as seen:
        model(input_ids=ids.clamp_min(0), use_cache=False)
    first = next((point for point in points if not bool(seen[point][ids >= 0].isfinite().all())), None)
    dtype = next(model.parameters()).dtype
    number_type = str(dtype).removeprefix("torch.")
    if first is None:
        return ModelError(
            f"{name}: steered so strongly its numbers are not finite in {number_type}: choose a smaller alpha"
        )
    where = "the embedding" if first.kind == RESID_PRE else f"block {first.layer}"
    if dtype == torch.float16:
        advice = "they are too large for float16; pass --dtype float32 or bfloat16"
    else:
        advice = "its weights are damaged; fetch the model again"
    return ModelError(f"{name}: from {where} on its numbers are not finite in {number_type}: {advice}")
