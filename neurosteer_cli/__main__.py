"""`python -m neurosteer_cli`."""

from .cli import main

main()
