"""Panels of points over two axes, and pictures of them: each its own on a page, or all in one file.

Knows numbers and how a reader tells them apart; knows nothing of what they measure.
"""

import io
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FixedLocator,
    LogLocator,
    MaxNLocator,
    NullLocator,
    PercentFormatter,
    StrMethodFormatter,
)

from ..errors import InputError
from ..evaluation.measures.metrics import Estimate, known
from ..evaluation.runs.samples import PROMPTING, RANDOM, UNSTEERED
from ..files import replace_file
from .tables import Number
from .text import NO_BREAK

Look = dict[str, Any]  # how a series is told from the others, in matplotlib's words: never by colour alone
Which = Literal["x", "y"]

WIDTHS = {1: 4.9, 2: 4.9, 3: 3.9}  # inches, of a panel by how many stand side by side
FILE_WIDTH = 5.0
MAX_TICKS = 10
INK, FAINT, PAPER = "#1f2328", "#c9ced6", "#ffffff"
# Okabe & Ito's palette, which colour-blind people can tell apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
CURVES: list[Look] = [{"color": c, "marker": marker} for c, marker in zip(COLOURS, "os^DvP", strict=True)]
BASELINES: dict[str, Look] = {
    RANDOM: {"color": "#7a7f87", "marker": "X", "linestyle": ":", "label": "random vector of equal norm"},
    PROMPTING: {"color": "#a6761d", "marker": "s", "linestyle": "-.", "label": "prompting"},
    UNSTEERED: {"color": "#4d5157", "marker": "o", "linestyle": "--", "label": "unsteered"},
}
# In a page a colour is a variable, so that the page can have a dark side.
_VARIABLES = {INK: "ink", FAINT: "faint", PAPER: "paper"}
_VARIABLES |= {colour: f"look-{number}" for number, colour in enumerate(COLOURS, 1)}
_VARIABLES |= {look["color"]: f"look-{name}" for name, look in BASELINES.items()}


@contextmanager
def style() -> Iterator[None]:
    """The same look and the same bytes whatever the person's own settings of matplotlib."""
    look = Path(__file__).with_name("templates") / "charts.mplstyle"
    with matplotlib.style.context(["default", str(look)], after_reset=True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the browser has it
        yield


class Panel(NamedTuple):
    """One chart of several that belong together."""

    title: str  # for a screen reader
    height: float  # inches
    paint: Callable[[Axes], None]


@style()
def figure_of(panel: Panel, columns: int) -> Figure:
    """A panel by itself, as wide as one of so many beside each other."""
    figure = Figure(figsize=(WIDTHS[columns], panel.height), layout="constrained")
    panel.paint(figure.subplots())
    figure.set_label(panel.title)
    return figure


@style()
def stacked(panels: Sequence[Panel], title: str) -> Figure:
    """All panels in one figure, one above the other, with one legend above them."""
    heights = [panel.height for panel in panels]
    figure = Figure(figsize=(FILE_WIDTH, sum(heights) + 0.5), layout="constrained")
    for panel, axes in zip(panels, figure.subplots(len(panels), 1, height_ratios=heights), strict=True):
        panel.paint(axes)
    figure.set_label(title)
    if len(series := series_of(figure.axes)) > 1:
        figure.legend(series.values(), series.keys(), loc="outside upper left", ncols=2)
    return figure


def series_of(several: Iterable[Axes]) -> dict[str, Any]:
    """What is drawn in some panels, by its label, each once; matplotlib's lines or containers of them."""
    handles: dict[str, Any] = {}
    for axes in several:
        lines, labels = axes.get_legend_handles_labels()
        handles |= {label: line for label, line in zip(labels, lines, strict=True) if label not in handles}
    return handles


@style()
def key(handle: Any, label: str) -> Figure:
    """A legend's picture of a series: a piece of its line with its marker."""
    line = handle[0] if isinstance(handle, tuple) else handle
    figure = Figure(figsize=(0.375, 0.15))
    figure.set_label(label)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(-1, 1), ylim=(-1, 1))
    axes.set_axis_off()
    names = ("color", "marker", "linestyle", "linewidth", "markeredgecolor", "markersize")
    look = {name: getattr(line, f"get_{name}")() for name in names}
    axes.plot([-1, 0, 1], [0, 0, 0], markevery=[1], **look)
    return figure


def draw(axes: Axes, points: Iterable[tuple[Number, Number]], look: Look, *, joined: bool = False) -> bool:
    """Draw points with their intervals, but those at infinity; False where there are no others."""
    both = [(known(x), known(y)) for x, y in points]
    ends = [((x.value, *x.ends), (y.value, *y.ends)) for x, y in both if x and y]
    finite = [point for point in ends if np.isfinite(point).all()]
    if finite:
        value, low, high = np.array(finite).T  # [x and y, n]
        reach = np.stack([value - low, high - value], axis=1).clip(0)  # [x and y, below and above, n]
        xerr, yerr = (sides if sides.any() else None for sides in reach)
        line = look if joined else look | {"linestyle": "none"}
        axes.errorbar(value[0], value[1], yerr, xerr, markeredgecolor=PAPER, elinewidth=1.1, **line)
    return bool(finite)


