"""What serve and demo share: load the model and its vectors, and run the server until it is told to stop."""

import logging
import math
import socket
import threading
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...errors import InputError, NeurosteerError
from ..shared import console
from ..shared.load import load_engine
from ..shared.options import ModelOptions

if TYPE_CHECKING:
    from types import FrameType

    from ...serving.app import ServerConfig
    from ...serving.completions import Completions, Limits

NEEDED = ("fastapi", "uvicorn", "prometheus_client")
MAX_CONNECTIONS = 1024
LOOPBACK = ("127.0.0.1", "localhost", "::1")

Vectors = Annotated[
    list[Path] | None,
    typer.Option("--vectors", "-v", help="Folder of vector files, or one file; may be repeated."),
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
) -> "Completions":
    """Text by the model named or the vectors' own, scheduled so; every file is read before the model is."""
    from ...serving.completions import Completions, Limits
    from ...serving.registry import VectorRegistry, vector_files
    from ...serving.scheduler import Scheduler
    from ...vectors.vector import SteeringVector

    vectors = [(str(file), SteeringVector.load(file)) for file in vector_files(paths)]
    engine = load_engine(where, vectors)
    registry = VectorRegistry(engine.shape, Path(engine.model_id).name)
    for file, vector in vectors:
        registry.add(Path(file).stem, vector, file)
    return Completions(engine, registry, Scheduler(engine, **scheduling), limits or Limits())


def run(completions: "Completions", config: "ServerConfig", listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM; what runs then is finished."""
    import uvicorn

    from ...serving.app import create_app

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: "FrameType | None") -> None:
            """Begin to end what runs at once, so that what cannot be finished is still answered."""
            threading.Thread(target=completions.scheduler.close, args=(config.shutdown_seconds,)).start()
            super().handle_exit(sig, frame)

    server = Server(
        uvicorn.Config(
            create_app(completions, config),
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


def _announce(completions: "Completions", config: "ServerConfig", listener: socket.socket) -> None:
    registry, host = completions.registry, listener.getsockname()[0]
    numbers = str(completions.engine.dtype).removeprefix("torch.")
    names = ", ".join(sorted(registry)) or "no vector"
    place = address_of(listener) + ("" if config.page else "/v1")
    console.note(f"serving {registry.model_id} ({numbers}) with {names} on {place}; Ctrl-C ends it")
    if host not in LOOPBACK and config.api_key is None:
        console.warn(f"{host} may be reached from other machines, and no --api-key is set")


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
