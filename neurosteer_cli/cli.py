"""The `neurosteer` executable: its commands, and errors as text and exit codes.

Knows typer; every command lives in `commands`. Nothing heavy is imported on the way to `--help`.
"""

import errno
import os
import signal
import sys
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from . import __version__
from .commands.combine import combine_
from .commands.evaluation.calibrate import calibrate_
from .commands.evaluation.eval import eval_
from .commands.evaluation.layers import layers_
from .commands.export import export
from .commands.fit import fit_
from .commands.gen import gen
from .commands.import_ import import_vector
from .commands.inspect import inspect
from .commands.sae import app as sae
from .commands.serving.demo import demo
from .commands.serving.serve import serve
from .errors import NeurosteerError


class _ErrorsToExitCodes(TyperGroup):
    """Turns what is raised on purpose into a line on stderr; a bug keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except NeurosteerError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(130) from None
        except BrokenPipeError:  # `| head` has had enough
            # Python flushes stdout at exit; there is nobody left to read it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except OSError as error:  # what is on the way to a file is an OutputError already
            if error.errno not in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
                raise
            typer.echo(f"error: <stdout>: cannot write ({error.strerror})", err=True)
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=_ErrorsToExitCodes,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # help texts contain shapes such as [batch, pos, d_model]
    pretty_exceptions_enable=False,  # a bug shows a plain, pasteable traceback
)
for command in (fit_, gen, combine_, inspect, eval_, calibrate_, layers_, export, serve, demo):
    app.command(command.__name__.rstrip("_"))(command)  # `eval_`, beside the library's or Python's own
app.command("import")(import_vector)  # `import` is no name for a function
app.add_typer(sae, name="sae")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"neurosteer {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Steer a language model with the latents of a sparse autoencoder.

    Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 could not be done,
    2 wrong option or input, 130 interrupted.
    """


def main() -> None:
    """Run the program. SIGTERM ends it as an exception does, so that nothing half-made is left."""
    signal.signal(signal.SIGTERM, _terminate)
    app(prog_name="neurosteer")


def _terminate(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)
