"""A head that answers for every position of an encoder's last map, the same for all encoders.

Shape key: N rows, G batch-norm groups, h w positions, D features, E outputs per position.

Reference: He et al. 2020 (MoCo), section 4.2 and appendix, for segmentation: two 3x3 convolutions
of 256 channels and dilation 6 with BN and ReLU, then 1x1.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from byol_jax.core import Tree
from byol_jax.models.heads import Head
from byol_jax.models.init import draw_kernels
from byol_jax.models.layers import ConvSpec, Dilation
from byol_jax.models.norm import Groups


class _Dense(nn.Module):
    outputs: int
    width: int
    taps: int
    bias: float
    spec: ConvSpec

    @nn.compact
    def __call__(self, x: Array, groups: Groups, train: bool) -> Array:
        size = (x.shape[1], x.shape[2])
        for i in (1, 2):
            x = self.spec.conv(self.width, 3, 1, f"conv{i}", Dilation(self.taps, 1, size))(x)
            x = nn.relu(self.spec.norm(f"bn{i}")(x, groups, train))
        precise = jnp.promote_types(self.spec.dtype, jnp.float32)
        return nn.Dense(
            self.outputs,
            dtype=precise,
            param_dtype=self.spec.param_dtype,
            kernel_init=nn.initializers.zeros,  # drawn by init.draw_kernels
            bias_init=nn.initializers.constant(self.bias),
            name="out",
        )(x)


def dense_head(
    outputs: int,
    *,
    width: int = 256,
    taps: int = 6,
    bias: float = 0.0,
    dtype: jnp.dtype = jnp.float32,
    param_dtype: jnp.dtype = jnp.float32,
) -> Head:
    """Two 3x3 convolutions with batch norm and ReLU, then a linear layer, at every position.

    Args:
      outputs: E.
      width: channels of both convolutions.
      taps: positions from one tap of them to the next.
      bias: initial value of all outputs' offsets.
      dtype, param_dtype: of the computation, of the parameters.

    Returns:
      The head; it maps [N, G, h, w, D] to [N, G, h, w, E], at least float32.
    """
    module = _Dense(outputs, width, taps, bias, ConvSpec("torch", dtype, param_dtype))

    def init(key: Array, x_NGhwD: Array) -> tuple[Tree, Tree]:
        blank = jnp.zeros((1, *x_NGhwD.shape[2:]), dtype)
        out = module.init(key, blank, Groups(1), False)
        return draw_kernels(key, out["params"]), out["batch_stats"]

    def apply(
        params: Tree, stats: Tree, x_NGhwD: Array, train: bool, groups: int = 1
    ) -> tuple[Array, Tree]:
        n, g, *rest = x_NGhwD.shape
        y, new = module.apply(
            {"params": params, "batch_stats": stats},
            x_NGhwD.reshape(n * g, *rest).astype(dtype),
            Groups(g, groups),
            train,
            mutable=["batch_stats"] if train else [],
        )
        return y.reshape(n, g, *y.shape[1:]), new["batch_stats"] if train else stats

    return Head(init, apply, outputs)
