"""A decoder from the last map of a convolutional encoder to an image.

Shape key: N rows, G batch-norm groups, H W of the map, D features, S side of the image, C channels.

Reference: Pathak et al. 2016; pathak22/context-encoder:train.lua (netG).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from byol_jax.core import Tree
from byol_jax.models.heads import Head
from byol_jax.models.init import draw_kernels
from byol_jax.models.layers import ConvSpec
from byol_jax.models.norm import Groups

LEAST = 16  # channels of any layer


class _Decoder(nn.Module):
    side: int
    channels: int
    bottleneck: int
    width: int
    spec: ConvSpec

    def _dense(self, features: int, name: str) -> nn.Dense:
        return nn.Dense(
            features,
            use_bias=False,
            dtype=self.spec.dtype,
            param_dtype=self.spec.param_dtype,
            kernel_init=nn.initializers.zeros,  # drawn by init.draw_kernels
            name=name,
        )

    @nn.compact
    def __call__(self, x: Array, groups: Groups, train: bool) -> Array:
        n, height, across, _ = x.shape
        if self.bottleneck:
            x = self._dense(self.bottleneck, "fc1")(x.reshape(n, -1))
            x = nn.relu(self.spec.norm("bn1")(x, groups, train))
            x = self._dense(height * across * self.width, "fc2")(x).reshape(n, height, across, -1)
            x = nn.relu(self.spec.norm("bn2")(x, groups, train))
        else:
            x = self.spec.conv(self.width, 3, 1, "in_conv")(x)
            x = nn.relu(self.spec.norm("in_bn")(x, groups, train))
        width, i = self.width, 0
        while x.shape[1] < self.side:
            width, i = max(width // 2, LEAST), i + 1
            # NOTE: the authors' convolutions are transposed, which leaves a chequered pattern.
            x = jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)
            x = self.spec.conv(width, 3, 1, f"up{i}_conv")(x)
            x = nn.relu(self.spec.norm(f"up{i}_bn")(x, groups, train))
        return self.spec.conv(self.channels, 3, 1, "out")(x)


def pixel_decoder(
    side: int,
    channels: int,
    *,
    bottleneck: int = 4000,
    width: int = 512,
    dtype: jnp.dtype = jnp.float32,
    param_dtype: jnp.dtype = jnp.float32,
) -> Head:
    """A fully connected bottleneck, or none, then doublings of the map's side up to the image's.

    Args:
      side: S, px.
      channels: C.
      bottleneck: width of the layer that sees the whole map; 0: a 3x3 convolution in its place.
      width: channels of the map that is doubled; half of them after each doubling, 16 at least.
      dtype, param_dtype: of the computation, of the parameters.

    Returns:
      The decoder; it maps [N, G, H, W, D] to [N, G, S, S, C], at least float32.

    Raises:
      ValueError: when called, if S is not H times a power of two.
    """
    module = _Decoder(side, channels, bottleneck, width, ConvSpec("torch", dtype, param_dtype))

    def init(key: Array, x_NGHWD: Array) -> tuple[Tree, Tree]:
        _check(side, x_NGHWD)
        blank = jnp.zeros((1, *x_NGHWD.shape[2:]), dtype)
        out = module.init(key, blank, Groups(1), False)
        return draw_kernels(key, out["params"]), out["batch_stats"]

    def apply(
        params: Tree, stats: Tree, x_NGHWD: Array, train: bool, groups: int = 1
    ) -> tuple[Array, Tree]:
        _check(side, x_NGHWD)
        n, g, *rest = x_NGHWD.shape
        y, new = module.apply(
            {"params": params, "batch_stats": stats},
            x_NGHWD.reshape(n * g, *rest).astype(dtype),
            Groups(g, groups),
            train,
            mutable=["batch_stats"] if train else [],
        )
        y = y.reshape(n, g, *y.shape[1:]).astype(jnp.promote_types(dtype, jnp.float32))
        return y, new["batch_stats"] if train else stats

    return Head(init, apply, channels)


def _check(side: int, x_NGHWD: jax.Array) -> None:
    height, across = x_NGHWD.shape[2:4]
    times = side // height
    if height != across or times * height != side or times & (times - 1):
        raise ValueError(
            f"A map of {height} x {across} cannot be doubled to an image of {side} px; set "
            "image_size to a power of two times the side of the encoder's last map."
        )
