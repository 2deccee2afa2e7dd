"""The `neurosteer` executable: its commands, and errors as text and exit codes.

Knows typer; every command lives in `commands`. Nothing heavy is imported on the way to `--help`.
"""

import _thread
import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from . import __version__
from .commands.doctor import doctor
from .commands.evaluation.calibrate import calibrate_
from .commands.evaluation.eval import eval_
from .commands.evaluation.layers import layers_
from .commands.export import export
from .commands.fit import fit_
from .commands.gen import gen
from .commands.import_ import import_vector
from .commands.sae import app as sae
from .commands.serving.demo import demo
from .commands.serving.serve import serve
from .commands.shared.command import HELP_OPTIONS, Command
from .commands.vectors.combine import combine_
from .commands.vectors.inspect import inspect
from .commands.vectors.lint import lint_
from .commands.vectors.score import score_
from .errors import NeurosteerError


@contextmanager
def _exit_codes() -> Iterator[None]:
    """Turn what is raised on purpose into a line on stderr; a bug keeps its traceback."""
    try:
        with _ended_by_interruption():
            yield
    except NeurosteerError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from None
    except BrokenPipeError:  # `| head` has had enough
        # Python flushes stdout at exit; there is nobody left to read it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except OSError as error:  # what is on the way to a file is an OutputError already
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EBADF):
            raise
        typer.echo(f"error: <stdout>: cannot write ({error.strerror})", err=True)
        raise typer.Exit(1) from None


@contextmanager
def _ended_by_interruption() -> Iterator[None]:
    """Turn Ctrl-C into a word on stderr, and what a library, cut off while it is imported, makes of it."""
    try:
        yield
    except (KeyboardInterrupt, Exception) as error:
        if not isinstance(error, KeyboardInterrupt) and not _interrupted.is_set():
            raise
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one has nothing left to end
        typer.echo("interrupted", err=True)
        raise typer.Exit(130) from None


COMPLETION = "_NEUROSTEER_COMPLETE"  # set while a shell asks for its completion


class _Program(TyperGroup):
    def make_context(self, *args: Any, **settings: Any) -> Any:
        with _exit_codes():  # --help and --version write here
            return super().make_context(*args, **settings)

    def invoke(self, ctx: Any) -> Any:
        with _exit_codes():
            return super().invoke(ctx)


app = typer.Typer(
    cls=_Program,
    invoke_without_command=True,
    context_settings=HELP_OPTIONS,
    rich_markup_mode=None,  # help texts contain shapes such as [batch, pos, d_model]
    pretty_exceptions_enable=False,  # a bug shows a plain, pasteable traceback
)
for command in (
    fit_,
    lint_,
    gen,
    combine_,
    inspect,
    score_,
    eval_,
    calibrate_,
    layers_,
    export,
    serve,
    demo,
    doctor,
):
    name = command.__name__.rstrip("_")  # `eval_`, beside the library's or Python's own
    app.command(name, cls=Command)(command)
app.command("import", cls=Command)(import_vector)  # `import` is no name for a function
app.add_typer(sae, name="sae")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"neurosteer {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    context: typer.Context,
    _asked: Annotated[
        bool, typer.Option("--version", "-V", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Steer a language model with the latents of a sparse autoencoder.

    Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 could not be done,
    2 wrong option or input, 130 interrupted.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("help", cls=Command)
def help_(
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[COMMAND]...", help="As in: sae train")
    ] = None,
) -> None:
    """Show what a command does and takes, as --help after it."""
    app([*(command or []), "--help"], prog_name="neurosteer")


def run() -> None:
    """Run the program. SIGTERM ends it as an exception does, so that nothing half-made is left."""
    program = typer.main.get_command(app)  # takes a moment, in which Ctrl-C still ends without a word
    signal.signal(signal.SIGINT, _interrupt)
    sys.unraisablehook = _again
    signal.signal(signal.SIGTERM, _terminate)
    _suit_streams()
    if (asked := os.environ.get(COMPLETION, "")).endswith("_source"):  # click's words for it
        os.environ[COMPLETION] = f"source_{asked.removesuffix('_source')}"
    program(prog_name="neurosteer")


_interrupted = threading.Event()


def _interrupt(number: int, frame: FrameType | None) -> None:
    _interrupted.set()
    signal.default_int_handler(number, frame)


def _again(unraisable: "sys.UnraisableHookArgs") -> None:
    """Interrupt anew where Ctrl-C came while an object was removed, which no exception leaves."""
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        threading.Timer(0.01, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(unraisable)


def _terminate(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _suit_streams() -> None:
    """Let no closed stdout and no foreign encoding end in a traceback."""
    while (free := os.open(os.devnull, os.O_RDWR)) <= 2:  # else the next file opened would be stdout
        pass
    os.close(free)
    sys.stderr = sys.stderr or io.TextIOWrapper(io.FileIO(os.devnull, "w"))
    sys.stdout = sys.stdout or io.TextIOWrapper(_Closed(), write_through=True)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # not a terminal's or a file's
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


class _Closed(io.RawIOBase):
    """A stdout that was closed before the program began."""

    def writable(self) -> bool:
        return True

    def write(self, _data: Any) -> int:
        raise OSError(errno.EBADF, "it is closed")
