"""What the charts of a page show: the rows of a document as panels of points.

Knows documents and panels; knows nothing of how they are drawn or of HTML.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from .panels import LOOKS, Axis, Band, Chart, Panel, Point, Series
from .tables import MAX_RATIO, Estimate, Setting, auroc, estimate, exactly, in_alpha_order, on_one_scale

RANDOM = "random vector of equal norm"
RATE_LIMITS, RATE_TICKS = (-0.04, 1.04), (0.0, 0.25, 0.5, 0.75, 1.0)
N_LOOKS = LOOKS.index("random")  # series that can be told apart; further ones start again
_ALPHA = "alpha (% of the residual's length)"
_LONGEST_NAME = 22
_TALL, _LOW = 2.3, 1.6  # inches: of effects, and of costs beneath them

Document = dict[str, Any]
Number = Callable[[Setting], Estimate | None]


def evaluation_charts(settings: Sequence[Setting], judges: Sequence[str]) -> dict[str, Chart]:
    """Effect and cost by setting, and effect against cost, as far as there are numbers."""
    charts = {"dose": _by_alpha(settings, judges) if on_one_scale(settings) else _by_label(settings, judges)}
    cost, axis = _cost(settings)
    panels = [panel for judge in judges if (panel := _against_cost(settings, judge, cost, axis)).series]
    if panels:
        charts["cost"] = Chart("Effect against cost, a point for each setting", panels)
    return {name: chart for name, chart in charts.items() if chart.panels}


def calibration_chart(document: Document, settings: Sequence[Setting], judges: Sequence[str]) -> Chart:
    """The dose-response curve with the monotone fit, the allowed range and the recommended alphas."""
    marks = tuple(
        (alpha, f"{name} {alpha:g}") for name, alpha in document["recommended"].items() if alpha is not None
    )
    max_ratio = document["max_ppl_ratio"]
    x = Axis(_ALPHA, guides=marks, shade=allowed_range(settings, max_ratio))
    fit = [Point(exactly(one["alpha"]), exactly(one["rate"])) for one in document["expected"]]
    chart = _by_alpha(settings, judges, x=x, max_ratio=max_ratio)
    if not fit or not chart.panels:
        return chart
    first = chart.panels[0]
    fitted = Series("monotone fit, used by --level", "3", fit, line=True, smooth=True)
    return Chart(
        "Dose-response curve with its monotone fit",
        [Panel(first.x, first.y, [fitted, *first.series], _TALL), *chart.panels[1:]],
    )


def allowed_range(settings: Sequence[Setting], max_ratio: float) -> tuple[float, float] | None:
    """The tested alphas around 0 up to the first on either side whose perplexity ratio is too high."""
    ends = []
    for sign in (-1, 1):
        end = 0.0
        steered = [one for one in settings if one.steered and sign * (one.alpha or 0.0) > 0]
        for one in sorted(steered, key=lambda one: abs(one.alpha or 0.0)):
            if one.ratio is None or one.ratio.value > max_ratio:
                break
            end = one.alpha or 0.0
        ends.append(end)
    return (ends[0], ends[1]) if ends[0] < ends[1] else None


def layer_charts(document: Document) -> dict[str, Chart]:
    """How far the sides separate at each layer and, where it was tried, what steering there does."""
    rows = document["rows"]
    x = Axis("layer", whole=True)
    charts = {"separation": Chart("Separation of the two sides by layer", _separation(rows, x))}
    if any(row.get("steer") for row in rows):
        charts["steering"] = Chart("Effect and cost of steering by layer", _steering(document, x))
    return charts


# --- evaluation --------------------------------------------------------------------------------


def _effect(judge: str) -> Number:
    return lambda one: one.effect(judge)


def _rate_axis(judge: str, settings: Sequence[Setting], *, bands: bool = True) -> Axis:
    """A judge's axis: the share of texts it finds positive, or its mean score."""
    found = _bands(settings, _effect(judge)) if bands else ()
    if any(one.number("rate", judge) for one in settings):
        return Axis(f"positive, judge “{judge}”", True, RATE_LIMITS, ticks=RATE_TICKS, bands=found)
    return Axis(f"mean score, judge “{judge}”", bands=found)


def _ratio_axis(settings: Sequence[Setting], max_ratio: float = MAX_RATIO) -> Axis:
    ratios = [one.ratio.value for one in settings if one.ratio]
    guide = ((max_ratio, f"{max_ratio:g}"),)
    return Axis("perplexity ratio", log=_wide(ratios), guides=guide)


