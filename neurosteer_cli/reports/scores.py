"""The page of texts that a vector has scored, each token coloured by the side it speaks for.

Knows scores and how a reader sees them; knows nothing of how they are made.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from ..evaluation.measures.metrics import Estimate
from .drawing import COLOURS, Panel, figure_of, guide, inline_svg
from .render import render

N_SHOWN = 200  # texts
FULL_COLOUR = 0.95  # the share of tokens that are less deeply coloured than the deepest
HEIGHT, N_BINS = 2.4, 30


@dataclass(frozen=True)
class ScoredText:
    """A text of the page. Scores count in the spread within a side, from the middle of the two sides."""

    where: str
    label: str | None
    score: float | None  # None of a text without tokens that count
    probability: float | None  # of the first side
    tokens: Sequence[tuple[str, float | None]]  # text and score of each; None of those that do not count


@dataclass(frozen=True)
class ScoredTexts:
    """What a vector says of texts."""

    title: str
    first: str  # the side that scores above 0 speak for
    second: str
    texts: Sequence[ScoredText]  # the first of them
    n: int  # of them all
    scores: Mapping[str, Sequence[float]]  # by side of the labels; all under one name without labels
    auroc: Estimate | None  # of the first side's labels against the others, where there are labels
    provenance: Mapping[str, Any]  # JSON-able


def scores_page(found: ScoredTexts, command: str) -> str:
    """The page of `neurosteer score --report`: how scores are spread, then texts with coloured tokens."""
    panel = Panel("Texts by score", HEIGHT, partial(_histogram, found.scores))
    return render(
        "scores",
        page=found,
        command=command,
        chart=Markup(inline_svg(figure_of(panel, 1), "scores")),
        colours=dict(zip(found.scores, range(1, len(found.scores) + 1), strict=True)),
        deepest=_deepest(found.texts),
    )


def _deepest(texts: Sequence[ScoredText]) -> float:
    """The score of a token from which its colour is no deeper."""
    sizes = [abs(score) for text in texts for _, score in text.tokens if score is not None]
    return float(np.quantile(sizes, FULL_COLOUR)) if sizes else 1.0


def _histogram(sides: Mapping[str, Sequence[float]], axes: Axes) -> None:
    every = [score for scores in sides.values() for score in scores]
    edges = np.histogram_bin_edges(every, N_BINS).tolist() if every else [-1.0, 1.0]
    for (name, scores), colour in zip(sides.items(), COLOURS, strict=False):
        axes.hist(scores, edges, color=colour, alpha=0.45, label=name)
        axes.hist(scores, edges, histtype="step", color=colour, linewidth=1.4)
    axes.set(xlabel="score", ylabel="texts")
    guide(axes, "x", 0, "the middle")
