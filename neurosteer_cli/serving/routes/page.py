"""The page that a browser finds: what runs, where it is asked, and a line that works."""

import json
from collections.abc import Iterable
from html import escape
from importlib.resources import files
from shlex import quote
from string import Template

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse

from ..completions import Completions
from ..http.errors import routes_of
from ..registry import VectorRegistry

ABOUT = "/about"
DEMO = '<p><a href="./">Sliders in the browser</a></p>'


def add_page(
    app: FastAPI, completions: Completions, demo: str | None, style: str, *, needs_key: bool
) -> None:
    """The demo at /, if there is one, and at /about what runs; else that is at / too.

    Where a key is needed the page, which needs none, names no vectors.
    """
    about = Template((files("neurosteer_cli.serving") / "about.html").read_text(encoding="utf-8"))

    def page(request: Request) -> HTMLResponse:
        address = str(request.base_url).removesuffix("/")
        contents = _contents(app, completions, address, needs_key=needs_key)
        return HTMLResponse(about.substitute(contents, style=style, demo=DEMO if demo else ""))

    app.get(ABOUT, include_in_schema=False)(page)
    app.get("/", include_in_schema=False)((lambda: HTMLResponse(demo)) if demo else page)


def _contents(app: FastAPI, completions: Completions, address: str, *, needs_key: bool) -> dict[str, str]:
    registry, engine = completions.registry, completions.engine
    numbers = str(engine.dtype).removeprefix("torch.")
    paths = (
        f"<code>{path}</code> <small>{' '.join(methods)}</small>" for path, methods in routes_of(app).items()
    )
    return {
        "model": escape(registry.model_id),
        "shape": escape(f"{engine.shape}; {numbers} on {engine.device}"),
        "openai": escape(f"{address}/v1"),
        "ollama": escape(address),
        "curl": escape(
            _curl(address, registry.model_id if needs_key else registry.model_names[-1], needs_key)
        ),
        "vectors": "<p>Told with the key alone.</p>" if needs_key else _vectors(registry),
        "paths": _listed(paths),
    }


def _curl(address: str, model: str, needs_key: bool) -> str:
    asked = {"model": model, "prompt": "Once upon a time", "max_tokens": 20}
    key = " -H 'Authorization: Bearer KEY'" if needs_key else ""
    return (
        f"curl {quote(f'{address}/v1/completions')} -H 'Content-Type: application/json'{key} \\\n"
        f"  -d {quote(json.dumps(asked))}"
    )


def _vectors(registry: VectorRegistry) -> str:
    if not registry:
        return "<p>None. The server's option <code>--vectors</code> names files and folders of them.</p>"
    return _listed(
        f'<a href="v1/vectors/{name}">{name}</a>: <code>{escape(registry.suggested_model(name))}</code>'
        for name in sorted(registry)  # in VECTOR_NAME's characters
    )


def _listed(items: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>"
