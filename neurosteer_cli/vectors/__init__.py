"""The steering vector: its file, its unit, its sums; from texts, from latents, from and to other programs.

Knows statistics of residuals and latents, and the unit of alpha. Knows nothing of generation or scores.
"""
