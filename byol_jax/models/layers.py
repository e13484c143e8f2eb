"""The convolutions and norms of a network, with the settings that they share."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from flax import linen as nn

from byol_jax.models.conv import conv
from byol_jax.models.norm import GroupBatchNorm


@dataclasses.dataclass(frozen=True)
class ConvSpec:
    """Settings shared by the convolutions and norms of one network.

    padding: "torch" pads k // 2 on every side; "same" is XLA's SAME (DeepMind's weights need it).
    dtype: of the computation. param_dtype: of parameters and running statistics.
    """

    padding: str = "torch"
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32

    def conv(self, features: int, kernel: int, stride: int, name: str) -> nn.Conv:
        """A convolution without bias, kernel x kernel."""
        pad = kernel // 2
        return nn.Conv(
            features,
            (kernel, kernel),
            (stride, stride),
            padding="SAME" if self.padding == "same" else [(pad, pad), (pad, pad)],
            use_bias=False,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=nn.initializers.zeros,  # drawn by init.draw_kernels
            conv_general_dilated=conv,
            name=name,
        )

    def norm(self, name: str, zero_scale: bool = False) -> GroupBatchNorm:
        """A batch norm; with `zero_scale` its scale starts at 0, so a block starts as identity."""
        init = nn.initializers.zeros if zero_scale else nn.initializers.ones
        return GroupBatchNorm(scale_init=init, param_dtype=self.param_dtype, name=name)
