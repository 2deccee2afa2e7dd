"""How a sparse autoencoder is made from a model and a corpus, and gone on with after a break.

Knows sae-lens's trainer, activations on disk and checkpoints. Knows nothing of what an SAE is used for.
"""
