"""Draw charts as SVG or PNG: the only place for matplotlib.

Knows panels of numbers and labels; knows nothing of what they measure or of the page they stand in.
"""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.etree import ElementTree

from ..errors import InputError
from ..files import replace_file
from .panels import Axis, Chart, Panel, Point, Series
from .tables import NO_BREAK, Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")
WIDTH = 5.0  # inches
INK, FAINT, PAPER = "#1f2328", "#c9ced6", "#ffffff"


class Look(NamedTuple):
    """How a series or band is told from the others: never by colour alone."""

    colour: str
    marker: str
    dashes: str = "-"


# Okabe & Ito's palette, which colour-blind people can tell apart, and greys.
LOOKS = {
    "1": Look("#0072b2", "o"),
    "2": Look("#d55e00", "s"),
    "3": Look("#009e73", "^"),
    "4": Look("#cc79a7", "D"),
    "5": Look("#e69f00", "v"),
    "6": Look("#56b4e9", "P"),
    "random": Look("#7a7f87", "X", ":"),
    "unsteered": Look("#4d5157", "o", "--"),
    "prompt": Look("#a6761d", "s", "-."),
}
_CORNERS = ((5, 7), (5, -7), (-5, 7), (-5, -7))  # of a point, in pt, where its label may stand
# In a page a colour is a variable, so that the page can have a dark side.
_VARIABLES = {INK: "ink", FAINT: "faint", PAPER: "paper"} | {
    look.colour: f"look-{name}" for name, look in LOOKS.items()
}


def inline_svg(chart: Chart, ident: str) -> str:
    """The chart as an `<svg>` element for an HTML page, themed by its variables.

    Args:
        ident: starts every id in the element, so that several charts of one page do not clash.
    """
    with _style():
        root = ElementTree.fromstring(_drawn(_figure(chart), "svg"))
    for element in list(root.iter()):
        element.tag = element.tag.rpartition("}")[2]  # in HTML an svg element has no prefix
        _adapt(element, ident)
    for parent in list(root.iter()):
        for child in parent.findall("style"):  # it would hold for the page as a whole
            parent.remove(child)
    box = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib.update({"viewBox": box, "role": "img", "aria-labelledby": f"{ident}-title"})
    title = ElementTree.Element("title", {"id": f"{ident}-title"})
    title.text = chart.title
    root.insert(0, title)
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def check_suffix(path: Path) -> None:
    """Find out before any work is done whether the suffix names a picture.

    Raises:
        InputError: it is neither .png nor .svg.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: a plot is a {SUFFIXES[0]} or a {SUFFIXES[1]} file; name one of the two")


def save(chart: Chart, path: Path) -> None:
    """Write the chart as one file, whole or not at all, in the format that its suffix names.

    Raises:
        InputError: the suffix is neither .png nor .svg.
        OutputError: the file cannot be written.
    """
    check_suffix(path)
    with _style():
        picture = _drawn(_figure(chart), path.suffix.lower().removeprefix("."))
    with replace_file(path) as temporary:
        temporary.write_bytes(picture)


def _adapt(element: ElementTree.Element, ident: str) -> None:
    """Make the ids of an element the page's own and its colours variables."""
    for key, value in list(element.attrib.items()):
        del element.attrib[key]
        plain = key.rpartition("}")[2]
        if plain == "id":
            value = f"{ident}-{value}"
        elif plain == "href":
            value = value.replace("#", f"#{ident}-")
        elif plain == "clip-path":
            value = value.replace("url(#", f"url(#{ident}-")
        elif plain == "style":
            value = re.sub("#[0-9a-f]{6}", _as_variable, value)
        element.attrib[plain] = value


def _as_variable(colour: re.Match[str]) -> str:
    name = _VARIABLES.get(colour[0])
    return colour[0] if name is None else f"var(--{name}, {colour[0]})"


@contextmanager
def _style() -> Iterator[None]:
    """The same look and the same bytes whatever the person's own settings of matplotlib."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the browser has it
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({
            "svg.fonttype": "none", "svg.hashsalt": "neurosteer", "text.parse_math": False,
            "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "legend.fontsize": 8.5,
            "xtick.labelsize": 8.5, "ytick.labelsize": 8.5, "text.color": INK, "axes.labelcolor": INK,
            "axes.edgecolor": FAINT, "axes.spines.top": False, "axes.spines.right": False,
            "xtick.color": FAINT, "ytick.color": FAINT, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
            "axes.grid": True, "grid.color": FAINT, "grid.linewidth": 0.5, "grid.alpha": 0.6,
            "axes.axisbelow": True, "figure.dpi": 96, "savefig.dpi": 200, "axes.facecolor": "none",
        })  # fmt: skip
        yield


def _drawn(figure: "Figure", kind: str) -> bytes:
    """The picture's bytes; an SVG says nothing of when and by what it was made."""
    out = io.BytesIO()
    if kind == "svg":
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(out, format=kind, metadata=nothing, transparent=True)
    else:
        figure.savefig(out, format=kind, metadata={"Software": None}, facecolor=PAPER)
    return out.getvalue()


def _figure(chart: Chart) -> "Figure":
    from matplotlib.figure import Figure

    heights = [panel.height for panel in chart.panels]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.5), layout="constrained")
    grid = figure.subplots(len(heights), 1, sharex=chart.share_x, squeeze=False, height_ratios=heights)
    for axes, panel in zip(grid[:, 0], chart.panels, strict=True):
        _draw_axis(axes, panel.x, "x")
        _draw_axis(axes, panel.y, "y")
        for series in panel.series:
            _draw_series(axes, series)
        _label_points(axes, panel)
    for axes in grid[:-1, 0] if chart.share_x else ():
        axes.set_xlabel("")
    _add_legend(figure, list(grid[:, 0]))
    _settle(figure)
    return figure


