"""Selective kernels and ResNet-D's average pool: what SimCLR v2 adds to a ResNet.

Shape key: N rows, G batch-norm groups, H W map, C channels.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from byol_jax.models.layers import ConvSpec
from byol_jax.models.norm import Groups

MIN_WIDTH = 32


class SelectiveKernels(nn.Module):
    """A 3x3 convolution of 2C channels, batch norm and ReLU, whose two halves are mixed.

    The weights of the two halves are a softmax, for each channel, of two 1x1 layers on the mean of
    their sum over the image.

    Reference: google-research/simclr:tf2/resnet.py (SK_Conv2D); Li et al. 2019, with one 3x3
    convolution in place of a 3x3 and a dilated one.
    """

    spec: ConvSpec
    features: int  # C
    stride: int
    ratio: float  # of the width between the 1x1 layers to C

    @nn.compact
    def __call__(self, x: Array, groups: Groups, train: bool) -> Array:
        """Map x [N * G, H, W, C'] to [N * G, H / stride, W / stride, C]."""
        spec, c = self.spec, self.features
        x = spec.conv(2 * c, 3, self.stride, "conv")(x)
        x = nn.relu(spec.norm("bn")(x, groups, train))
        first, second = x[..., :c], x[..., c:]
        precise = jnp.promote_types(x.dtype, jnp.float32)
        mean = (first + second).astype(precise).mean((1, 2), keepdims=True)
        width = max(int(c * self.ratio), MIN_WIDTH)
        inner = spec.conv(width, 1, 1, "mix1")(mean.astype(x.dtype))
        inner = nn.relu(spec.norm("mix_bn")(inner, groups, train))
        mix = spec.conv(2 * c, 1, 1, "mix2")(inner).astype(precise)
        mix = jax.nn.softmax(jnp.stack([mix[..., :c], mix[..., c:]]), 0).astype(x.dtype)
        return first * mix[0] + second * mix[1]


def shortcut_pool(x: Array, stride: int) -> Array:
    """The average over 2x2 pixels before the 1x1 convolution of a ResNet-D shortcut.

    Maps of an odd side have a row and a column of zeros added, which count at stride 2 and do not
    count at stride 1, as in the authors' code.

    Args:
      x: [N * G, H, W, C].
      stride: 1 or 2.

    Returns:
      [N * G, ceil(H / stride), ceil(W / stride), C].

    Reference: He et al. 2019 (ResNet-D); google-research/simclr:tf2/resnet.py.
    """
    pads, strides = ((0, 1), (0, 1)), (stride, stride)
    return nn.avg_pool(x, (2, 2), strides, pads, count_include_pad=stride > 1)
