"""Batch normalisation whose statistics are taken per group of the batch.

Shape key: N rows, G groups, H W places, C channels. Tensors travel as [N * G, ..., C], N major.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

BN_DECAY, BN_EPSILON = 0.9, 1e-5


def _grouped(x: Array, groups: int) -> Array:
    """[N * G, ..., C] as [N, G, places, C], in at least float32."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    return x.reshape(x.shape[0] // groups, groups, -1, x.shape[-1]).astype(dtype)


class GroupBatchNorm(nn.Module):
    """Batch norm over the global batch, one set of statistics a group.

    Under `jit` on a sharded batch the means are over all devices. Statistics are float32 (float64
    for float64 inputs), the biased variance as E[x^2] - E[x]^2, one pass over the data.
    The running statistics move once a group, in order, with decay 0.9 and the biased variance:
    what separate passes would have done.

    Reference: Ioffe and Szegedy 2015; google-deepmind/deepmind-research:byol (decay, epsilon).
    """

    use_bias: bool = True
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Array,
        groups: int,
        train: bool,
        max_pool: Callable[[Array], Array] | None = None,
    ) -> Array:
        """Normalise x.

        Args:
          x: [N * groups, ..., C].
          groups: G.
          train: take the statistics from x, and move the running ones.
          max_pool: also max-pool the result, a channel at a time. It is done between statistics
            and normalising, which is monotone, so that the map before the pool is neither
            normalised nor kept; a ReLU that follows may stand before or after the pool alike.

        Returns:
          The dtype of x, and its shape where nothing is pooled.
        """
        channels = x.shape[-1]
        scale = self.param("scale", self.scale_init, (channels,), self.param_dtype)
        bias = None
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (channels,), self.param_dtype)
        mean_ema = self.variable("batch_stats", "mean", jnp.zeros, (channels,), self.param_dtype)
        var_ema = self.variable("batch_stats", "var", jnp.ones, (channels,), self.param_dtype)

        # A negative scale turns the order around; such channels are pooled with the sign changed.
        sign = jnp.where((scale < 0) & (max_pool is not None), -1, 1).astype(scale.dtype)
        if max_pool is not None:
            x = x * sign.astype(x.dtype)[(None,) * (x.ndim - 1)]
        if train:
            x_NGC = _grouped(x, groups)
            mean_GC = x_NGC.mean((0, 2))
            var_GC = jnp.maximum(jnp.square(x_NGC).mean((0, 2)) - jnp.square(mean_GC), 0)
            if not self.is_initializing():
                mean, var = mean_ema.value, var_ema.value
                for g in range(groups):
                    mean = BN_DECAY * mean + (1 - BN_DECAY) * sign * mean_GC[g]
                    var = BN_DECAY * var + (1 - BN_DECAY) * var_GC[g]
                mean_ema.value, var_ema.value = mean, var
        else:
            mean_GC, var_GC = (sign * mean_ema.value)[None], var_ema.value[None]
        if max_pool is not None:
            x = max_pool(x)

        scale_GC = jnp.reciprocal(jnp.sqrt(var_GC + BN_EPSILON)) * (sign * scale)[None]
        y = (_grouped(x, groups) - mean_GC[None, :, None]) * scale_GC[None, :, None]
        if bias is not None:
            y = y + bias[None, None, None]
        return y.astype(x.dtype).reshape(x.shape)
