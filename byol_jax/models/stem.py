"""The 7x7 stride 2 convolution of a stem on 2x2 blocks of pixels: an exact form for TPUs.

Shape key: N rows, H W image, C channels, F features.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from byol_jax.models.conv import conv


def space_to_depth(x: Array) -> Array:
    """Blocks of 2x2 pixels as channels: [N, H, W, C] to [N, H / 2, W / 2, (row, column, C)].

    Columns are separated by a product with a permutation (exact: every sum has one term): on a TPU,
    where images are laid out with W in the vector lanes, a reshape pads the 2 columns to 128 lanes.
    """
    n, h, w, c = x.shape
    order = np.arange(w).reshape(w // 2, 2).T.ravel()  # even columns, then odd ones
    parted = jnp.asarray(np.eye(w)[:, order], x.dtype)
    x = jnp.dot(x.transpose(0, 3, 1, 2), parted, precision=jax.lax.Precision.HIGHEST)
    x = x.reshape(n, c, h // 2, 2, 2, w // 2).transpose(0, 2, 5, 3, 4, 1)
    return x.reshape(n, h // 2, w // 2, 4 * c)


class BlockConv(nn.Module):
    """The convolution 7x7, stride 2, without bias, as 4x4, stride 1, on blocks of 2x2 pixels.

    Parameters, padding and result (to rounding) are those of the plain convolution; the kernel is
    padded to 8x8 and rearranged in every call.

    Reference: tensorflow/tpu:models/official/resnet/resnet_model.py (conv0_space_to_depth).
    """

    features: int
    padding: str  # torch: 3 pixels before; same: 2, for images of an even size
    dtype: jnp.dtype
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map images [N, H, W, C] of even H and W to [N, H / 2, W / 2, F].

        Raises:
          ValueError: H or W is odd.
        """
        c = x.shape[-1]
        if x.shape[1] % 2 or x.shape[2] % 2:
            raise ValueError(
                f"encoder.space_to_depth needs images of an even size, not {x.shape[1:3]}."
            )
        shape = (7, 7, c, self.features)
        kernel = self.param("kernel", nn.initializers.zeros, shape, self.param_dtype)
        # Tap t is t - before pixels from the block's first one.
        before = 2 if self.padding == "same" else 3
        blocks = -(-before // 2)
        pad = (2 * blocks - before, 1 - 2 * blocks + before)
        kernel = jnp.pad(kernel.astype(self.dtype), (pad, pad, (0, 0), (0, 0)))
        kernel = kernel.reshape(4, 2, 4, 2, c, -1).transpose(0, 2, 1, 3, 4, 5)
        return conv(
            space_to_depth(x.astype(self.dtype)),
            kernel.reshape(4, 4, 4 * c, -1),
            (1, 1),
            [(blocks, 3 - blocks)] * 2,
        )
