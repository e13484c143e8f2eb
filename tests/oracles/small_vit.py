"""What the oracles of transformers and their tests share, from NumPy alone."""

import numpy as np

SIDE, PATCH, DIM, DEPTH, HEADS = 6, 2, 16, 2, 2  # as large as the images of `small_network`
DECODER = {"dim": 8, "depth": 1, "heads": 2}
ROWS, PATCHES = 8, (SIDE // PATCH) ** 2


def noise():
    """What orders the patches of each image, [B, L]."""
    return np.random.RandomState(4000).rand(ROWS, PATCHES)
