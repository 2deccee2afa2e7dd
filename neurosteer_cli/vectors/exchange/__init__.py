"""From and to other programs: llama.cpp's control vectors, checkpoints with a push in their biases.

Knows those formats and which vectors they can hold; knows nothing of how a vector is fitted.
"""
