"""Where steering acts: on texts, or tokens, whose residuals pass a threshold.

Knows vectors, SAEs and residuals; knows nothing of rows or when they are written.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ..errors import InputError
from ..models.engine import Engine
from ..models.hooks import HookPoint
from ..models.tokenizer import Tokens
from ..saes.load import BUNDLED, family_of, load_sae, open_saes
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
    readers: Mapping[HookPoint, Reader]  # of numbers in the unit of the threshold
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


def _of_file(path: str) -> SteeringVector:
    return SteeringVector.load(Path(path))


def open_gate(
    text: str,
    engine: Engine,
    *,
    vector_of: Callable[[str], SteeringVector] = _of_file,
    sae_of: Callable[[int], SparseAutoencoder] | None = None,
) -> Gate:
    """The gate that a text such as `polite.st<0` or `20/1234>0.5` asks for.

    A vector's threshold counts in the spread within a side, from the middle of the two sides it was fitted
    on; a latent's, which is named by its block and number, in its activation.

    Args:
        text: a vector or a latent, < or >, and the threshold.
        engine: the model whose residuals are read.
        vector_of: finds a vector by its name; as it stands, in the file of that name.
        sae_of: finds the SAE of a block; as it stands, the bundled one.

    Raises:
        InputError: it cannot be read, or the vector knows nothing of its sides.
    """
    asked = _parsed(text)
    if asked.latent:
        layer, latent = asked.latent
        sae = (sae_of or partial(bundled_sae, engine))(layer)
        return _of_latent(text, sae, latent, asked.threshold, is_above=asked.is_above)
    vector = vector_of(asked.what)
    vector.check_fits(engine.shape, engine.model_id, asked.what)
    return of_vector(text, vector, asked.threshold, is_above=asked.is_above)


def check_gate(text: str) -> None:
    """Find out before a model is loaded what is wrong with a gate, as `open_gate` does."""
    asked = _parsed(text)
    if not asked.latent:
        detector.known_detector(_of_file(asked.what), f"gate {text}")


class _Asked(NamedTuple):
    what: str
    is_above: bool
    threshold: float
    latent: tuple[int, int] | None  # block and number, if it is one


def _parsed(text: str) -> _Asked:
    match = re.fullmatch(r"(.+?)\s*([<>])\s*([^<>]+)", text.strip())
    try:
        what, sign, number = match.groups() if match else ("", "", "")
        level = float(number)
    except ValueError:
        level = math.nan
    if not math.isfinite(level):
        raise InputError(
            f"gate {text!r:.80}: write a vector or a latent, < or >, and a number: 'polite.st<0', "
            "'20/1234>0.5'"
        )
    latent = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,9})", what)
    return _Asked(what, sign == ">", level, (int(latent[1]), int(latent[2])) if latent else None)


def of_vector(name: str, vector: SteeringVector, z: float, *, is_above: bool) -> Gate:
    """The gate at a score of a vector's own detector."""
    known, first = detector.known_detector(vector, f"gate {name}"), next(iter(vector.pushes), None)

    def reader(push: Tensor, zero: float) -> Reader:
        return lambda resid: resid @ push.to(resid) - zero

    readers = {
        point: reader(push / known.spread, known.middle / known.spread if point == first else 0.0)
        for point, push in vector.pushes.items()
    }
    return Gate(name, readers, z, is_above, "mean")


def bundled_sae(engine: Engine, layer: int) -> SparseAutoencoder:
    """The SAE of a block that comes along for a model, on it."""
    if layer not in (known := family_of(BUNDLED, model_id=engine.model_id)):
        there = ", ".join(map(str, known)) or "none"
        raise InputError(
            f"gate: no SAE of block {layer} comes along for {engine.model_id!r} (blocks: {there}); name a "
            "latent of another block, or a vector"
        )
    return opened(engine, load_sae(BUNDLED, model_id=engine.model_id, layer=layer))


def opened(engine: Engine, sae: SparseAutoencoder) -> SparseAutoencoder:
    """An SAE on a model."""
    (found,) = open_saes({sae.hook_point: sae}, engine).values()
    return found


def _of_latent(name: str, sae: SparseAutoencoder, latent: int, level: float, *, is_above: bool) -> Gate:
    if latent >= sae.d_sae:
        raise InputError(
            f"gate {name}: the SAE at {sae.hook_point} has {sae.d_sae} latents, 0 to {sae.d_sae - 1}"
        )
    return Gate(name, {sae.hook_point: _activation(sae, latent)}, level, is_above, "max")


def _activation(sae: SparseAutoencoder, latent: int) -> Reader:
    def read(resid: Tensor) -> Tensor:
        flat = resid.reshape(-1, resid.shape[-1])  # [n, d_model]
        return (sae.encode(flat)[:, latent, None] * sae.raw_scale(flat)).reshape(resid.shape[:-1])

    return read
