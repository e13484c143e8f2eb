"""Projection and prediction heads.

Shape key: N rows, G batch-norm groups, D features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from byol_jax.core import Tree
from byol_jax.models.init import draw_kernels
from byol_jax.models.norm import GroupBatchNorm, Groups


class Head(NamedTuple):
    """A head as two pure functions.

    init(key, x_NGD) -> (params, stats)
    apply(params, stats, x_NGD, train, groups=1) -> (y_NGE, stats)    groups: as for an `Encoder`
    dim: E, the width of the output; 0: the same as the input's
    """

    init: Callable[[Array, Array], tuple[Tree, Tree]]
    apply: Callable[..., tuple[Array, Tree]]
    dim: int


class _Mlp(nn.Module):
    parts: int
    widths: tuple[int, ...]
    norm: bool
    norm_last: bool
    hidden_bias: bool
    last_bias: bool
    scale_last: bool
    dtype: jnp.dtype
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, groups: Groups, train: bool) -> Array:
        if self.parts:
            x = x.reshape(len(x), self.parts, -1)
            mean = x.mean(1, keepdims=True)
            x = jnp.concatenate([x - mean, mean], 1).reshape(len(x), -1)
            dtype = self.param_dtype
            norm = GroupBatchNorm(use_bias=False, use_scale=False, param_dtype=dtype, name="bn0")
            x = norm(x, groups, train)
        for i, width in enumerate(self.widths, 1):
            last = i == len(self.widths)
            x = nn.Dense(
                width,
                use_bias=self.last_bias if last else self.hidden_bias,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                kernel_init=nn.initializers.zeros,  # drawn by init.draw_kernels
                name=f"fc{i}",
            )(x)
            if self.norm_last if last else self.norm:
                # The last norm has no offset: a common shift of all embeddings has no effect.
                norm = GroupBatchNorm(
                    use_bias=not last,
                    use_scale=self.scale_last or not last,
                    param_dtype=self.param_dtype,
                    name=f"bn{i}",
                )
                x = norm(x, groups, train)
            if not last:
                x = nn.relu(x)
        return x


class _Layer(nn.Module):
    width: int
    norm: bool
    bias: bool
    dtype: jnp.dtype
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, groups: Groups, train: bool) -> Array:
        x = nn.Dense(
            self.width,
            use_bias=self.bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=nn.initializers.zeros,  # drawn by init.draw_kernels
            name="fc1",
        )(x)
        if self.norm:
            x = GroupBatchNorm(param_dtype=self.param_dtype, name="bn1")(x, groups, train)
        return nn.relu(x)


def mlp(
    widths: tuple[int, ...],
    *,
    norm: bool = True,
    norm_last: bool = False,
    hidden_bias: bool = True,
    last_bias: bool = False,
    scale_last: bool = True,
    parts: int = 0,
    dtype: jnp.dtype = jnp.float32,
    param_dtype: jnp.dtype = jnp.float32,
) -> Head:
    """A multi-layer perceptron head.

    The defaults are BYOL's: Linear with bias, BN, ReLU, Linear without bias. SimCLR's has no biases
    and BN after every layer (`hidden_bias=False, norm_last=True`).

    Args:
      widths: width of every layer, the last being the embedding's; empty for the identity.
      norm, norm_last: batch norm after the hidden layers, and after the last one.
      hidden_bias, last_bias: biases of the hidden and the last linear layers.
      scale_last: whether the last norm has a scale; MoCo v3's and SimSiam's have none.
      parts: how many parts the input has side by side, of D / parts numbers each; above 0, the
        first layer sees the deviation of each from their mean, and the mean, all through a batch
        norm without scale and bias. For parts that differ much less than rows do.
      dtype, param_dtype: of the computation, of the parameters.

    Returns:
      The head; it maps [N, G, D] to [N, G, widths[-1]], with batch-norm statistics per G.
    """
    biases = hidden_bias, last_bias
    module = _Mlp(parts, widths, norm, norm_last, *biases, scale_last, dtype, param_dtype)

    return _as_head(module, widths[-1] if widths else 0, dtype)


def first_layer(
    width: int,
    *,
    norm: bool = True,
    bias: bool = True,
    dtype: jnp.dtype = jnp.float32,
    param_dtype: jnp.dtype = jnp.float32,
) -> Head:
    """The first hidden layer of `mlp` alone, with its ReLU and its names, fc1 and bn1.

    Args:
      width: of the layer.
      norm, bias: as `norm` and `hidden_bias` of `mlp`.
      dtype, param_dtype: of the computation, of the parameters.

    Returns:
      The head; it maps [N, G, D] to [N, G, width].
    """
    return _as_head(_Layer(width, norm, bias, dtype, param_dtype), width, dtype)


def _as_head(module: nn.Module, dim: int, dtype: jnp.dtype) -> Head:
    """A module (x [N * G, D], groups, train) as two pure functions."""

    def init(key: Array, x_NGD: Array) -> tuple[Tree, Tree]:
        n, g, d = x_NGD.shape
        out = module.init(key, jnp.zeros((n * g, d), dtype), Groups(g), False)
        return draw_kernels(key, out.get("params", {})), out.get("batch_stats", {})

    def apply(
        params: Tree, stats: Tree, x_NGD: Array, train: bool, groups: int = 1
    ) -> tuple[Array, Tree]:
        n, g, d = x_NGD.shape
        y, new = module.apply(
            {"params": params, "batch_stats": stats},
            x_NGD.reshape(n * g, d).astype(dtype),
            Groups(g, groups),
            train,
            mutable=["batch_stats"] if train else [],
        )
        return y.reshape(n, g, -1), new.get("batch_stats", stats) if train else stats

    return Head(init, apply, dim)


def linear(classes: int, *, dtype: jnp.dtype = jnp.float32) -> Head:
    """A linear classifier: kernel normal with variance 1 / D, bias 0.

    Args:
      classes: K.
      dtype: of the parameters and the computation.

    Returns:
      The head; it maps [N, G, D] to logits [N, G, K].
    """

    def init(key: Array, x_NGD: Array) -> tuple[Tree, Tree]:
        dim = x_NGD.shape[-1]
        kernel = jax.random.normal(key, (dim, classes), dtype) / dim**0.5
        return {"kernel": kernel, "bias": jnp.zeros(classes, dtype)}, {}

    def apply(
        params: Tree, stats: Tree, x_NGD: Array, train: bool, groups: int = 1
    ) -> tuple[Array, Tree]:
        del train, groups
        n, g, d = x_NGD.shape
        x = x_NGD.reshape(n * g, d).astype(params["kernel"].dtype)
        return (x @ params["kernel"] + params["bias"][None]).reshape(n, g, -1), stats

    return Head(init, apply, classes)
