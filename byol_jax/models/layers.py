"""The convolutions and norms of a network, with the settings that they share."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from byol_jax.models.conv import conv
from byol_jax.models.norm import GroupBatchNorm


class Dilation(NamedTuple):
    """Of a convolution on a finer map than the plain network has here, with the same parameters.

    taps: pixels of this map per pixel of the plain network's, from one tap to the next. skipped:
    stride that the plain network has here, and this convolution has not. size: H and W of this map.
    """

    taps: int
    skipped: int
    size: tuple[int, int]

    def padding(self, kernel: int, same: bool) -> list[tuple[int, int]]:
        """Before and after H and W: where the plain network has a value, this is the same one."""
        before = [kernel // 2] * 2
        if same:  # XLA's depends on the size of the plain network's map
            plain = [-(-side // self.taps) for side in self.size]
            spans, strides = (kernel,) * 2, (self.skipped,) * 2
            before = [low for low, _ in lax.padtype_to_pads(plain, spans, strides, "SAME")]
        return [(low * self.taps, (kernel - 1 - low) * self.taps) for low in before]


@dataclasses.dataclass(frozen=True)
class ConvSpec:
    """Settings shared by the convolutions and norms of one network.

    padding: "torch" pads k // 2 on every side; "same" is XLA's SAME (DeepMind's weights need it).
    dtype: of the computation. param_dtype: of parameters and running statistics.
    """

    padding: str = "torch"
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32

    def conv(
        self, features: int, kernel: int, stride: int, name: str, dilation: Dilation | None = None
    ) -> nn.Conv:
        """A convolution without bias, kernel x kernel."""
        taps, pad = 1, kernel // 2
        padding: str | list[tuple[int, int]] = "SAME"
        if self.padding != "same":
            padding = [(pad, pad), (pad, pad)]
        if dilation is not None:
            taps, padding = dilation.taps, dilation.padding(kernel, self.padding == "same")
        return nn.Conv(
            features,
            (kernel, kernel),
            (stride, stride),
            padding=padding,
            kernel_dilation=(taps, taps),
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
