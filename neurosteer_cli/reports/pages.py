"""Results as one HTML page each, which opens without a network; only the page of latents holds a script.

Knows results and the templates; knows nothing of models or vectors. Every text is escaped, and what no
page can hold replaced: what a language model wrote may hold anything.
"""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..evaluation.evaluate import Evaluation
from ..evaluation.layers import LayerSweep
from ..evaluation.samples import MAX_PPL_RATIO
from ..saes.descriptions import Description, Descriptions
from ..vectors.metadata import Calibration
from . import tables
from .verdict import by_layer, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

N_SHOWN = 12  # prompts whose continuations a page shows


def evaluation_page(evaluation: Evaluation, command: str) -> str:
    """The page of `neurosteer eval --report`: verdicts, curves, the whole table, sample texts.

    Args:
        command: as it was given, quoted for a shell.
    """
    from . import charts

    results, judges = evaluation.results, [judge.name for judge in evaluation.judges]
    return _evaluated(
        "evaluation.html",
        evaluation,
        command,
        {
            "dose": charts.effect_and_cost(results, judges),
            "cost": charts.effect_against_cost(results, judges),
        },
        samples=_samples(evaluation),
    )


def calibration_page(evaluation: Evaluation, calibration: Calibration, command: str) -> str:
    """The page of `neurosteer calibrate --report`: the fitted curve and the alphas it recommends."""
    from . import charts

    judges = [judge.name for judge in evaluation.judges]
    return _evaluated(
        "calibration.html",
        evaluation,
        command,
        {"dose": charts.effect_and_cost(evaluation.results, judges, calibration)},
        max_ratio=calibration.max_ppl_ratio,
        calibration=calibration,
        expected=tables.expected_table(calibration.curve),
    )


def _evaluated(
    template: str,
    evaluation: Evaluation,
    command: str,
    charts: "dict[str, Figure | None]",
    *,
    max_ratio: float = MAX_PPL_RATIO,
    **parts: Any,
) -> str:
    judges = [judge.name for judge in evaluation.judges]
    return _render(
        template,
        charts,
        page=evaluation,
        command=command,
        judges=evaluation.judges,
        max_ratio=max_ratio,
        verdicts=[verdict(evaluation.results, judge, max_ratio) for judge in judges],
        table=tables.evaluation_table(evaluation.results, judges),
        **parts,
    )


def _samples(evaluation: Evaluation) -> dict[str, Any]:
    """Conditions in alpha order, and of the first prompts each condition's first text with its scores."""
    prompts: dict[str, dict[Any, Any]] = {}
    for number, sample in enumerate(evaluation.samples):
        if sample.prompt in prompts or len(prompts) < N_SHOWN:
            scores = {judge: scores[number] for judge, scores in evaluation.scores.items()}
            prompts.setdefault(sample.prompt, {}).setdefault(sample.condition, (sample.text, scores))
    conditions = [result.condition for result in tables.in_alpha_order(evaluation.results)]
    shown = [condition for condition in conditions if any(condition in texts for texts in prompts.values())]
    return {"conditions": shown, "prompts": prompts}


def layers_page(sweep: LayerSweep, command: str) -> str:
    """The page of `neurosteer layers --report`: where the sides separate, and what steering there does."""
    from . import charts

    return _render(
        "layers.html",
        {part: charts.by_layer(sweep, part) for part in charts.parts_of(sweep)},
        page=sweep,
        command=command,
        judges=[sweep.judge] if sweep.judge else [],
        max_ratio=MAX_PPL_RATIO,
        findings=by_layer(sweep.layers),
        table=tables.layers_table(sweep.layers),
    )


def layers_plot(sweep: LayerSweep, path: Path) -> None:
    """The charts of the layers' page as one PNG or SVG file, by its suffix.

    Raises:
        InputError: the suffix is neither .png nor .svg.
        OutputError: the file cannot be written.
    """
    from . import charts, drawing

    drawing.save(charts.by_layer(sweep, *charts.parts_of(sweep)), path)


def latents_page(descriptions: Sequence[Descriptions]) -> str:
    """The page of one or several SAEs' latents, the SAE's block in front of each number if several."""
    several = len(descriptions) > 1
    records = [
        _record(latent, f"{one.about.hook_point.split('.')[1]}/" if several else "")
        for one in descriptions
        for latent in one.latents
    ]
    # `</script>` in a context must not end the page's data
    data = Markup(json.dumps(records, ensure_ascii=True).replace("<", "\\u003c"))
    return (
        environment().get_template("latents.html").render(saes=[one.about for one in descriptions], data=data)
    )


def _record(latent: Description, block: str) -> dict[str, Any]:
    return {
        "id": f"{block}{latent.latent_id}" if block else latent.latent_id,
        "rate": latent.firing_rate,
        "at": [[c.before, c.token, c.after, round(c.activation, 2)] for c in latent.contexts],
        "up": latent.promoted,
        "down": latent.suppressed,
    }


def _render(template: str, charts: "dict[str, Figure | None]", **parts: Any) -> str:
    from .drawing import inline_svg

    drawn = {name: Markup(inline_svg(figure, name)) for name, figure in charts.items() if figure is not None}
    return environment().get_template(template).render(charts=drawn, **parts)


@cache
def environment() -> Environment:
    """Where templates are found, and how texts and numbers are written in them."""
    found = Environment(
        loader=PackageLoader("neurosteer_cli.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # a `str` and no Markup, which comes of templates and charts
        finalize=lambda value: tables.showable(value) if type(value) is str else value,
    )
    for written in (tables.showable, tables.interval, tables.percent_within, tables.fixed_within):
        found.filters[written.__name__] = written
    return found
