"""Colours as CIE Lab: lightness L, 0 to 100, and the opponent colours a and b.

For NumPy arrays and for JAX's, in their own dtype. White is D65, of the observer of 2 degrees.

Reference: IEC 61966-2-1 (sRGB); CIE 15 (Lab); the constants are those of scikit-image:color.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

# Rows: X, Y, Z of linear red, green, blue.
_XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
_RGB = np.linalg.inv(np.array(_XYZ))
_WHITE = (0.95047, 1.0, 1.08883)


def _library(x: Any) -> Any:
    return np if isinstance(x, np.ndarray) else jnp


def _mixed(planes: list[Any], rows: Any) -> list[Any]:
    """Sums of planes, not a product of matrices, which accelerators round."""
    return [sum(float(w) * p for w, p in zip(row, planes, strict=True)) for row in rows]


def to_lab(rgb: Any) -> Any:
    """Lab of sRGB.

    Args:
      rgb: [..., 3] in 0..1; clipped to it.

    Returns:
      [..., 3]: L, a, b.
    """
    xp = _library(rgb)
    rgb = xp.clip(rgb, 0, 1)
    linear = xp.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = _mixed([linear[..., c] for c in range(3)], _XYZ)
    shares = [v / w for v, w in zip(xyz, _WHITE, strict=True)]
    x, y, z = (xp.where(v > 0.008856, xp.cbrt(v), 7.787 * v + 16 / 116) for v in shares)
    return xp.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def to_rgb(lab: Any) -> Any:
    """sRGB of Lab, colours that it does not have clipped to 0..1.

    Args:
      lab: [..., 3]: L, a, b.

    Returns:
      [..., 3] in 0..1.
    """
    xp = _library(lab)
    y = (lab[..., 0] + 16) / 116
    shares = (y + lab[..., 1] / 500, y, y - lab[..., 2] / 200)
    cubed = [xp.where(v > 0.2068966, v**3, (v - 16 / 116) / 7.787) for v in shares]
    xyz = [v * w for v, w in zip(cubed, _WHITE, strict=True)]
    linear = xp.clip(xp.stack(_mixed(xyz, _RGB), -1), 0, 1)
    return xp.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)


def denormalised(x: Any, mean: Sequence[float], std: Sequence[float]) -> Any:
    """Images [..., C] in 0..1 of those normalised with mean and std; () for 0 and 1."""
    spread = (1,) * (x.ndim - 1) + (x.shape[-1],)
    scale, offset = (
        np.array(v or (default,) * x.shape[-1], x.dtype).reshape(spread)
        for v, default in ((std, 1.0), (mean, 0.0))
    )
    return x * scale + offset


def normalised(x: Any, mean: Sequence[float], std: Sequence[float]) -> Any:
    """The inverse of `denormalised`."""
    inverse = tuple(1 / s for s in std)
    return denormalised(x, tuple(-m * i for m, i in zip(mean, inverse, strict=True)), inverse)
