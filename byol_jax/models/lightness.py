"""An encoder that sees the lightness of images alone, and takes images in colour all the same.

What is trained on grey images by it can be probed, exported and used as any other encoder.

Shape key: N rows, G views, H W C image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from byol_jax.core import Encoder, Features
from byol_jax.views.lab import denormalised, to_lab


def on_lightness(encoder: Encoder, mean: Sequence[float], std: Sequence[float]) -> Encoder:
    """An encoder of colour images that shows another one their L of Lab, scaled to -1..1.

    Args:
      encoder: of one channel.
      mean, std: per channel: what the images that it will be given are normalised with.

    Returns:
      The encoder, of 3 channels, with the same parameters. `config["lightness"]` is (mean, std).

    Raises:
      ValueError: mean and std are not three numbers each.
    """
    given = tuple(tuple(float(v) for v in values) for values in (mean, std))
    if [len(values) for values in given] != [3, 3] or min(given[1]) <= 0:
        raise ValueError(
            f"lightness is {given}; expected mean and std of three channels, std above 0."
        )
    if not all(math.isfinite(v) for values in given for v in values):
        raise ValueError(f"lightness is {given}; expected finite numbers.")

    def init(key: Array, images_NGHWC: Array) -> tuple[Any, Any]:
        shape = (*images_NGHWC.shape[:-1], 1)
        return encoder.init(key, jax.ShapeDtypeStruct(shape, images_NGHWC.dtype))

    def apply(
        params: Any, stats: Any, images_NGHWC: Array, *args: Any, **options: Any
    ) -> tuple[Features, Any]:
        if images_NGHWC.shape[-1] != 3:
            raise ValueError(
                f"Images have {images_NGHWC.shape[-1]} channels, shape {images_NGHWC.shape}; this "
                "encoder takes colours, of which it sees the lightness."
            )
        dtype = jnp.promote_types(images_NGHWC.dtype, jnp.float32)
        rgb = denormalised(images_NGHWC.astype(dtype), *given)
        return encoder.apply(params, stats, to_lab(rgb)[..., :1] / 50 - 1, *args, **options)

    config = {**encoder.config, "channels": 3, "lightness": given}
    return encoder._replace(init=init, apply=apply, channels=3, config=config)
