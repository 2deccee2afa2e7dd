"""From a model's name to its residual stream: fetched, loaded, hooked, read.

Knows transformers, torch modules and tokenizers. Knows nothing of labels, SAEs or vectors.
"""
