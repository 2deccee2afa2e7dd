"""How a vector is made: of two sides of texts, or of latents that a person names.

Knows the pass over the texts, its statistics and the methods; knows nothing of files or of writing.
"""
