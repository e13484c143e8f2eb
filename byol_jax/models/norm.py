"""Batch normalisation with statistics per view, and per group of rows.

Shape key: N rows, V views, R groups of contiguous rows, P pixels, C channels. Tensors are
[N * V, ..., C], with N major.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

BN_DECAY, BN_EPSILON = 0.9, 1e-5


class Groups(NamedTuple):
    """What statistics are computed over: `views` V interleaved, `rows` R contiguous groups."""

    views: int
    rows: int = 1


def _by_view(x: Array, groups: Groups) -> Array:
    """[N * V, ..., C] as [N, V, P, C], or [R, N / R, V, P, C] if R > 1; at least float32."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    rows = (groups.rows, -1) if groups.rows > 1 else (-1,)
    pixels = math.prod(x.shape[1:-1])
    return x.reshape(*rows, groups.views, pixels, x.shape[-1]).astype(dtype)


def _moments(x_NVPC: Array) -> tuple[Array, Array]:
    """Mean and biased variance [V, C]."""
    mean_VC = x_NVPC.mean((0, 2))
    return mean_VC, jnp.maximum(jnp.square(x_NVPC).mean((0, 2)) - jnp.square(mean_VC), 0)


class GroupBatchNorm(nn.Module):
    """Batch norm with one set of statistics for each view and each group of contiguous rows.

    Under `jit` on a sharded batch the means are over all devices that hold rows of a group; with
    one group, over all devices. Statistics are float32 (float64 for float64 inputs), with the
    biased variance as E[x^2] - E[x]^2 in one pass over the data.
    The running statistics are updated once per view, in order, with decay 0.9 and the biased
    variance, as separate passes would do. Groups of rows update them with their mean.

    Reference: Ioffe and Szegedy 2015; google-deepmind/deepmind-research:byol (decay, epsilon).
    """

    use_bias: bool = True
    use_scale: bool = True
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Array,
        groups: Groups,
        train: bool,
        max_pool: Callable[[Array], Array] | None = None,
    ) -> Array:
        """Normalise x.

        Args:
          x: [N * V, ..., C].
          groups: V and R.
          train: compute the statistics from x, and update the running ones.
          max_pool: also max-pool the result, each channel separately. This is done between the
            statistics and normalising, which is monotone, so that the map before the pool is
            neither normalised nor kept; a ReLU gives the same result before and after the pool.

        Returns:
          The same dtype as x, and the same shape unless it is pooled.
        """
        channels = x.shape[-1]
        scale = jnp.ones((channels,), self.param_dtype)
        if self.use_scale:
            scale = self.param("scale", self.scale_init, (channels,), self.param_dtype)
        bias = None
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (channels,), self.param_dtype)
        mean_ema = self.variable("batch_stats", "mean", jnp.zeros, (channels,), self.param_dtype)
        var_ema = self.variable("batch_stats", "var", jnp.ones, (channels,), self.param_dtype)

        # A negative scale reverses the order; such channels are pooled with the sign changed.
        sign = jnp.where((scale < 0) & (max_pool is not None), -1, 1).astype(scale.dtype)
        if max_pool is not None:
            x = x * sign.astype(x.dtype)[(None,) * (x.ndim - 1)]
        if train:
            x_NVPC = _by_view(x, groups)
            moments = jax.vmap(_moments) if groups.rows > 1 else _moments
            mean_VC, var_VC = moments(x_NVPC)
            if not self.is_initializing():
                moved = (mean_VC, var_VC)
                if groups.rows > 1:
                    moved = (mean_VC.mean(0), var_VC.mean(0))
                mean, var = mean_ema.value, var_ema.value
                for v in range(groups.views):
                    mean = BN_DECAY * mean + (1 - BN_DECAY) * sign * moved[0][v]
                    var = BN_DECAY * var + (1 - BN_DECAY) * moved[1][v]
                mean_ema.value, var_ema.value = mean, var
        else:
            groups = Groups(groups.views)
            mean_VC, var_VC = (sign * mean_ema.value)[None], var_ema.value[None]
        if max_pool is not None:
            x = max_pool(x)

        def normalise(x_NVPC: Array, mean_VC: Array, var_VC: Array) -> Array:
            scale_VC = jnp.reciprocal(jnp.sqrt(var_VC + BN_EPSILON)) * (sign * scale)[None]
            y = (x_NVPC - mean_VC[None, :, None]) * scale_VC[None, :, None]
            return y if bias is None else y + bias[None, None, None]

        normalise = jax.vmap(normalise) if groups.rows > 1 else normalise
        y = normalise(_by_view(x, groups), mean_VC, var_VC)
        return y.astype(x.dtype).reshape(x.shape)
