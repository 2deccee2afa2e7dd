"""What several commands share: options, what a person reads, how models and vectors are loaded.

Knows typer, rich and the library. Knows no command.
"""
