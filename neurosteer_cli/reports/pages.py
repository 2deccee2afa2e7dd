"""Results as one HTML page each, which opens without a network; only the page of latents holds a script.

Knows results and the templates; knows nothing of models or vectors. Every text is escaped, and what no
page can hold replaced: what a language model wrote may hold anything.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from ..evaluation.evaluate import Evaluation
from ..evaluation.layers import LayerSweep
from ..evaluation.samples import MAX_PPL_RATIO, Condition
from ..saes.descriptions import Descriptions
from ..vectors.metadata import Calibration
from . import charts, tables
from .drawing import inline_svg
from .verdict import layers_verdict, verdict

Figures = Mapping[str, Figure | None]

N_SHOWN = 12  # prompts whose continuations a page shows


def evaluation_page(evaluation: Evaluation, command: str) -> str:
    """The page of `neurosteer eval --report`: verdicts, curves, the whole table, sample texts."""
    figures = {"dose": charts.effect_and_cost(evaluation), "cost": charts.effect_against_cost(evaluation)}
    return _evaluated("evaluation", evaluation, command, figures, MAX_PPL_RATIO, samples=_samples(evaluation))


def calibration_page(evaluation: Evaluation, calibration: Calibration, command: str) -> str:
    """The page of `neurosteer calibrate --report`: the fitted curve and the alphas it recommends."""
    figures = {"dose": charts.effect_and_cost(evaluation, calibration)}
    parts = {"calibration": calibration, "expected": tables.expected_table(calibration.curve)}
    return _evaluated("calibration", evaluation, command, figures, calibration.max_ppl_ratio, **parts)


def _evaluated(
    name: str, evaluation: Evaluation, command: str, figures: Figures, max_ratio: float, **parts: Any
) -> str:
    return _render(
        name,
        figures,
        page=evaluation,
        command=command,
        judges=evaluation.judges,
        max_ratio=max_ratio,
        verdicts=[verdict(evaluation.results, judge.name, max_ratio) for judge in evaluation.judges],
        table=tables.evaluation_table(evaluation),
        **parts,
    )


def _samples(evaluation: Evaluation) -> dict[str, Any]:
    """Conditions in alpha order, and of the first prompts each condition's first text with its scores."""
    prompts: dict[str, dict[Condition, Any]] = {}
    for number, sample in enumerate(evaluation.samples):
        if sample.prompt in prompts or len(prompts) < N_SHOWN:
            scores = {judge: scores[number] for judge, scores in evaluation.scores.items()}
            prompts.setdefault(sample.prompt, {}).setdefault(sample.condition, (sample.text, scores))
    conditions = [result.condition for result in tables.in_alpha_order(evaluation.results)]
    shown = [condition for condition in conditions if any(condition in texts for texts in prompts.values())]
    return {"conditions": shown, "prompts": prompts}


def layers_page(sweep: LayerSweep, command: str) -> str:
    """The page of `neurosteer layers --report`: where the sides separate, and what steering there does."""
    return _render(
        "layers",
        {part: charts.by_layer(sweep, part) for part in charts.parts_of(sweep)},
        page=sweep,
        command=command,
        judges=[sweep.judge] if sweep.judge else [],
        max_ratio=MAX_PPL_RATIO,
        findings=layers_verdict(sweep.layers),
        table=tables.layers_table(sweep.layers),
    )


def latents_page(descriptions: Sequence[Descriptions]) -> str:
    """The page of one or several SAEs' latents, the SAE's block in front of each number if several."""
    several = len(descriptions) > 1
    records = [
        {
            "id": f"{of.about.hook_point.split('.')[1]}/{latent.latent_id}" if several else latent.latent_id,
            "rate": latent.firing_rate,
            "at": [(*context[:3], round(context.activation, 2)) for context in latent.contexts],
            "up": latent.promoted,
            "down": latent.suppressed,
        }
        for of in descriptions
        for latent in of.latents
    ]
    # `</script>` in a context must not end the page's data
    data = Markup(json.dumps(records, ensure_ascii=True).replace("<", "\\u003c"))
    return (
        environment().get_template("latents.html").render(saes=[of.about for of in descriptions], data=data)
    )


def _render(name: str, figures: Figures, **parts: Any) -> str:
    drawn = {chart: Markup(inline_svg(figure, chart)) for chart, figure in figures.items() if figure}
    return environment().get_template(f"{name}.html").render(charts=drawn, **parts)


@cache
def environment() -> Environment:
    """Where templates are found, and how texts and numbers are written in them."""
    templates = Environment(
        loader=PackageLoader("neurosteer_cli.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # a `str` and no Markup, which comes of templates and charts
        finalize=lambda value: tables.showable(value) if type(value) is str else value,
    )
    filters = (tables.showable, tables.interval, tables.percent_within, tables.fixed_within)
    templates.filters.update({write.__name__: write for write in filters})
    return templates
