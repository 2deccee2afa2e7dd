"""neurosteer demo: a page in the browser, with a slider for each vector."""

import threading
import webbrowser
from importlib.resources import as_file, files
from typing import Annotated

import typer

from ..shared.options import Device, Dtype, Model, ModelOptions
from .server import LOOPBACK, More, Port, Vectors, address_of, bound, check_installed, load, run

SECONDS_TO_START = 1.0


def demo(
    more: More = None,
    vectors: Vectors = None,
    model: Model = None,
    port: Port = 8008,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Try vectors in the browser: sliders, unsteered and steered text side by side, new vectors.

    Without --vectors it shows two that come with neurosteer, polite and happy, for the embedded default.
    The page and the server behind it are on this machine alone; Ctrl-C ends both.

    Example: neurosteer demo --vectors vectors/
    """
    check_installed()
    from ...models.checkpoints.resolve import DEFAULT_MODEL
    from ...serving.app import ServerConfig

    listener = bound("127.0.0.1", port)
    where = ModelOptions(model=model, dtype=dtype, device=device)
    with as_file(files("neurosteer_cli.vectors") / "bundled") as bundled:
        of_model = [bundled] if model in (None, DEFAULT_MODEL) else []
        completions, followed = load([*(vectors or []), *(more or [])] or of_model, where)
    if browser:
        timer = threading.Timer(SECONDS_TO_START, webbrowser.open, [address_of(listener)])
        timer.daemon = True
        timer.start()
    config = ServerConfig(page=True, fitting=True, hosts=LOOPBACK, shutdown_seconds=5)
    run(completions, config, listener, followed)