def _settle(figure: "Figure") -> None:
    """Lay the figure out once and round: the solver's last bit differs from run to run, and ids hold it."""
    if engine := figure.get_layout_engine():
        engine.execute(figure)
    figure.set_layout_engine("none")
    for axes in figure.axes:
        left, bottom, width, height = (round(float(bound), 5) for bound in axes.get_position().bounds)
        axes.set_position((left, bottom, width, height))


def _add_legend(figure: "Figure", grid: Sequence["Axes"]) -> None:
    """One legend above all panels; nothing where there is one series to name."""
    handles: dict[str, Any] = {}
    for axes in grid:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if len(handles) > 1:
        figure.legend(
            handles.values(), handles.keys(), loc="outside upper left", ncols=2, frameon=False,
            handlelength=2.4, columnspacing=1.4,
        )  # fmt: skip


def _draw_axis(axes: "Axes", axis: Axis, which: str) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter, StrMethodFormatter

    line, span = (axes.axvline, axes.axvspan) if which == "x" else (axes.axhline, axes.axhspan)
    own = axes.xaxis if which == "x" else axes.yaxis
    axes.set(**{f"{which}label": axis.label})
    if axis.log:
        axes.set(**{f"{which}scale": "log"})
        own.set_major_locator(LogLocator(subs=(1, 2, 5)))
        own.set_major_formatter(StrMethodFormatter("{x:g}"))
        own.set_minor_locator(NullLocator())
    if axis.whole:
        own.set_major_locator(MaxNLocator(integer=True))
    if axis.percent:
        own.set_major_formatter(PercentFormatter(1, symbol=f"{NO_BREAK}%"))
    if axis.ticks or axis.names:
        own.set_ticks(axis.ticks or range(len(axis.names)), labels=axis.names or None)
    if axis.limits is not None:
        axes.set(**{f"{which}lim": axis.limits})
    if axis.shade is not None:
        span(*axis.shade, color=LOOKS["3"].colour, alpha=0.10, linewidth=0)
    for band in axis.bands:
        colour, _, dashes = LOOKS[band.look]
        span(band.at.low, band.at.high, color=colour, alpha=0.12, linewidth=0)
        line(band.at.value, color=colour, linestyle=dashes, linewidth=1.2, label=band.name)
    for where, text in axis.guides:
        line(where, color=INK, linestyle=(0, (2, 2)), linewidth=0.8)
        _say_beside(axes, where, text, which)


def _say_beside(axes: "Axes", where: float, text: str, which: str) -> None:
    """What a guide line stands for, at its end inside the panel."""
    turned = which == "x"
    axes.annotate(
        text, (where, 1) if turned else (1, where), (3, -3) if turned else (-2, 2),
        xycoords=("data", "axes fraction") if turned else ("axes fraction", "data"),
        textcoords="offset points", fontsize=8, ha="left" if turned else "right",
        va="top" if turned else "bottom", annotation_clip=True,
    )  # fmt: skip


def _draw_series(axes: "Axes", series: Series) -> None:
    colour, marker, dashes = LOOKS[series.look]
    points = series.drawable()
    x, y = [point.x.value for point in points], [point.y.value for point in points]
    if series.smooth:
        axes.plot(x, y, color=colour, linewidth=2.4, alpha=0.55, label=series.name)
        return
    axes.errorbar(
        x, y, xerr=_reach([point.x for point in points]), yerr=_reach([point.y for point in points]),
        color=colour, marker=marker, markersize=5, markeredgecolor=PAPER, markeredgewidth=0.6,
        linestyle=dashes if series.line else "none", linewidth=1.6, elinewidth=1.1, label=series.name,
    )  # fmt: skip


def _reach(estimates: Sequence[Estimate]) -> list[list[float]] | None:
    """How far the intervals reach below and above, [2, n]; None where all numbers are exact."""
    below, above = [], []
    for value, low, high in estimates:
        below.append(max(0.0, value - low))
        above.append(max(0.0, high - value))
    return [below, above] if any(below) or any(above) else None


def _label_points(axes: "Axes", panel: Panel) -> None:
    """Write the points' labels beside them, each in the corner where the fewest others are."""
    axes.get_xlim(), axes.get_ylim()  # settles the limits, which the places depend on
    points = [point for series in panel.series for point in series.drawable() if point.label]
    places = [_place(axes, point) for point in points]
    taken = list(places)  # in pt
    for point, (x, y) in zip(points, places, strict=True):
        around = [(x + 3 * dx, y + dy) for dx, dy in _CORNERS]
        crowds = [sum(abs(a - x) < 18 and abs(b - y) < 10 for a, b in taken) for x, y in around]
        best = crowds.index(min(crowds))
        taken.append(around[best])
        dx, dy = _CORNERS[best]
        axes.annotate(
            point.label, (point.x.value, point.y.value), (dx, dy), textcoords="offset points",
            fontsize=8, ha="left" if dx > 0 else "right", va="center",
        )  # fmt: skip


def _place(axes: "Axes", point: Point) -> tuple[float, float]:
    x, y = axes.transData.transform((point.x.value, point.y.value)) * 72 / axes.figure.dpi
    return float(x), float(y)
