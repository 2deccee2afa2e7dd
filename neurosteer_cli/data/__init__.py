"""Texts as people have them: records, the two labelled sides, corpora, prompts.

Knows files, lines and labels. Knows nothing of tokens, models or vectors.
"""