def _wide(numbers: Sequence[float]) -> bool:
    numbers = list(filter(math.isfinite, numbers))
    return bool(numbers) and min(numbers) > 0 and max(numbers) > 4 * min(numbers)


def _cost(settings: Sequence[Setting]) -> tuple[Number, Axis]:
    """The perplexity ratio; where nothing was compared, perplexity itself."""
    if any(one.ratio for one in settings if one.steered):
        return (lambda one: one.ratio), _ratio_axis(settings)
    found = [one.value for one in (s.number("perplexity") for s in settings) if one]
    return (lambda one: one.number("perplexity")), Axis("perplexity", log=_wide(found))


def _kl(one: Setting) -> Estimate | None:
    return exactly(0.0) if one.baseline == "unsteered" else one.number("kl")


def _measures(
    settings: Sequence[Setting], judges: Sequence[str], max_ratio: float, *, bands: bool
) -> list[tuple[Number, Axis]]:
    """Every measure to show by setting, those that no steered row has left out."""
    measures = [(_effect(judge), _rate_axis(judge, settings, bands=bands)) for judge in judges]
    number, axis = _cost(settings)
    if axis.guides:
        axis = _ratio_axis(settings, max_ratio)
    measures.append((number, axis))
    if any(one.number("kl") for one in settings):
        measures.append((_kl, Axis("KL (nats a token)")))
    return [(number, axis) for number, axis in measures if any(map(number, settings))]


def _by_alpha(
    settings: Sequence[Setting], judges: Sequence[str], x: Axis | None = None, max_ratio: float = MAX_RATIO
) -> Chart:
    measures = _measures(settings, judges, max_ratio, bands=True)
    panels = [
        Panel(x or Axis(_ALPHA), axis, _curves(settings, number), _TALL if place < len(judges) else _LOW)
        for place, (number, axis) in enumerate(measures)
    ]
    return Chart("Dose-response curves: effect and cost against alpha", panels)


def _by_label(settings: Sequence[Setting], judges: Sequence[str]) -> Chart:
    ends = (len(settings) - 0.4, -0.6)  # the first on top
    names = Axis("", names=tuple(_short(one.label) for one in settings), limits=ends)
    panels = [
        Panel(axis, names, _dots(settings, number), 0.5 + 0.26 * len(settings))
        for number, axis in _measures(settings, judges, MAX_RATIO, bands=False)
    ]
    return Chart("Effect and cost of each setting", panels, share_x=False)


def _against_cost(settings: Sequence[Setting], judge: str, cost: Number, axis: Axis) -> Panel:
    def points(chosen: Sequence[Setting]) -> list[Point]:
        return [
            Point(x, y, "" if one.baseline else _short(one.label if one.alpha is None else f"{one.alpha:+g}"))
            for one in chosen
            if (x := cost(one)) and (y := one.effect(judge))
        ]

    series = [
        Series(name, look, found) for name, look, chosen in _parts(settings) if (found := points(chosen))
    ]
    unsteered = [one for one in settings if one.baseline == "unsteered"]
    if found := points(unsteered):
        series.append(Series("unsteered", "unsteered", found))
    return Panel(axis, _rate_axis(judge, settings, bands=False), series, 2.6)


def _curves(settings: Sequence[Setting], number: Number) -> list[Series]:
    """A curve through the settings of one group, the unsteered texts at 0; random vectors beside it."""
    unsteered = [one for one in settings if one.baseline == "unsteered"]
    alphas = [one.alpha for one in settings if one.alpha is not None]
    aside = 0.012 * (max(alphas) - min(alphas))  # or a control's interval would hide the curve's
    curves = []
    for name, look, chosen in _parts(settings):
        control = look in ("random", "prompt")
        shown = chosen if control else in_alpha_order([*unsteered, *chosen])
        points = [
            Point(exactly((one.alpha or 0.0) + (aside if control else 0.0)), y)
            for one in shown
            if (y := number(one))
        ]
        if points and look != "prompt":
            curves.append(Series(name, look, points, line=True))
    return curves


