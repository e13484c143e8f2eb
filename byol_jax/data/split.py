"""Which examples are held out of data without a test part: a tenth, by their content."""

from __future__ import annotations

import hashlib

import numpy as np


def held_out(contents: list[bytes], seed: int) -> np.ndarray:
    """Choose about a tenth, keeping equal contents together.

    Whether an example is held out depends on its content alone, so images that are added later do
    not move others.

    Args:
      contents: what identifies each example.
      seed: for the choice.

    Returns:
      bool [N], True for those that are held out.
    """
    salt = int(seed).to_bytes(16, "little", signed=True)
    digests = [hashlib.blake2b(c, digest_size=8, key=salt).digest() for c in contents]
    return np.array([int.from_bytes(d, "little") % 10 == 0 for d in digests], bool)
