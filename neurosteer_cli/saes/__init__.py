"""Sparse autoencoders: what one computes, where it is, how good it is, what its latents mean.

Knows residuals, weights and descriptions. Knows nothing of labelled texts or steering vectors.
"""
