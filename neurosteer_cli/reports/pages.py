"""Results as one HTML page each, which opens without a network; only the page of latents holds a script.

Knows results, their charts, tables and verdicts; knows nothing of models or vectors.
"""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from ..evaluation.layers import LayerSweep
from ..evaluation.results import Evaluation
from ..evaluation.runs.samples import MAX_PPL_RATIO, Condition
from ..saes.descriptions import Description, Descriptions
from ..vectors.metadata import Calibration
from . import charts, tables
from .drawing import Panel, figure_of, inline_svg, key, series_of
from .render import render, script_data
from .verdict import layers_verdict, recommendations, verdict

N_SHOWN = 12  # prompts whose continuations a page shows


def evaluation_page(evaluation: Evaluation, command: str) -> str:
    """The page of `neurosteer eval --report`: verdicts, curves, the whole table, sample texts."""
    plane = charts.effect_against_cost(evaluation)
    return _evaluated(
        "evaluation",
        evaluation,
        command,
        MAX_PPL_RATIO,
        charts=_drawn([*charts.effect_and_cost(evaluation), *plane]),
        has_plane=bool(plane),
        samples=_samples(evaluation),
    )


def calibration_page(evaluation: Evaluation, calibration: Calibration, command: str) -> str:
    """The page of `neurosteer calibrate --report`: the fitted curve, and the alphas it recommends, if any."""
    shown = verdict(evaluation.results, calibration.judge, calibration.max_ppl_ratio)
    found = recommendations(calibration, shown)
    up, down = (one.alpha if one.has_effect else None for one in found)
    marked = calibration.model_copy(update={"alpha_up": up, "alpha_down": down})
    return _evaluated(
        "calibration",
        evaluation,
        command,
        calibration.max_ppl_ratio,
        charts=_drawn(charts.effect_and_cost(evaluation, marked)),
        calibration=calibration,
        recommendations=found,
        expected=tables.expected_table(calibration.curve),
    )


def _evaluated(name: str, evaluation: Evaluation, command: str, max_ratio: float, **parts: Any) -> str:
    return render(
        name,
        page=evaluation,
        command=command,
        judges=evaluation.judges,
        max_ratio=max_ratio,
        agreement=tables.agreement(evaluation.results),
        verdicts=[verdict(evaluation.results, judge.name, max_ratio) for judge in evaluation.judges],
        table=tables.evaluation_table(evaluation),
        **parts,
    )


def _drawn(panels: Sequence[Panel]) -> dict[str, Any]:
    """Panels side by side as SVG, in columns that leave no row half empty, and the keys of their series."""
    n = len(panels)
    columns = {1: 1, 2: 2, 4: 2}.get(n, 3)
    n_wide = 2 if columns == 3 and n % 3 == 2 else 0  # the last two share a row
    figures = [figure_of(panel, 2 if at >= n - n_wide else columns) for at, panel in enumerate(panels)]
    series = series_of(figure.axes[0] for figure in figures)
    pictures = [(label, key(handle, label)) for label, handle in series.items()]
    return {
        "columns": columns,
        "panels": [Markup(inline_svg(figure, f"chart-{n}")) for n, figure in enumerate(figures)],
        "legend": [(label, Markup(inline_svg(one, f"key-{n}"))) for n, (label, one) in enumerate(pictures)],
    }


def _samples(evaluation: Evaluation) -> dict[str, Any]:
    """Conditions in alpha order, and of the first prompts each condition's first text with its scores."""
    prompts: dict[str, dict[Condition, Any]] = {}
    for number, sample in enumerate(evaluation.samples):
        if sample.prompt in prompts or len(prompts) < N_SHOWN:
            scores = {judge: scores[number] for judge, scores in evaluation.scores.items()}
            prompts.setdefault(sample.prompt, {}).setdefault(sample.condition, (sample.text, scores))
    conditions = [result.condition for result in tables.in_alpha_order(evaluation.results)]
    shown = [condition for condition in conditions if any(condition in texts for texts in prompts.values())]
    n_more = len({sample.prompt for sample in evaluation.samples}) - len(prompts)
    scales = {judge.name: judge.card.get("range", (0, 1)) for judge in evaluation.judges}
    return {"conditions": shown, "prompts": prompts, "n_more": n_more, "scales": scales}


def layers_page(sweep: LayerSweep, command: str) -> str:
    """The page of `neurosteer layers --report`: where the sides separate, and what steering there does."""
    return render(
        "layers",
        page=sweep,
        command=command,
        charts=_drawn(charts.by_layer(sweep)),
        judges=[sweep.judge] if sweep.judge else [],
        max_ratio=MAX_PPL_RATIO,
        findings=layers_verdict(sweep),
        table=tables.layers_table(sweep),
    )


def latents_page(descriptions: Sequence[Descriptions]) -> str:
    """The page of one or several SAEs' latents, the SAE's block in front of each number if several."""
    several = len(descriptions) > 1
    records = [
        _record(latent, f"{of.about.hook_point.split('.')[1]}/" if several else "")
        for of in descriptions
        for latent in of.latents
    ]
    return render("latents", saes=[of.about for of in descriptions], data=script_data(records))


def _record(latent: Description, block: str) -> dict[str, Any]:
    return {
        "id": f"{block}{latent.latent_id}",
        "rate": latent.firing_rate,
        "at": [(*context[:3], context.activation) for context in latent.contexts],
        "up": latent.promoted,
        "down": latent.suppressed,
        "strengths": latent.strengths,
    }
