"""The charts of a page: dose and response, effect and cost, layers.

Knows what was measured and what a reader should see of it; knows nothing of pages and verdicts.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import cycle, pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple

from matplotlib.axes import Axes

from ..evaluation.layers import LayerSweep
from ..evaluation.measures.metrics import known
from ..evaluation.results import ConditionResult, Evaluation
from ..evaluation.runs.samples import MAX_PPL_RATIO, RANDOM, UNSTEERED
from ..vectors.metadata import Calibration
from . import drawing
from .drawing import BASELINES, COLOURS, CURVES, Look, Panel, Which, draw, guide
from .tables import Number, effect, on_one_scale, single_alpha
from .text import showable

HEIGHT = 2.7  # inches, of a panel
FIT = COLOURS[2]
MEANS = CURVES[0] | {"label": "difference of means"}
SAE_LATENTS = CURVES[1] | {"label": "SAE latents"}

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


def effect_and_cost(evaluation: Evaluation, fit: Calibration | None = None) -> list[Panel]:
    """Every measure against alpha or, where conditions have no single alpha, a line a condition.

    Args:
        fit: its monotone curve is drawn, the range it allows and the alphas it recommends.
    """
    results = evaluation.results
    measures = _measures(evaluation, fit.max_ppl_ratio if fit else MAX_PPL_RATIO)
    if not on_one_scale(results):
        height = 0.7 + 0.26 * len(results)
        return [
            Panel(f"{m.label} of each setting", height, partial(_by_condition, results, m)) for m in measures
        ]
    return [
        Panel(
            f"{measure.label} against alpha",
            HEIGHT,
            partial(_dose_response, results, measure, fit, curve=measure is measures[0]),
        )
        for measure in measures
    ]


def _dose_response(
    results: Results, measure: Measure, fit: Calibration | None, axes: Axes, *, curve: bool
) -> None:
    """Curves through the unsteered texts at 0, random vectors beside them, other baselines as levels."""
    alphas = list(map(_alpha, results))
    span = max(alphas) - min(alphas)
    aside = 0.012 * span  # or a control's interval would hide the curve's
    measure.set_axis(axes, "y", results)
    if fit:
        _mark_calibration(axes, fit, curve=curve)
    unsteered = [result for result in results if result.condition.baseline == UNSTEERED]
    for baseline, look, group in _series(results):
        if baseline is None:
            group = sorted([*unsteered, *group], key=_alpha)
        if baseline in (None, RANDOM):
            beside = aside if baseline else 0.0
            draw(axes, [(_alpha(r) + beside, measure.read(r)) for r in group], look, joined=True)
        elif measure.is_effect and (level := known(measure.read(group[0]))):
            drawing.draw_level(axes, level, look)
    axes.set_xlim(min(alphas) - 0.05 * span - 0.1, max(alphas) + 0.05 * span + 0.1)
    axes.set_xlabel("alpha (% of the residual's length)")
    drawing.ticks_at(axes, alphas)


def _mark_calibration(axes: Axes, fit: Calibration, *, curve: bool) -> None:
    allowed = [point.alpha for point in fit.allowed()]
    if len(allowed) > 1:
        axes.axvspan(allowed[0], allowed[-1], color=FIT, alpha=0.10, linewidth=0)
    for name, alpha, side in (("up", fit.alpha_up, "left"), ("down", fit.alpha_down, "right")):
        if alpha is not None:
            guide(axes, "x", alpha, f"{name} {alpha:g}", side)
    if curve:
        alphas, rates = zip(*((point.alpha, point.expected_rate) for point in fit.curve), strict=True)
        axes.plot(alphas, rates, color=FIT, linewidth=2.4, alpha=0.55, label="monotone fit, used by --level")


def _by_condition(results: Results, measure: Measure, axes: Axes) -> None:
    """A line a condition, the first on top, and in it a dot with its interval."""
    place = {result.condition: place for place, result in enumerate(results)}
    measure.set_axis(axes, "x", results)
    axes.set_yticks(range(len(results)), [_short(result.condition.label) for result in results])
    axes.set_ylim(len(results) - 0.4, -0.6)
    for _, look, group in _series(results):
        draw(axes, [(measure.read(r), place[r.condition]) for r in group], look)


def effect_against_cost(evaluation: Evaluation) -> list[Panel]:
    """A point a condition, a panel a judge; none where no text was judged or none has a cost."""
    measures = _measures(evaluation)
    cost = next((measure for measure in measures if measure.kind == "cost"), None)
    return [
        Panel(
            f"{effect.label} against {cost.label}", HEIGHT, partial(_points, evaluation.results, effect, cost)
        )
        for effect in measures
        if effect.is_effect and cost
    ]


def _points(results: Results, effect: Measure, cost: Measure, axes: Axes) -> None:
    cost.set_axis(axes, "x", results)
    effect.set_axis(axes, "y", results)
    named: list[tuple[float, float, str]] = []
    for baseline, look, group in _series(results):
        for result in group:
            x, y = known(cost.read(result)), known(effect.read(result))
            if not (draw(axes, [(x, y)], look) and x and y) or baseline is not None:
                continue
            if (alpha := single_alpha(result)) is not None:
                offset = (5, 7)  # clear of the point's own intervals
                mark = "!" if result.is_less_diverse else ""
                axes.annotate(
                    f"{alpha:+g}{mark}", (x.value, y.value), offset, textcoords="offset points", fontsize=8
                )
            else:
                named.append((x.value, y.value, _short(result.condition.label)))
    drawing.name_beside(axes, named)


def _measures(evaluation: Evaluation, limit: float = MAX_PPL_RATIO) -> list[Measure]:
    """What there are numbers for: each judge's effects, a cost, damage."""
    results = evaluation.results
    measures = [_effect(results, judge.name) for judge in evaluation.judges]
    compared = any(known(r.perplexity_ratio) for r in results if r.condition.baseline is None)
    n_models = max(len(result.models) for result in results)
    label = f"{RATIO.label}, highest of {n_models} models" if n_models > 1 else RATIO.label
    measures.append(RATIO._replace(label=label, limit=limit) if compared else PERPLEXITY)
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
        files = [name.rsplit("/", 1)[-1] for name in result.condition.vectors]
        name = " + ".join(files) or "generations"
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


