"""The commands: options, one call of the library each, what a person reads.

Knows typer and the terminal. Knows nothing that a notebook could not do without it.
"""
