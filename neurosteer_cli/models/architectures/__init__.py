"""What transformers' families of models have in common, and which of them are steered.

Knows classes and modules of models; knows nothing of files, tokens or hook points.
"""
