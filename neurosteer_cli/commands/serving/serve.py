"""neurosteer serve: an OpenAI-compatible server whose requests say how to steer."""

import math
import re
from typing import Annotated

import typer

from ...errors import InputError
from ..shared import options
from ..shared.options import ModelOptions
from ..shared.parse import parse_count
from .server import LOOPBACK, More, Port, Vectors, bound, check_installed, load, run, style_sheet

ApiKey = Annotated[
    str | None,
    typer.Option(
        envvar="NEUROSTEER_API_KEY", help="Key that requests must bring, as Authorization: Bearer KEY."
    ),
]
TimeLimit = Annotated[
    float, typer.Option(help="Seconds a request may take; then it gets what was written till then.")
]
AllowOrigin = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ORIGIN",
        help="Site whose pages may ask, as http://localhost:3000; * allows all; may be repeated.",
    ),
]
Log = Annotated[bool, typer.Option("--log/--no-log", help="A line about each request, on stderr.")]
LogTexts = Annotated[bool, typer.Option("--log-texts", help="With prompts and texts in it.")]


@options.chat_model_options
def serve(
    more: More = None,
    vectors: Vectors = None,
    *,
    where: ModelOptions,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Port = 8000,
    api_key: ApiKey = None,
    max_batch: Annotated[int, typer.Option(help="Continuations written at a time.")] = 32,
    max_waiting: Annotated[
        int, typer.Option(help="Continuations that may wait for a place; then 429 is answered.")
    ] = 64,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens written for a request at most.")] = 1024,
    max_request: Annotated[str, typer.Option(help="Bytes of a request at most: 1M, 500k.")] = "1M",
    time_limit: TimeLimit = 120,
    shutdown_time: Annotated[
        float, typer.Option(help="Seconds that what runs has to be finished after SIGTERM or Ctrl-C.")
    ] = 30,
    allow_origin: AllowOrigin = None,
    log: Log = True,
    log_texts: LogTexts = False,
) -> None:
    """Serve the model to OpenAI's clients; each request says how to steer.

    A request steers by its field "steering": {"polite": 8, "happy": -2}, or by its model's name:
    smollm2+polite:8. Requests of all kinds are written together, each with its own vectors.
    Clients of OpenAI ask under /v1, Ollama's under /api; the page at / says what runs, and all paths.

    Example: neurosteer serve --vectors vectors/ --port 8000
    """
    check_installed()
    _check_numbers(
        max_batch=max_batch,
        max_waiting=max_waiting,
        max_new_tokens=max_new_tokens,
        time_limit=time_limit,
        shutdown_time=shutdown_time,
    )
    if api_key is not None and not (api_key and api_key.isascii() and api_key.isprintable()):
        raise InputError("--api-key must be printable ASCII, at least one character")
    if log_texts and not log:
        raise InputError("--log-texts says what to log; leave out --no-log")
    max_bytes, origins = parse_count(max_request, "--max-request"), _origins(allow_origin or [])
    from ...serving.app import ServerConfig
    from ...serving.completions import Limits

    listener = bound(host, port)
    limits = Limits(max_new_tokens=max_new_tokens, seconds=time_limit)
    paths = [*(vectors or []), *(more or [])]
    completions, followed = load(paths, where, limits, max_batch=max_batch, max_waiting=max_waiting)
    config = ServerConfig(
        max_bytes=max_bytes,
        api_key=api_key,
        hosts=LOOPBACK if host in LOOPBACK and api_key is None else None,
        shutdown_seconds=shutdown_time,
        allow_origins=origins,
        log_texts=log_texts,
        style=style_sheet(),
    )
    run(completions, config, listener, followed, log=log)


def _origins(given: list[str]) -> tuple[str, ...]:
    """Origins as browsers write them."""
    origins = tuple(origin.lower().removesuffix("/") for origin in given)
    for origin in origins:
        if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s]+", origin):
            raise InputError(f"--allow-origin {origin}: give scheme and host, as http://localhost:3000, or *")
    return origins


def _check_numbers(**values: float) -> None:
    """Hold options that must be above 0 against that."""
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise InputError(f"--{name.replace('_', '-')} must be a finite number above 0, got {value:g}")
