"""Prompts to text, steered, in batches that continuations join and leave.

Knows tokens, pushes and sampling. Knows nothing of judges, HTTP or the terminal.
"""
