"""The charts of a page: dose and response, effect and cost, layers.

Knows what was measured and what a reader should see of it; knows nothing of pages and verdicts.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..evaluation.evaluate import ConditionResult, Evaluation
from ..evaluation.layers import LayerSweep
from ..evaluation.metrics import known
from ..evaluation.samples import MAX_PPL_RATIO, RANDOM, UNSTEERED
from ..vectors.metadata import Calibration
from . import drawing
from .drawing import BASELINES, COLOURS, CURVES, Look, Which, draw, figure_of, finished, guide, style
from .tables import Number, effect, on_one_scale, showable, single_alpha

TALL, LOW = 2.3, 1.6  # inches: high are the panels of effects, and of costs beneath them
FIT = COLOURS[2]

Results = Sequence[ConditionResult]


class Measure(NamedTuple):
    """What is drawn along an axis."""

    label: str
    kind: Literal["share", "score", "cost", "damage"]
    read: Callable[[Any], Number]
    limit: float | None = None  # up to which a cost is affordable

    @property
    def is_effect(self) -> bool:
        return self.kind in ("share", "score")

    def set_axis(self, axes: Axes, which: Which, rows: Sequence[Any]) -> None:
        axes.set(**{f"{which}label": self.label})
        if self.kind == "share":  # from 0 to 100 %, whatever the numbers
            axes.set(**{f"{which}lim": (-0.04, 1.04), f"{which}ticks": (0, 0.25, 0.5, 0.75, 1)})
            drawing.as_percent(axes, which)
        elif self.kind == "cost":
            drawing.as_cost(axes, which, map(self.read, rows), self.limit)


RATIO = Measure("perplexity ratio", "cost", attrgetter("perplexity_ratio"), MAX_PPL_RATIO)
PERPLEXITY = Measure("perplexity", "cost", attrgetter("perplexity"))
KL = Measure("KL (nats a token)", "damage", lambda r: 0.0 if r.condition.baseline == UNSTEERED else r.kl)


@style()
def effect_and_cost(evaluation: Evaluation, fit: Calibration | None = None) -> Figure | None:
    """Every measure against alpha or, where conditions have no single alpha, a line a condition.

    Args:
        fit: its monotone curve is drawn, the range it allows and the alphas it recommends.
    """
    results = evaluation.results
    measures = _measures(evaluation, fit.max_ppl_ratio if fit else MAX_PPL_RATIO)
    if not measures:
        return None
    if not on_one_scale(results):
        return _by_condition(results, measures)
    figure, panels = figure_of([TALL if measure.is_effect else LOW for measure in measures])
    for axes, measure in zip(panels, measures, strict=True):
        measure.set_axis(axes, "y", results)
        if fit:
            _mark_calibration(axes, fit, curve=axes is panels[0])
        _dose_response(axes, results, measure)
    panels[-1].set_xlabel("alpha (% of the residual's length)")
    if fit:
        return finished(figure, "Dose-response curve with its monotone fit")
    return finished(figure, "Dose-response curves: effect and cost against alpha")


def _dose_response(axes: Axes, results: Results, measure: Measure) -> None:
    """Curves through the unsteered texts at 0, random vectors beside them, other baselines as levels."""
    alphas = list(map(_alpha, results))
    aside = 0.012 * (max(alphas) - min(alphas))  # or a control's interval would hide the curve's
    unsteered = [result for result in results if result.condition.baseline == UNSTEERED]
    for baseline, look, group in _series(results):
        if baseline is None:
            group = sorted([*unsteered, *group], key=_alpha)
        if baseline in (None, RANDOM):
            beside = aside if baseline else 0.0
            draw(axes, [(_alpha(r) + beside, measure.read(r)) for r in group], look, joined=True)
        elif measure.is_effect and (level := known(measure.read(group[0]))):
            drawing.draw_level(axes, level, look)


def _mark_calibration(axes: Axes, fit: Calibration, *, curve: bool) -> None:
    allowed = [point.alpha for point in fit.allowed()]
    if len(allowed) > 1:
        axes.axvspan(allowed[0], allowed[-1], color=FIT, alpha=0.10, linewidth=0)
    for name, alpha in (("up", fit.alpha_up), ("down", fit.alpha_down)):
        if alpha is not None:
            guide(axes, "x", alpha, f"{name} {alpha:g}")
    if curve:
        alphas, rates = zip(*((point.alpha, point.expected_rate) for point in fit.curve), strict=True)
        axes.plot(alphas, rates, color=FIT, linewidth=2.4, alpha=0.55, label="monotone fit, used by --level")


def _by_condition(results: Results, measures: Sequence[Measure]) -> Figure:
    """A line a condition, the first on top, and in it a dot with its interval."""
    figure, panels = figure_of([0.5 + 0.26 * len(results)] * len(measures), share_x=False)
    place = {result.condition: place for place, result in enumerate(results)}
    for axes, measure in zip(panels, measures, strict=True):
        measure.set_axis(axes, "x", results)
        axes.set_yticks(range(len(results)), [_short(result.condition.label) for result in results])
        axes.set_ylim(len(results) - 0.4, -0.6)
        for _, look, group in _series(results):
            draw(axes, [(measure.read(r), place[r.condition]) for r in group], look)
    return finished(figure, "Effect and cost of each setting")


@style()
def effect_against_cost(evaluation: Evaluation) -> Figure | None:
    """A point a condition, a panel a judge; None where no text was judged or none has a cost."""
    results, measures = evaluation.results, _measures(evaluation)
    effects = [measure for measure in measures if measure.is_effect]
    cost = next((measure for measure in measures if measure.kind == "cost"), None)
    if cost is None or not effects:
        return None
    figure, panels = figure_of([2.6] * len(effects))
    for axes, measure in zip(panels, effects, strict=True):
        cost.set_axis(axes, "x", results)
        measure.set_axis(axes, "y", results)
        axes.label_outer()
        for baseline, look, group in _series(results):
            for place, result in enumerate(group):
                x, y = known(cost.read(result)), known(measure.read(result))
                if draw(axes, [(x, y)], look) and x and y and baseline is None:
                    _name_point(axes, x.value, y.value, result, place)
    return finished(figure, "Effect against cost, a point for each setting")


def _name_point(axes: Axes, x: float, y: float, result: ConditionResult, place: int) -> None:
    """By its alpha; names are long, so they stand above and below in turn."""
    alpha = single_alpha(result)
    name = _short(result.condition.label) if alpha is None else f"{alpha:+g}"
    beside = (5, -7 if alpha is None and place % 2 else 7)
    axes.annotate(name, (x, y), beside, textcoords="offset points", va="center", fontsize=8)


def _measures(evaluation: Evaluation, limit: float = MAX_PPL_RATIO) -> list[Measure]:
    """What there are numbers for: each judge's effects, a cost, damage."""
    results = evaluation.results
    measures = [_effect(results, judge.name) for judge in evaluation.judges]
    compared = any(known(r.perplexity_ratio) for r in results if r.condition.baseline is None)
    measures.append(RATIO._replace(limit=limit) if compared else PERPLEXITY)
    if any(result.kl is not None for result in results):
        measures.append(KL)
    return [measure for measure in measures if any(known(measure.read(result)) for result in results)]


