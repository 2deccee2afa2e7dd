"""What is written to be compared: conditions, plans, the records they become, what identifies a run.

Knows generation, vectors and records; knows nothing of scores, options or the terminal.
"""
