"""Where steering acts: on texts, or tokens, whose residuals pass a threshold.

Knows vectors, SAEs and residuals; knows nothing of rows or when they are written.
"""

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from ..errors import InputError
from ..models.engine import Engine
from ..models.hooks import HookPoint
from ..models.tokenizer import Tokens
from ..saes.load import BUNDLED, load_sae, open_saes
from ..saes.sae import SparseAutoencoder
from . import detector
from .vector import SteeringVector

Each = Literal["prompt", "token"]
EACH = get_args(Each)
Reader = Callable[[Tensor], Tensor]  # residuals [..., d_model] float32 to numbers [...]


@dataclass(frozen=True, eq=False)
class Gate:
    """Steering acts where the sum of what is read at hook points is above, or below, a threshold.

    Source: Lee et al. 2024, "Programming refusal with conditional activation steering" (CAST, arXiv
    2409.05907), with thresholds in the unit of the vector's own sides.
    """

    name: str  # as it was asked for
    readers: Mapping[HookPoint, Reader]
    threshold: float
    is_above: bool
    of_text: Literal["mean", "max"]  # of the numbers of its tokens

    def is_open(self, numbers: Tensor) -> Tensor:
        """Whether steering acts, bool, shaped as the numbers."""
        return numbers > self.threshold if self.is_above else numbers < self.threshold

    def prompts(self, engine: Engine, prompts: Sequence[list[int]]) -> Iterator[tuple[int, float]]:
        """(number of the prompt, what is read of it), unsteered, in any order; `prompts` are token ids."""
        texts = [Tokens(ids, _counted(engine, ids)) for ids in prompts]
        for batch in engine.residuals(texts, list(self.readers)):
            numbers = torch.stack([read(batch.resid[point]) for point, read in self.readers.items()]).sum(0)
            for row, text in enumerate(batch.texts):
                own = numbers[batch.text_index == row]
                yield text, float(own.mean() if self.of_text == "mean" else own.max())


def _counted(engine: Engine, ids: list[int]) -> list[bool]:
    """The tokens of a prompt that are read: as in a fit, but of a prompt of one token that one."""
    counts = [place > 0 and token not in engine.special_ids for place, token in enumerate(ids)]
    return counts if any(counts) else [True] * len(ids)


def open_gate(text: str, engine: Engine, sae: str = BUNDLED) -> Gate:
    """The gate that a text such as `polite.st<0` or `20/1234>0.5` asks for.

    A vector's threshold counts in the spread within a side, from the middle of the two sides it was fitted
    on; a latent's, which is named by its block and number, in its activation.

    Raises:
        InputError: it cannot be read, or the vector knows nothing of its sides.
    """
    match = re.fullmatch(r"(.+?)\s*([<>])\s*([^<>]+)", text.strip())
    try:
        what, sign, number = match.groups() if match else ("", "", "")
        level = float(number)
    except ValueError:
        level = math.nan
    if not math.isfinite(level):
        raise InputError(
            f"--when {text!r:.80}: write a vector or a latent, < or >, and a number: 'polite.st<0', "
            "'20/1234>0.5'"
        )
    if (latent := re.fullmatch(r"([0-9]{1,6})/([0-9]{1,9})", what)) and not os.path.exists(what):
        return _of_latent(text, int(latent[1]), int(latent[2]), level, sign == ">", engine, sae)
    vector = SteeringVector.load(Path(what))
    vector.check_fits(engine.shape, engine.model_id, what)
    return of_vector(text, vector, level, is_above=sign == ">")


def of_vector(name: str, vector: SteeringVector, z: float, *, is_above: bool) -> Gate:
    """The gate at a score of a vector's own detector."""
    known = detector.known_detector(vector, f"--when {name}")

    def reader(push: Tensor) -> Reader:
        return lambda resid: resid @ push.to(resid)

    readers = {point: reader(push) for point, push in vector.pushes.items()}
    return Gate(name, readers, detector.threshold(known, z), is_above, "mean")


def _of_latent(
    name: str, layer: int, latent: int, level: float, is_above: bool, engine: Engine, sae: str
) -> Gate:
    found = load_sae(sae, model_id=engine.model_id, layer=layer)
    if latent >= found.d_sae:
        raise InputError(
            f"--when {name}: the SAE at {found.hook_point} has {found.d_sae} latents, 0 to {found.d_sae - 1}"
        )
    (opened,) = open_saes({found.hook_point: found}, engine).values()
    return Gate(name, {found.hook_point: _activation(opened, latent)}, level, is_above, "max")


def _activation(sae: SparseAutoencoder, latent: int) -> Reader:
    def read(resid: Tensor) -> Tensor:
        flat = resid.reshape(-1, resid.shape[-1])  # [n, d_model]
        return (sae.encode(flat)[:, latent, None] * sae.raw_scale(flat)).reshape(resid.shape[:-1])

    return read