def _dots(settings: Sequence[Setting], number: Number) -> list[Series]:
    """A dot for each setting, in its line."""
    looks = {None: "1", "unsteered": "unsteered", "random": "random", "prompt": "prompt"}
    names = {None: "steered", "unsteered": "unsteered", "random": RANDOM, "prompt": "prompting"}
    found: dict[str | None, list[Point]] = {}
    for place, one in enumerate(settings):
        if x := number(one):
            found.setdefault(one.baseline, []).append(Point(x, exactly(float(place))))
    return [Series(names[kind], looks[kind], points) for kind, points in found.items()]


def _parts(settings: Sequence[Setting]) -> list[tuple[str, str, list[Setting]]]:
    """Name, look and settings of what is drawn as one series; the unsteered texts are in none."""
    groups = list(dict.fromkeys(one.group for one in settings if one.steered))
    parts = [
        (
            _short(group, 40) or "generations",
            str(place % N_LOOKS + 1),
            in_alpha_order([one for one in settings if one.steered and one.group == group]),
        )
        for place, group in enumerate(groups)
    ]
    for kind, name in (("random", RANDOM), ("prompt", "prompting")):
        chosen = [one for one in settings if one.baseline == kind]
        parts.append((name, kind, sorted(chosen, key=lambda one: one.alpha or 0.0)))
    return [part for part in parts if part[2]]


def _bands(settings: Sequence[Setting], number: Number) -> tuple[Band, ...]:
    """The levels that need no alpha: unsteered, and prompting in place of steering."""
    names = {"unsteered": "unsteered", "prompt": "prompting"}
    return tuple(
        Band(names[one.baseline], one.baseline, level)
        for one in settings
        if one.baseline in names and (level := number(one))
    )


def _short(text: str, length: int = _LONGEST_NAME) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 1]}…"


# --- layers ------------------------------------------------------------------------------------


def _separation(rows: Sequence[Document], x: Axis) -> list[Panel]:
    means = [(row["layer"], auroc(row)) for row in rows]
    sae = [(row["layer"], estimate(row.get("sae_auroc"))) for row in rows]
    share = [(row["layer"], estimate(row["shift_share"])) for row in rows]
    series = [_line("difference of means", "1", means, True), _line("SAE latents", "2", sae)]
    shown = [one for one in series if one.points]
    lowest = min((point.y.low for one in shown for point in one.points), default=0.5)
    y = Axis("held-out AUROC", limits=(min(0.47, lowest - 0.03), 1.03), guides=((0.5, "chance"),))
    shift = _line("difference of means", "1", share, True)
    return [
        Panel(x, y, shown, _TALL),
        Panel(x, Axis("shift, share of\nresidual norm", percent=True), [shift], _LOW),
    ]


def _steering(document: Document, x: Axis) -> list[Panel]:
    doses: dict[float, dict[str, list[tuple[int, Estimate | None]]]] = {}
    for row in document["rows"]:
        for steer in row.get("steer") or ():
            found = doses.setdefault(steer["alpha"], {"rate": [], "perplexity_ratio": []})
            for key, points in found.items():
                points.append((row["layer"], estimate(steer.get(key))))
    rate = Axis(f"positive, judge “{document['judge']}”", True, RATE_LIMITS, ticks=RATE_TICKS)
    ratios = [ratio.value for found in doses.values() for _, ratio in found["perplexity_ratio"] if ratio]
    ratio = Axis("perplexity ratio", log=_wide(ratios), guides=((MAX_RATIO, f"{MAX_RATIO:g}"),))
    return [
        Panel(x, axis, _dose_lines({alpha: found[key] for alpha, found in doses.items()}), height)
        for key, axis, height in (("rate", rate, _TALL), ("perplexity_ratio", ratio, _LOW))
    ]


def _dose_lines(doses: dict[float, list[tuple[int, Estimate | None]]]) -> list[Series]:
    """One line a dose, each a little aside, or their intervals would hide one another."""
    middle = (len(doses) - 1) / 2
    return [
        _line(f"alpha {alpha:+g}", str(place % N_LOOKS + 1), doses[alpha], True, 0.12 * (place - middle))
        for place, alpha in enumerate(sorted(doses))
    ]


def _line(
    name: str,
    look: str,
    numbers: Sequence[tuple[int, Estimate | None]],
    line: bool = False,
    aside: float = 0.0,
) -> Series:
    """A series by layer, those without the number left out."""
    points = [Point(exactly(layer + aside), number) for layer, number in numbers if number]
    return Series(name, look, points, line=line)
