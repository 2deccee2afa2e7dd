"""What a chart is made of: panels of points, curves, bands and guide lines over two axes.

Knows numbers and labels; knows nothing of what they measure or how they are drawn.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .tables import Estimate

# How a series or band is drawn; "1" to "6" are those of the data, in order.
LOOKS = ("1", "2", "3", "4", "5", "6", "random", "unsteered", "prompt")


class Point(NamedTuple):
    """A mark with an interval in either direction; an exact number shows none."""

    x: Estimate
    y: Estimate
    label: str = ""

    @property
    def finite(self) -> bool:
        return all(map(math.isfinite, (*self.x, *self.y)))


@dataclass(frozen=True)
class Series:
    """Points that belong together; `line` joins them in their order, without marks if `smooth`."""

    name: str
    look: str
    points: Sequence[Point]
    line: bool = False
    smooth: bool = False

    def drawable(self) -> list[Point]:
        """The points but for those at infinity, which only a table can show."""
        return [point for point in self.points if point.finite]


class Band(NamedTuple):
    """A level to compare with, across the panel."""

    name: str
    look: str
    at: Estimate


@dataclass(frozen=True)
class Axis:
    """One direction of a panel."""

    label: str
    percent: bool = False
    limits: tuple[float, float] | None = None
    log: bool = False
    whole: bool = False  # no ticks between whole numbers
    names: tuple[str, ...] = ()  # at 0, 1, ..., from above, in place of numbers
    ticks: tuple[float, ...] = ()
    bands: tuple[Band, ...] = ()
    guides: tuple[tuple[float, str], ...] = ()  # where, and what it says
    shade: tuple[float, float] | None = None  # the range that is allowed


@dataclass(frozen=True)
class Panel:
    """Series over two axes."""

    x: Axis
    y: Axis
    series: Sequence[Series]
    height: float = 1.9  # inches


@dataclass(frozen=True)
class Chart:
    """Panels one above the other; `title` is what a screen reader says."""

    title: str
    panels: Sequence[Panel]
    share_x: bool = True
