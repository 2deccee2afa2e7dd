"""neurosteer sae: train sparse autoencoders, measure, describe and search them."""

import typer

from .describe import describe
from .info import info
from .search import search
from .train import train

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Train, measure and describe SAEs.")
for command in (train, info, describe, search):
    app.command()(command)
