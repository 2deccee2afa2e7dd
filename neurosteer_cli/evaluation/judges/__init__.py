"""Judges: programs that say whether a text shows what is looked for.

Knows classifiers, lexicons and other models' answers. Knows nothing of what a text is compared with.
"""
