"""Pages from templates: where these are found, and how texts and numbers are written in them.

Knows the templates; knows nothing of what is shown. Every text is escaped, and what no page can hold
replaced: what a language model wrote may hold anything.
"""

import json
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..data.sides import FEW_TEXTS
from ..evaluation.runs.samples import FEW_PROMPTS, LEAST_DIVERSITY
from . import text


def render(name: str, **parts: Any) -> str:
    """The page of a template."""
    return environment().get_template(f"{name}.html").render(**parts)


def script_data(value: Any) -> Markup:
    """JSON inside a `<script>` element, which no text in it can end."""
    return Markup(json.dumps(value, ensure_ascii=True).replace("<", "\\u003c"))


@cache
def environment() -> Environment:
    """The templates, strict about names."""
    templates = Environment(
        loader=PackageLoader("neurosteer_cli.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # a `str` and no Markup, which comes of templates and charts
        finalize=lambda value: text.showable(value) if type(value) is str else value,
    )
    filters = (
        text.showable,
        text.interval,
        text.fixed,
        text.percent,
        text.percent_within,
        text.fixed_within,
        text.listed,
    )
    templates.filters.update({write.__name__: write for write in filters})
    templates.globals["few_prompts"] = FEW_PROMPTS
    templates.globals["few_texts"] = FEW_TEXTS
    templates.globals["least_diversity"] = LEAST_DIVERSITY
    return templates
