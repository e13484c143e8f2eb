"""DINO's projection head up to its bottleneck.

Shape key: N rows, G batch-norm groups, D features, E embedding.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from byol_jax.core import Tree
from byol_jax.models.heads import Head

STD = 0.02
"""Of the initial weights. The authors' normal is truncated at a hundred of these: not at all."""


def dino_head(
    widths: tuple[int, ...],
    *,
    dtype: jnp.dtype = jnp.float32,
    param_dtype: jnp.dtype = jnp.float32,
) -> Head:
    """Linear layers with biases and GELU in between, without batch norm.

    What follows them in the paper, the l2 norm and the weight-normed last layer, is
    `methods.dino`'s.

    Args:
      widths: of every layer, the last being the bottleneck's; at least one.
      dtype, param_dtype: of the computation, of the parameters.

    Returns:
      The head; it maps [N, G, D] to [N, G, widths[-1]], without statistics.

    Reference: Caron et al. 2021; facebookresearch/dino:vision_transformer.py (DINOHead).
    """

    def init(key: Array, x_NGD: Array) -> tuple[Tree, Tree]:
        params, inner = {}, x_NGD.shape[-1]
        for i, outer in enumerate(widths, 1):
            kernel = STD * jax.random.normal(jax.random.fold_in(key, i), (inner, outer))
            bias = jnp.zeros(outer, param_dtype)
            params[f"fc{i}"] = {"kernel": kernel.astype(param_dtype), "bias": bias}
            inner = outer
        return params, {}

    def apply(
        params: Tree, stats: Tree, x_NGD: Array, train: bool, groups: int = 1
    ) -> tuple[Array, Tree]:
        del train, groups
        n, g, d = x_NGD.shape
        x = x_NGD.reshape(n * g, d).astype(dtype)
        for i in range(1, len(widths) + 1):
            layer = jax.tree.map(lambda p: p.astype(dtype), params[f"fc{i}"])
            x = x @ layer["kernel"] + layer["bias"][None]
            if i < len(widths):
                x = jax.nn.gelu(x, approximate=False)
        return x.reshape(n, g, -1), stats

    return Head(init, apply, widths[-1])
