"""How far behaviour moved and what it cost: runs, scores, dose-response curves, layers.

Knows what to write, how to score it and how sure that is. Knows nothing of pages or the terminal.
"""