def _effect(results: Results, judge: str) -> Measure:
    """The share of texts the judge finds positive, or its mean score."""
    shares = any(known(result.judges[judge].rate) for result in results if judge in result.judges)
    label = f"{'positive' if shares else 'mean score'}, judge “{_short(judge)}”"
    return Measure(label, "share" if shares else "score", partial(effect, judge=judge))


def _series(results: Results) -> Iterator[tuple[str | None, Look, list[ConditionResult]]]:
    """What is steered with the same vectors at the same positions, then each baseline; with their looks."""
    steered = [result for result in results if result.condition.baseline is None]
    several = len({result.condition.positions for result in steered}) > 1
    curves: dict[str, list[ConditionResult]] = defaultdict(list)
    for result in steered:
        name = " + ".join(result.condition.vectors) or "generations"
        curves[f"{name}, {result.condition.positions}" if several else name].append(result)
    for look, (name, group) in zip(cycle(CURVES), curves.items(), strict=False):
        yield None, look | {"label": _short(name, 40)}, group
    for baseline, look in BASELINES.items():
        if group := [result for result in results if result.condition.baseline == baseline]:
            yield baseline, look, sorted(group, key=_alpha)


def _alpha(result: ConditionResult) -> float:
    return single_alpha(result) or 0.0


