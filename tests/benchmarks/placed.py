"""The difference of means, better placed: over blocks, each given earlier ones' pushes; or early in a text.

`local_means` are differences of class means, block by block, each measured while the pushes of the blocks
before it are added: what these have done already is not pushed again (in the way of Linear-AcT, arXiv
2410.23054, with shifts alone). `front_loaded` lets a dose start high and fall to a floor.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor

from neurosteer_cli.generation.batching.rows import Rows
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint, add
from neurosteer_cli.models.tokenizer import Tokens
from neurosteer_cli.vectors.fitting.statistics import text_means

LAYERS = (8, 11, 14, 17, 20, 23, 26)
N_TEXTS = 100  # a side
FALLS_OVER = 6.0  # tokens after which what exceeds the floor is 1/e of what it was
EXCESS = 1.0  # at the start, in floors
EVEN_OVER = 30  # written tokens over which the mean strength is 1

Pushes = dict[HookPoint, Tensor]  # [d_model] float32, raw residual units


def mean_residuals(
    engine: Engine, texts: Sequence[Tokens], points: Sequence[HookPoint], pushes: Mapping[HookPoint, Tensor]
) -> dict[HookPoint, Tensor]:
    """Each text's mean residual at hook points, [n_texts, d_model], while pushes are added."""
    found = {point: torch.zeros(len(texts), engine.d_model) for point in points}
    with add(engine.blocks, pushes):
        for batch in engine.residuals(texts, points):
            for point, resid in batch.resid.items():
                found[point][torch.tensor(batch.texts)] = text_means(
                    resid, batch.text_index, len(batch.texts)
                )
    return found


def local_means(
    engine: Engine, positive: Sequence[Tokens], negative: Sequence[Tokens], layers: Sequence[int] = LAYERS
) -> Pushes:
    """What is left of the difference of class means at each block, as earlier pushes leave it.

    It is taken from the negative texts pushed up and from the positive ones pushed down, half from each.
    """
    points = [HookPoint(layer) for layer in layers]
    sides = [texts[:N_TEXTS] for texts in (positive, negative)]
    unsteered = [mean_residuals(engine, texts, points, {}) for texts in sides]
    pushes: Pushes = {}
    for point in points:
        down, up = (
            mean_residuals(engine, texts, [point], {at: sign * push for at, push in pushes.items()})[point]
            for texts, sign in zip(sides, (-1, 1), strict=True)
        )
        above, below = (means[point].mean(0) for means in unsteered)
        pushes[point] = ((above - up.mean(0)) + (down.mean(0) - below)) / 2
    return pushes


def strength(written: int) -> float:
    """That of a token when so many are written, in a text of EVEN_OVER tokens 1 on average."""
    mean = 1 + EXCESS * sum(math.exp(-n / FALLS_OVER) for n in range(EVEN_OVER)) / EVEN_OVER
    return (1 + EXCESS * math.exp(-written / FALLS_OVER)) / mean


@contextmanager
def front_loaded() -> Iterator[None]:
    """Let pushes fade as a text grows; the prompt is pushed as strongly as its first token."""

    def strengths(rows: Rows, mask: Tensor, _n_read: int) -> Tensor:
        of_rows = torch.tensor([strength(len(each.written)) for each in rows.continuations])
        return mask * of_rows[:, None].to(mask.device)

    with patch.object(Rows, "_strengths", strengths):
        yield
