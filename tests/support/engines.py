"""Engines of tiny models on the CPU, in float32, and what tests ask of them."""

from pathlib import Path
from typing import Any

from torch import Tensor

from neurosteer_cli.data.records import Passage
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.models.tokenizer import Tokens

TEXTS = ["a", "to be", "or not to be, that is the question", "x" * 40, "whether 'tis nobler", "yes"]


def load(folder: Path, **options: Any) -> Engine:
    return Engine.load(str(folder), **{"device": "cpu", "dtype": "float32", **options})


def passage(text: str, **context: Any) -> Passage:
    return Passage("texts.jsonl:1", text, **context)


def by_text(
    engine: Engine, texts: list[Tokens], points: list[HookPoint], tokens_per_batch: int | None = None
) -> dict[int, dict[HookPoint, Tensor]]:
    """Each text's residuals [n_counted, d_model], whatever batch they came in."""
    found = {}
    for batch in engine.residuals(texts, points, tokens_per_batch):
        for line, text in enumerate(batch.texts):
            mine = batch.text_index == line
            found[text] = {point: resid[mine] for point, resid in batch.resid.items()}
    return found
