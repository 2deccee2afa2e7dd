"""The commands that measure: eval, calibrate, layers.

Knows their options and tables. Knows nothing of how a score is made.
"""
