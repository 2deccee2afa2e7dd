"""Many continuations written at once: their rows, their cache, and when prompts are read.

Knows the engine and tensors' layout; knows nothing of vector files or of where text goes.
"""
