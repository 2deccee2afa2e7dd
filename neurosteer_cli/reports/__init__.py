"""Results as tables, charts and pages for people, and the page of the demo, all of one look.

Knows what an evaluation found. Knows nothing of how, and computes nothing anew.
"""
