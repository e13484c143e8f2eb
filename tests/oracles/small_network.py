"""What an oracle and its test share: weights, images and checksums, from NumPy alone.

The network is `conftest.mini_encoder` with heads; names and layouts of weights are this project's.
"""

import zlib

import numpy as np

ROWS, SIDE, CHANNELS, FEATURES = 8, 6, (8, 16), 16


def value(name, shape):
    """The weights that both sides start from: a function of their name."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    drawn, kind = random.randn(*shape), name.rpartition("/")[2]
    if kind == "kernel":
        return drawn / np.sqrt(np.prod(shape[:-1]))
    if kind == "queue":
        return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    if kind in ("scale", "var"):
        return 1 + 0.1 * random.rand(*shape)
    return 0.1 * drawn


def images(step):
    """Two views of a batch, [B, 2, H, W, C]."""
    return np.random.RandomState(1000 + step).randn(ROWS, 2, SIDE, SIDE, 3)


def permutation():
    """An order of the rows."""
    return np.random.RandomState(2000).permutation(ROWS)


def checksum(arrays):
    """One number for named arrays, in which every element and its place counts."""
    total = 0.0
    for i, name in enumerate(sorted(arrays)):
        flat = np.asarray(arrays[name], np.float64).ravel()
        total += float((flat * np.cos(np.arange(flat.size) + i)).sum())
    return total
