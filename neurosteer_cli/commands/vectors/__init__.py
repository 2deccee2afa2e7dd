"""Commands on vector files: summed up, looked at.

Knows typer, rich and files' names; what is done is the library's.
"""