def _short(text: str, length: int = 22) -> str:
    text = showable(" ".join(text.split()))
    return text if len(text) <= length else f"{text[: length - 1]}…"


def parts_of(sweep: LayerSweep) -> list[str]:
    """The parts that there are numbers for."""
    return ["separation", "steering"] if sweep.judge else ["separation"]


@style()
def by_layer(sweep: LayerSweep, *parts: str) -> Figure:
    """How far the sides separate at each layer, what steering there does, or both in one figure."""
    figure, panels = figure_of([TALL, LOW] * len(parts))
    for part, effects, costs in zip(parts, panels[::2], panels[1::2], strict=True):
        {"separation": _separation, "steering": _steering}[part](sweep, effects, costs)
    panels[-1].set_xlabel("layer")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    if parts[0] == "separation":
        return finished(figure, "Separation of the two sides by layer")
    return finished(figure, "Effect and cost of steering by layer")


def layers_plot(sweep: LayerSweep, path: Path) -> None:
    """The charts of the layers' page as one PNG or SVG file, by its suffix.

    Raises:
        InputError: the suffix is neither .png nor .svg.
        OutputError: the file cannot be written.
    """
    drawing.save(by_layer(sweep, *parts_of(sweep)), path)


def _separation(sweep: LayerSweep, auroc: Axes, shift: Axes) -> None:
    means, sae = CURVES[0] | {"label": "difference of means"}, CURVES[1] | {"label": "SAE latents"}
    draw(auroc, [(layer.layer, layer.auroc) for layer in sweep.layers], means, joined=True)
    draw(auroc, [(layer.layer, layer.sae_auroc) for layer in sweep.layers], sae)
    auroc.set(ylabel="held-out AUROC", ylim=(min(0.47, auroc.get_ylim()[0]), 1.03))
    guide(auroc, "y", 0.5, "chance")
    draw(shift, [(layer.layer, layer.shift_share) for layer in sweep.layers], means, joined=True)
    shift.set_ylabel("shift, share of\nresidual norm")
    drawing.as_percent(shift, "y")


def _steering(sweep: LayerSweep, rates: Axes, ratios: Axes) -> None:
    """One line an alpha, each a little aside, or their intervals would hide one another."""
    tried = [(layer.layer, steered) for layer in sweep.layers for steered in layer.steer]
    alphas = sorted({steered.alpha for _, steered in tried})
    judge = _short(sweep.judge.name) if sweep.judge else ""
    rate = Measure(f"positive, judge “{judge}”", "share", attrgetter("rate"))
    for axes, measure in ((rates, rate), (ratios, RATIO)):
        measure.set_axis(axes, "y", [steered for _, steered in tried])
        for place, (look, alpha) in enumerate(zip(cycle(CURVES), alphas, strict=False)):
            aside = 0.12 * (place - (len(alphas) - 1) / 2)
            points = [(layer + aside, measure.read(at)) for layer, at in tried if at.alpha == alpha]
            draw(axes, points, look | {"label": f"alpha {alpha:+g}"}, joined=True)
