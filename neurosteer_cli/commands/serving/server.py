"""What serve and demo share: load the model and its vectors, and run the server until it is told to stop."""

import logging
import math
import os
import signal
import socket
import threading
from contextlib import suppress
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...errors import InputError, NeurosteerError
from ..shared import console
from ..shared.load import load_engine
from ..shared.options import ModelOptions

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType

    from ...serving.app import ServerConfig
    from ...serving.completions import Completions, Limits
    from ...serving.vector_files import VectorFiles
    from ...vectors.vector import SteeringVector

NEEDED = ("fastapi", "uvicorn", "prometheus_client")
MAX_CONNECTIONS = 1024
LOOPBACK = ("127.0.0.1", "localhost", "::1")

Vectors = Annotated[
    list[Path] | None,
    typer.Option("--vectors", "-v", help="Folder of vector files, or one file; may be repeated."),
]
More = Annotated[
    list[Path] | None, typer.Argument(metavar="[VECTORS]...", help="More of them.", show_default=False)
]
Port = Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")]


def check_installed() -> None:
    """Refuse to go on without the server's libraries."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise NeurosteerError(
            f"the server needs {', '.join(missing)}: install it with pip install 'neurosteer[serve]'"
        )


def load(
    paths: list[Path], where: ModelOptions, limits: "Limits | None" = None, **scheduling: int
) -> "tuple[Completions, VectorFiles]":
    """Text by the model named or the vectors' own, scheduled so, and the files it is steered by.

    Every file is read before the model is. One that cannot be served is named, and left out.
    """
    from ...serving.completions import Completions, Limits
    from ...serving.registry import VectorRegistry
    from ...serving.scheduler import Scheduler
    from ...serving.vector_files import VectorFiles

    vectors = VectorFiles(paths, console.note)
    first = vectors.first()
    engine = load_engine(where, _of_one_model(first, where))
    registry = VectorRegistry(engine.shape, Path(engine.model_id).name)
    vectors.apply(first, registry)
    if paths and not registry and not any(os.path.isdir(path) for path in paths):
        raise NeurosteerError("none of the vectors that were named can be served")
    return Completions(engine, registry, Scheduler(engine, **scheduling), limits or Limits()), vectors


def _of_one_model(
    found: "Mapping[Path, SteeringVector | NeurosteerError | None]", where: ModelOptions
) -> "list[tuple[str, SteeringVector]]":
    """The vectors to find the model by, each with its file: none where it is named."""
    from ...vectors.vector import SteeringVector

    named = [(str(file), vector) for file, vector in found.items() if isinstance(vector, SteeringVector)]
    if where.model:
        return []
    firsts: dict[str, str] = {}  # the first file of each model
    for file, vector in named:
        firsts.setdefault(str(vector.metadata.model_shape), f"{file} of {vector.metadata.model_id!r}")
    if len(firsts) > 1:
        models = ", ".join(firsts.values())
        raise InputError(f"vectors of several models: {models}; name one of them by --model")
    return named


def run(
    completions: "Completions",
    config: "ServerConfig",
    listener: socket.socket,
    vectors: "VectorFiles",
    *,
    log: bool = False,
) -> None:
    """Serve until SIGINT or SIGTERM; what runs then is finished, unless SIGINT comes again.

    log: whether to write a line about each request on stderr.
    """
    import uvicorn

    from ...serving.app import create_app

    _begin_log(requests=log)

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: "FrameType | None") -> None:
            """Begin to end what runs at once, so that what cannot be finished is still answered."""
            if self.should_exit and sig == signal.SIGINT:
                os.write(2, b"interrupted\n")  # others may be within a line of theirs
                os._exit(130)  # nothing is on disk, and whatever waits for a text learns that none comes
            is_first = not self.should_exit
            super().handle_exit(sig, frame)
            if is_first:
                threading.Thread(target=_wind_up, args=(completions, config.shutdown_seconds)).start()

    server = Server(
        uvicorn.Config(
            create_app(completions, config, vectors),
            log_config=None,
            access_log=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=math.ceil(config.shutdown_seconds) + 2,  # then all have been told
        )
    )
    _announce(completions, config, listener)
    # the signal comes once more, after everything has been finished
    with listener, suppress(KeyboardInterrupt, SystemExit):
        server.run(sockets=[listener])
    console.note("stopped")


def _wind_up(completions: "Completions", seconds: float) -> None:
    if completions.scheduler.is_busy:
        console.note(f"finishing what runs, for up to {seconds:g} s; Ctrl-C again ends it at once")
    completions.scheduler.close(seconds)


def _begin_log(*, requests: bool) -> None:
    """Warnings go to stderr, and a line a request where they are wanted."""
    from ...serving.http.middleware import requests_log

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    if requests:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        requests_log.addHandler(handler)
        requests_log.setLevel(logging.INFO)
        requests_log.propagate = False


def _announce(completions: "Completions", config: "ServerConfig", listener: socket.socket) -> None:
    registry, host = completions.registry, listener.getsockname()[0]
    numbers = str(completions.engine.dtype).removeprefix("torch.")
    names = ", ".join(sorted(registry)) or "no vector"
    place = address_of(listener) + ("" if config.page else "/v1")
    console.note(f"serving {registry.model_id} ({numbers}) with {names} on {place}; Ctrl-C ends it")
    if host not in LOOPBACK and config.api_key is None:
        console.warn(f"{host} may be reached from other machines, and no --api-key is set")


def style_sheet() -> str:
    """The CSS that all pages share."""
    return (files("neurosteer_cli.reports") / "templates" / "style.css").read_text(encoding="utf-8")


def address_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def bound(host: str, port: int) -> socket.socket:
    """A socket with an address of its own, so that a taken one is told before a model is loaded."""
    if not 0 <= port <= 65535:
        raise InputError(f"--port must be between 0 and 65535, got {port}")
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise NeurosteerError(
            f"cannot listen on {host}:{port} ({error.strerror}); choose another --host or --port"
        ) from error
    return listener
