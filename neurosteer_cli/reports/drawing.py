"""Panels of points over two axes, and pictures of them, for a page or as files.

Knows numbers and how a reader tells them apart; knows nothing of what they measure.
"""

import io
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any, Literal

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, PercentFormatter, StrMethodFormatter

from ..errors import InputError
from ..evaluation.metrics import Estimate, known
from ..evaluation.samples import PROMPTING, RANDOM, UNSTEERED
from ..files import replace_file
from .tables import NO_BREAK, Number

Look = dict[str, Any]  # how a series is told from the others, in matplotlib's words: never by colour alone
Which = Literal["x", "y"]

WIDTH = 5.0  # inches
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


def figure_of(heights: Sequence[float], *, share_x: bool = True) -> tuple[Figure, list[Axes]]:
    """Panels of these heights, in inches, one above the other."""
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.5), layout="constrained")
    panels = figure.subplots(len(heights), 1, sharex=share_x, squeeze=False, height_ratios=heights)
    return figure, list(panels[:, 0])


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


def guide(axes: Axes, which: Which, at: float, text: str) -> None:
    """A dotted line across the panel, and at its end what it stands for."""
    line: Look = {"color": INK, "linestyle": (0, (2, 2)), "linewidth": 0.8}
    words: Look = {"textcoords": "offset points", "fontsize": 8}
    if which == "x":
        axes.axvline(at, **line)
        axes.annotate(text, (at, 1), (3, -3), ("data", "axes fraction"), va="top", **words)
    else:
        axes.axhline(at, **line)
        axes.annotate(text, (1, at), (-2, 2), ("axes fraction", "data"), ha="right", **words)


def finished(figure: Figure, title: str) -> Figure:
    """With its title, for a screen reader, and one legend above all panels if there are several series."""
    figure.set_label(title)
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        lines, labels = axes.get_legend_handles_labels()
        handles.update(zip(labels, lines, strict=True))
    if len(handles) > 1:
        figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=2)
    return figure


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
