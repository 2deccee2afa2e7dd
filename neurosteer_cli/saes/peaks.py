"""Where each latent fires most.

Knows activations and token ids; knows nothing of models or files.
"""

import torch
from torch import Tensor


class Peaks:
    """Where each latent fired most: the tokens up to and after that place."""

    BEFORE, AFTER = 5, 2

    def __init__(self, d_sae: int) -> None:
        self.height = torch.zeros(d_sae)
        self.window = torch.full((d_sae, self.BEFORE + 1 + self.AFTER), -1, dtype=torch.int64)

    def add(self, activations: Tensor, windows: Tensor) -> None:
        """Take in activations [n, d_sae] and the token ids around each token, [n, window] (-1: none)."""
        height, place = activations.max(dim=0)
        height, place = height.float().cpu(), place.cpu()
        higher = height > self.height
        self.height[higher] = height[higher]
        self.window[higher] = windows[place[higher]]