def draw_level(axes: Axes, level: Estimate, look: Look) -> None:
    """A level to compare with, across the panel."""
    axes.axhspan(*level.ends, color=look["color"], alpha=0.12, linewidth=0)
    axes.axhline(level.value, linewidth=1.2, **look | {"marker": ""})


def ticks_at(axes: Axes, values: Iterable[float]) -> None:
    """Ticks of the x axis where points are, or at every second or third; evenly spaced where they crowd."""
    places = sorted(set(values))
    shown = places[:: -(-len(places) // MAX_TICKS)]
    gaps = [b - a for a, b in pairwise(shown)]
    crowd = gaps and min(gaps) * 1.5 * MAX_TICKS < shown[-1] - shown[0]
    axes.xaxis.set_major_locator(MaxNLocator(MAX_TICKS, integer=True) if crowd else FixedLocator(shown))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def as_percent(axes: Axes, which: Which) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(PercentFormatter(1, symbol=f"{NO_BREAK}%"))


def as_cost(axes: Axes, which: Which, costs: Iterable[Number], limit: float | None) -> None:
    """Logarithmic where costs are far apart, with a line at what is affordable."""
    values = [cost.value for cost in map(known, costs) if cost and math.isfinite(cost.value)]
    if values and max(values) > 4 * min(values) > 0:
        axes.set(**{f"{which}scale": "log"})
        axis = axes.xaxis if which == "x" else axes.yaxis
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_locator(NullLocator())
    if limit is not None:
        guide(axes, which, limit, f"{limit:g}")


def guide(axes: Axes, which: Which, at: float, text: str, ha: str = "center") -> None:
    """A dotted line across the panel, and outside of it, clear of what is drawn, what it stands for."""
    line: Look = {"color": INK, "linestyle": (0, (2, 2)), "linewidth": 0.8}
    words: Look = {"textcoords": "offset points", "fontsize": 8}
    if which == "x":
        axes.axvline(at, **line)
        axes.annotate(text, (at, 1), (0, 3), ("data", "axes fraction"), ha=ha, **words)
    else:
        axes.axhline(at, **line)
        axes.annotate(text, (1, at), (4, 0), ("axes fraction", "data"), va="center", **words)


def name_beside(axes: Axes, points: Iterable[tuple[float, float, str]]) -> None:
    """Names of points at the right of the panel, in the order of their height and clear of one another."""
    bottom, top = axes.get_ylim()
    line: Look = {"arrowstyle": "-", "color": FAINT, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 3}
    least = 0.0
    for x, y, name in sorted(points, key=lambda point: point[1]):
        height = max(least, (y - bottom) / (top - bottom))
        least = height + 0.075
        place: Look = {"textcoords": "axes fraction", "va": "center", "fontsize": 8}
        axes.annotate(name, (x, y), (1.04, height), arrowprops=line, zorder=1, **place)


def inline_svg(figure: Figure, ident: str) -> str:
    """The chart as an `<svg>` element in a page's own colours; `ident` starts every id in it."""
    ids: dict[str, str] = {}

    def numbered(reference: re.Match[str]) -> str:  # hashes vary with the last bit of the layout
        return reference[1] + ids.setdefault(reference[2], f"{ident}-{len(ids)}")

    def adapted(tag: re.Match[str]) -> str:
        text = re.sub(r'(\bid="|"#|url\(#)([^")]+)', numbered, tag[0].replace("xlink:href", "href"))
        return re.sub(r"#[0-9a-f]{6}\b", lambda colour: f"var(--{_VARIABLES[colour[0]]})", text)

    drawing = re.sub("<[^>]+>", adapted, _picture(figure, "svg").decode())
    ((box, content),) = re.findall(
        r'(viewBox="[^"]+")[^>]*>\s*<defs>\s*<style.*?</defs>(.*)', drawing, re.DOTALL
    )
    title = f'<title id="{ident}-title">{escape(str(figure.get_label()))}</title>'
    return f'<svg {box} role="img" aria-labelledby="{ident}-title">{title}{content}'


def check_suffix(path: Path) -> None:
    """Refuse, before any work is done, a file that is neither a .png nor a .svg."""
    if path.suffix.lower() not in (".png", ".svg"):
        raise InputError(f"{path}: a plot is a .png or a .svg file; name one of the two")


def save(figure: Figure, path: Path) -> None:
    """Write the chart as one file, whole or not at all, in the format that its suffix names."""
    check_suffix(path)
    with replace_file(path) as temporary:
        temporary.write_bytes(_picture(figure, path.suffix.lower().removeprefix(".")))


@style()
def _picture(figure: Figure, kind: str) -> bytes:
    """The picture's bytes, which say nothing of when and by what it was made."""
    out = io.BytesIO()
    if kind == "svg":
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(out, format=kind, metadata=nothing, transparent=True)
    else:
        figure.savefig(out, format=kind, metadata={"Software": None}, facecolor=PAPER)
    return out.getvalue()
