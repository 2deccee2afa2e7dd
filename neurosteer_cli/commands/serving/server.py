"""What serve and demo share: load the model and its vectors, and run the server until it is told to stop."""

import logging
import math
import socket
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...errors import InputError, NeurosteerError
from ..shared import console
from ..shared.load import load_engine
from ..shared.options import ModelOptions

if TYPE_CHECKING:
    from collections.abc import Callable
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
Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")]
MaxBatch = Annotated[int, typer.Option(help="Continuations written at a time.")]


def check_installed() -> None:
    """Refuse to go on without the server's libraries.

    Raises:
        NeurosteerError: they are not installed.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise NeurosteerError(
            f"the server needs {', '.join(missing)}: install it with pip install 'neurosteer[serve]'"
        )


def load(
    paths: list[Path],
    where: ModelOptions,
    limits: "Limits | None" = None,
    *,
    max_batch: int = 32,
    max_waiting: int = 64,
) -> "Completions":
    """Text by the model named or the vectors' own; every file is read before the model is.

    Args:
        max_batch, max_waiting: as for `Scheduler`.
    """
    from ...models.resolve import DEFAULT_MODEL
    from ...serving.completions import Completions, Limits
    from ...serving.registry import VectorRegistry, vector_files
    from ...serving.scheduler import Scheduler
    from ...vectors.vector import SteeringVector

    files = vector_files(paths)
    vectors = [SteeringVector.load(file) for file in files]
    engine = load_engine(where, list(zip(map(str, files), vectors, strict=True)))
    name = engine.model_id if engine.model_id == DEFAULT_MODEL else Path(engine.model_id).name
    registry = VectorRegistry.of_files(zip(files, vectors, strict=True), engine.shape, name)
    scheduler = Scheduler(engine, max_batch=max_batch, max_waiting=max_waiting)
    return Completions(engine, registry, scheduler, limits or Limits())


def run(
    completions: "Completions",
    config: "ServerConfig",
    listener: socket.socket,
    listening: "Callable[[str], None]" = lambda _address: None,
) -> None:
    """Serve until SIGINT or SIGTERM; what runs then is finished.

    Args:
        listener: bound already.
        listening: told the address once connections are taken.
    """
    import uvicorn

    from ...serving.app import create_app

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: "FrameType | None") -> None:
            """Begin to end what runs at once, so that what cannot be finished is still answered."""
            close = completions.scheduler.close
            threading.Thread(target=close, args=(config.shutdown_seconds,)).start()
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
    listening(_announced(completions, config, listener))
    try:
        server.run(sockets=[listener])
    except (KeyboardInterrupt, SystemExit):  # the signal, once more, after everything has been finished
        pass
    finally:
        listener.close()
    console.note("stopped")


def _announced(completions: "Completions", config: "ServerConfig", listener: socket.socket) -> str:
    """The address, which has been said on stderr with what is served there."""
    engine, registry = completions.engine, completions.registry
    host, port = listener.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    names = ", ".join(registry) or "no vector"
    numbers = str(engine.dtype).removeprefix("torch.")
    place = address if config.page else f"{address}/v1"
    console.note(f"serving {registry.model_id} ({numbers}) with {names} on {place}; Ctrl-C ends it")
    if host not in LOOPBACK and config.api_key is None:
        console.warn(f"{host} may be reached from other machines, and no --api-key is set")
    return address


def check_numbers(**values: float) -> None:
    """Hold options that must be above 0 against that.

    Raises:
        InputError: one is not.
    """
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise InputError(f"--{name.replace('_', '-')} must be a finite number above 0, got {value:g}")


def bound(host: str, port: int) -> socket.socket:
    """A socket with an address of its own, so that a taken one is told before a model is loaded.

    Raises:
        InputError: no such port.
        NeurosteerError: the address cannot be had.
    """
    if not 0 <= port <= 65535:
        raise InputError(f"--port must be between 0 and 65535, got {port}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
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
