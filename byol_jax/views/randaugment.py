"""RandAugment: which operations there are, and how strong they are. No TensorFlow, no JAX.

An image is drawn `layers` operations, one after the other, each with probability `prob`, all
equally likely. Pixels are whole numbers 0..255, as Pillow has them, and so are results: `host_` and
`device_randaugment.py` round as Pillow does. Strengths grow with the level m, 0 to 10; s is a sign
that is drawn, grey = (19595 R + 38470 G + 7471 B + 32768) // 65536.

    autocontrast   each channel from its own range to 0..255
    equalize       each channel by its own distribution function
    invert         255 - x
    rotate         by 3 s m degrees about the centre, counter-clockwise
    posterize      keep the upper 4 - floor(0.4 m) bits; black without any, which Pillow 13 refuses
    solarize       255 - x from 256 - floor(25.6 m) on
    solarize_add   x + floor(11 m), at most 255, below 128
    color, contrast, brightness, sharpness
                   d + (1 + 0.09 s m) (x - d), d being the grey image, its mean, black, or the mean
                   of 3 x 3 pixels with the middle one counted five times (at borders the image)
    shear_x, _y    by 0.03 s m about the upper left corner
    translate_x, _y    by 0.045 s m of the side

Rotations, shears and shifts interpolate by Pillow's bicubic filter (a = -1, borders repeated); what
comes from outside the image has the colour of the views' mean.

Reference: Cubuk et al. 2020; timm:data/auto_augment.py ("rand-m9-mstd0.5-inc1"), and Pillow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from byol_jax.views.spec import ViewSpec

OPS = (
    *("autocontrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add"),
    *("color", "contrast", "brightness", "sharpness"),
    *("shear_x", "shear_y", "translate_x", "translate_y"),
)
GEOMETRY = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
GREY_PARTS = (19595, 38470, 7471)  # of 65536


def amounts(level: Any, sign: Any, floor: Callable[[Any], Any]) -> dict[str, Any]:
    """What each operation that has a strength does, by its name.

    Args:
      level: m, arrays of any library.
      sign: s, -1 or 1.
      floor: of that library.

    Returns:
      Degrees; the number that the upper bits are multiples of; the threshold; what is added; the
      factor of the four blends under "blend"; the shear; the share of the side.
    """
    share = level / 10.0  # in timm's order, so that rounding is the same
    return {
        "rotate": sign * (share * 30.0),
        "posterize": 2.0 ** (4.0 + floor(share * 4.0)),
        "solarize": 256.0 - floor(share * 256.0),
        "solarize_add": floor(share * 110.0),
        "blend": 1.0 + sign * (share * 0.9),
        "shear": sign * (share * 0.3),
        "translate": sign * (share * 0.45),
    }


def fill(spec: ViewSpec) -> tuple[float, ...]:
    """The colour outside of images, 0..255."""
    return tuple(float(min(255, round(255 * m))) for m in spec.mean)
