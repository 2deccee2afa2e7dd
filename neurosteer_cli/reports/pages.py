"""Numbers and texts to one HTML page that opens without a network and holds no script.

Knows the documents that commands hand over, and the templates in pages/; knows nothing of models or
vectors. Every text of a document is escaped: what a language model wrote may hold anything.

Soon, in place of the documents (each returns the page's text; `command` is as it was given, quoted):
    evaluation_page(evaluation: Evaluation, command)  # has title, results, samples, scores, judges, provenance
    calibration_page(evaluation: Evaluation, calibration: Calibration, command)
    layers_page(sweep: LayerSweep, command)  # has title, layers, judge, unsteered_rate, provenance
    layers_plot(sweep: LayerSweep, path)
    latents_page(list[Descriptions])
The first continuations of each condition (`_examples`) are picked by `evaluation_page` itself.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from . import charts, figures
from .panels import Chart
from .tables import (
    Estimate,
    Setting,
    auroc,
    estimate,
    fixed,
    in_alpha_order,
    interval,
    percent,
    read_settings,
    showable,
)
from .verdict import KINDS, by_layer, verdict

if TYPE_CHECKING:
    from jinja2 import Environment

Document = dict[str, Any]


@dataclass(frozen=True)
class Provenance:
    """What heads a page, and what it takes to repeat the run.

    title: what was measured, such as "polite.st on smollm2".
    command: as it was given, quoted for a shell.
    settings: every setting of the run by name, JSON-able.
    """

    title: str
    command: str
    settings: Mapping[str, Any]


class Cell(NamedTuple):
    """A number as it is written, and its interval beneath."""

    main: str
    small: str = ""


@dataclass(frozen=True)
class Column:
    """A column of a table; it is left out where no row has a cell."""

    group: str
    heading: str
    cell: Callable[[Any], Cell | None]


def evaluation_page(document: Document) -> str:
    """The page of `neurosteer eval --report`: verdicts, curves, the whole table, sample texts.

    Args:
        document: "title", "command", "facts", "judges", "rows", "samples" and "notes".
    """
    document = showable(document)
    settings = read_settings(document["rows"])
    names = [judge["name"] for judge in document["judges"]]
    return _render(
        "evaluation.html",
        document,
        verdicts=[verdict(settings, name) for name in names],
        charts=_inline(figures.evaluation_charts(settings, names)),
        table=_table(_setting_columns(names), in_alpha_order(settings)),
        samples=_samples(document["samples"], settings),
    )


def calibration_page(document: Document) -> str:
    """The page of `neurosteer calibrate --report`: the fitted curve and the alphas it recommends.

    Args:
        document: "title", "command", "facts", "judges", "rows", "recommended", "max_ppl_ratio" and
            "expected", the monotone curve of the first judge.
    """
    document = showable(document)
    settings = read_settings(document["rows"])
    names = [judge["name"] for judge in document["judges"]]
    chart = figures.calibration_chart(document, settings, names)
    return _render(
        "calibration.html",
        document,
        verdicts=[verdict(settings, name, document["max_ppl_ratio"]) for name in names],
        allowed=figures.allowed_range(settings, document["max_ppl_ratio"]),
        charts=_inline({"dose": chart} if chart.panels else {}),
        table=_table(_setting_columns(names), in_alpha_order(settings)),
        expected=_table(_EXPECTED, document["expected"]),
    )


def layers_page(document: Document) -> str:
    """The page of `neurosteer layers --report`: where the sides separate, and what steering there does.

    Args:
        document: "title", "command", "facts", "rows" and, if any row has "steer", "judge".
    """
    document = showable(document)
    doses = sorted({steer["alpha"] for row in document["rows"] for steer in row.get("steer") or ()})
    dosed = [column for alpha in doses for column in _dose_columns(alpha)]
    return _render(
        "layers.html",
        document,
        findings=by_layer(document["rows"]),
        charts=_inline(figures.layer_charts(document)),
        table=_table([*_LAYER, *dosed], document["rows"]),
        steered=bool(doses),
    )


def layers_plot(document: Document, path: Path) -> None:
    """The charts of the layers' page as one PNG or SVG file, by its suffix.

    Raises:
        InputError: the suffix is neither .png nor .svg.
        OutputError: the file cannot be written.
    """
    parts = figures.layer_charts(showable(document)).values()
    panels = [panel for chart in parts for panel in chart.panels]
    charts.save(Chart("Separation and steering by layer", panels), path)


# --- tables ------------------------------------------------------------------------------------


def _percent(found: Estimate | None) -> Cell | None:
    return found and Cell(percent(found.value, 1), interval(found, 1, 100))


def _fixed(found: Estimate | None, digits: int = 2) -> Cell | None:
    return found and Cell(fixed(found.value, digits), interval(found, digits))


def _tenths(found: Estimate | None) -> Cell | None:
    return _fixed(found, 1)


def _thousandths(found: Estimate | None) -> Cell | None:
    return _fixed(found, 3)


def _points(found: Estimate | None) -> Cell | None:
    return found and Cell(f"{100 * found.value:+.1f}", interval(found, 1, 100))


def _plain(value: Any) -> Cell | None:
    """A value as it stands: a label, a count, an alpha or several."""
    if isinstance(value, list):
        return Cell(", ".join(f"{one:g}" for one in value))
    if value is None:
        return None
    return Cell(f"{value:g}" if isinstance(value, float) else str(value))


def _own(group: str, heading: str, key: str) -> Column:
    return Column(group, heading, lambda one: _plain(one.record.get(key)))


def _number(
    group: str,
    heading: str,
    key: str,
    write: Callable[[Estimate | None], Cell | None],
    judge: str | None = None,
) -> Column:
    return Column(group, heading, lambda one: write(one.number(key, judge)))


def _setting_columns(judges: Sequence[str]) -> list[Column]:
    judged = [column for judge in judges for column in _judge_columns(judge)]
    return [*_SETTING, *judged, *_COST, *_DIVERSITY, *_TEXTS]


def _judge_columns(judge: str) -> list[Column]:
    group = f"judge “{judge}”"

    def failed(one: Setting) -> Cell | None:
        return _plain(one.record.get("judges", {}).get(judge, {}).get("n_failed") or None)

    return [
        _number(group, "positive", "rate", _percent, judge),
        _number(group, "difference, points", "rate_difference", _points, judge),
        _number(group, "mean score", "mean", _fixed, judge),
        _number(group, "fluency", "fluency", _fixed, judge),
        Column(group, "failed", failed),
    ]


_SETTING = [
    _own("setting", "alpha", "alpha"),
    _number("setting", "dose", "dose", _percent),
    _own("setting", "positions", "positions"),
]
_COST = [
    _number("cost", "perplexity", "perplexity", _fixed),
    Column("cost", "ratio", lambda one: _fixed(one.ratio)),
    _number("cost", "KL, nats", "kl", _thousandths),
]
_DIVERSITY = [
    _number("diversity", "distinct 1", "distinct_1", _thousandths),
    _number("diversity", "distinct 2", "distinct_2", _thousandths),
    _number("diversity", "distinct 3", "distinct_3", _thousandths),
    _number("diversity", "repetition 4", "repetition_4", _thousandths),
    _number("diversity", "tokens", "length", _tenths),
]
_TEXTS = [_own("texts", "n", "n"), _own("texts", "prompts", "n_prompts"), _own("texts", "empty", "n_empty")]
_EXPECTED = [
    Column("positive", "expected", lambda one: _percent(estimate(one["rate"]))),
]
_LAYER = [
    Column("place", "hook point", lambda row: _plain(row["hook_point"])),
    Column("separation", "AUROC", lambda row: _fixed(auroc(row))),
    Column("separation", "AUROC, SAE", lambda row: _fixed(estimate(row.get("sae_auroc")))),
    Column("residual", "shift", lambda row: _percent(estimate(row["shift_share"]))),
    Column("residual", "norm", lambda row: _tenths(estimate(row["resid_norm"]))),
]


def _dose_columns(alpha: float) -> list[Column]:
    def found(row: Any, key: str) -> Estimate | None:
        steer = [one for one in row.get("steer") or () if one["alpha"] == alpha]
        return estimate(steer[0].get(key)) if steer else None

    group = f"alpha {alpha:g}"
    return [
        Column(group, "positive", lambda row: _percent(found(row, "rate"))),
        Column(group, "ratio", lambda row: _fixed(found(row, "perplexity_ratio"))),
    ]


def _table(columns: Sequence[Column], rows: Sequence[Any]) -> dict[str, Any]:
    """Heading groups with their spans, headings, and the rows' cells; empty columns are left out."""
    shown = [column for column in columns if any(column.cell(row) for row in rows)]
    groups = [(group, len(list(members))) for group, members in groupby(column.group for column in shown)]
    cells = [(row, [column.cell(row) for column in shown]) for row in rows]
    return {"groups": groups, "headings": [column.heading for column in shown], "rows": cells}


# --- samples, charts, the page ------------------------------------------------------------------


def _samples(samples: Sequence[Document], settings: Sequence[Setting]) -> dict[str, Any]:
    """The settings that have texts, in alpha order, and each prompt's texts by setting."""
    prompts = [(one["prompt"], {text["row"]: text for text in one["texts"]}) for one in samples]
    columns = [one for one in in_alpha_order(settings) if any(one.index in texts for _, texts in prompts)]
    return {"settings": columns, "prompts": prompts}


def _inline(drawings: dict[str, Chart]) -> dict[str, Any]:
    from markupsafe import Markup

    return {name: Markup(charts.inline_svg(chart, name)) for name, chart in drawings.items()}


def _render(template: str, document: Document, **parts: Any) -> str:
    return _environment().get_template(template).render(document=document, kinds=KINDS, **parts)


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("neurosteer_cli.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
