"""neurosteer sae: train sparse autoencoders, measure, describe and search them."""

import typer

from ..shared.command import Command
from .describe import describe
from .info import info
from .search import search
from .train import train

app = typer.Typer(invoke_without_command=True, rich_markup_mode=None)
for command in (train, info, describe, search):
    app.command(cls=Command)(command)


@app.callback()
def _sae(context: typer.Context) -> None:
    """Train, measure and describe SAEs."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