def by_layer(sweep: LayerSweep) -> list[Panel]:
    """How far the sides separate at each layer and, where it was tried, what steering there does."""
    panels = [
        Panel("held-out AUROC by layer", HEIGHT, partial(_separation, sweep)),
        Panel("shift by layer", HEIGHT, partial(_shift, sweep)),
    ]
    if sweep.judge:
        rate = Measure(f"positive, judge “{_short(sweep.judge.name)}”", "share", attrgetter("rate"))
        panels += [
            Panel(f"{measure.label} by layer steered at", HEIGHT, partial(_steering, sweep, measure))
            for measure in (rate, RATIO)
        ]
    return panels


def layers_plot(sweep: LayerSweep, path: Path) -> None:
    """The charts of the layers' page as one PNG or SVG file, by its suffix.

    Raises:
        InputError: the suffix is neither .png nor .svg.
        OutputError: the file cannot be written.
    """
    drawing.save(drawing.stacked(by_layer(sweep), "Separation and steering by layer"), path)


def _separation(sweep: LayerSweep, axes: Axes) -> None:
    draw(axes, [(layer.layer, layer.auroc) for layer in sweep.layers], MEANS, joined=True)
    draw(axes, [(layer.layer, layer.sae_auroc) for layer in sweep.layers], SAE_LATENTS)
    axes.set(ylabel="held-out AUROC", ylim=(min(0.47, axes.get_ylim()[0]), 1.03))
    guide(axes, "y", 0.5, "chance")
    _set_layers(axes, [layer.layer for layer in sweep.layers])


def _shift(sweep: LayerSweep, axes: Axes) -> None:
    draw(axes, [(layer.layer, layer.shift_share) for layer in sweep.layers], MEANS, joined=True)
    axes.set_ylabel("shift, share of residual norm")
    drawing.as_percent(axes, "y")
    _set_layers(axes, [layer.layer for layer in sweep.layers])


def _steering(sweep: LayerSweep, measure: Measure, axes: Axes) -> None:
    """One line an alpha, each a little aside, or their intervals would hide one another."""
    tried = [(layer.layer, steered) for layer in sweep.layers for steered in layer.steer]
    alphas = sorted({steered.alpha for _, steered in tried})
    measure.set_axis(axes, "y", [steered for _, steered in tried])
    layers = sorted({layer for layer, _ in tried})
    gap = min((b - a for a, b in pairwise(layers)), default=1)
    looks = cycle([*CURVES[2:], *CURVES[:2]])  # the first two are those of the separation
    for place, (look, alpha) in enumerate(zip(looks, alphas, strict=False)):
        aside = 0.12 * gap * (place - (len(alphas) - 1) / 2)
        points = [(layer + aside, measure.read(at)) for layer, at in tried if at.alpha == alpha]
        draw(axes, points, look | {"label": f"alpha {alpha:+g}"}, joined=True)
    _set_layers(axes, layers)


def _set_layers(axes: Axes, layers: Iterable[int]) -> None:
    axes.set_xlabel("layer")
    drawing.ticks_at(axes, layers)
