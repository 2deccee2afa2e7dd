"""Results as tables, charts and pages for people.

Knows what an evaluation found. Knows nothing of how, and computes nothing anew.
"""
