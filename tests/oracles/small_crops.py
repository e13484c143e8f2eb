"""The small crops beside the images of `small_network`, from NumPy alone."""

import numpy as np

ROWS, LOCAL, SIDE = 8, 3, 4  # as many rows as `small_network` has


def local(step):
    """Local views of a batch, [B, 3, h, w, C]."""
    return np.random.RandomState(3000 + step).randn(ROWS, LOCAL, SIDE, SIDE, 3)
