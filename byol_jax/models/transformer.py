"""The blocks of a transformer: layer norm, attention and perceptron, as plain functions.

Shape key: N rows, T tokens, D features, A heads, F features of a head.
Parameters are nested dicts under timm's names (norm1, attn/qkv, mlp/fc1 ...), so that
`convert/timm_vit.py` is a change of layout only.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from byol_jax.core import Tree

EPSILON = 1e-6
"""Of the layer norms: the authors' of ViT, DINO, MoCo v3 and MAE."""
RATIO = 4
"""Width of the perceptron's hidden layer, in widths of the transformer."""


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Settings of the blocks of one transformer.

    dim: D. depth: how many blocks. heads: of the attention. layer_scale: initial value of a factor
    on each branch, per feature; 0: no factor. drop_path: stochastic depth, the rate of the last
    block. remat: recompute each block in the backward pass. dtype, param_dtype: of the computation,
    of the parameters.
    """

    dim: int
    depth: int
    heads: int
    layer_scale: float = 0.0
    drop_path: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def blank(self) -> Tree:
        """Parameters {"blocks_0": ...}: kernels and biases 0, scales 1 or `layer_scale`."""
        d, dtype = self.dim, self.param_dtype

        def block() -> Tree:
            found = {
                "norm1": blank_norm(d, dtype),
                "attn": {"qkv": blank_linear(d, 3 * d, dtype), "proj": blank_linear(d, d, dtype)},
                "norm2": blank_norm(d, dtype),
                "mlp": {
                    "fc1": blank_linear(d, RATIO * d, dtype),
                    "fc2": blank_linear(RATIO * d, d, dtype),
                },
            }
            if self.layer_scale:
                scale = jnp.full(d, self.layer_scale, dtype)
                found |= {"ls1": {"scale": scale}, "ls2": {"scale": scale}}
            return found

        return {f"blocks_{i}": block() for i in range(self.depth)}

    def apply(
        self,
        params: Tree,
        x_NTD: Array,
        train: bool = False,
        key: Array | None = None,
        frozen: int = 0,
    ) -> list[Array]:
        """The tokens after each block.

        Args:
          params: with those of `blank`.
          x_NTD: tokens.
          train: whether branches are dropped.
          key: for that; needed if any are.
          frozen: how many of the first blocks drop no branch and get no gradient.

        Raises:
          ValueError: it is needed, and missing.
        """
        if not (train and self.drop_path):
            key = None
        elif key is None:
            raise ValueError(
                f"encoder.drop_path is {self.drop_path}; training needs a `key` in apply."
            )

        def run(block: Tree, x: Array, keys: Any, rate: float) -> Array:
            for i, branch in enumerate((self._attention, self._perceptron)):
                y = branch(block, x)
                if self.layer_scale:
                    y = y * block[f"ls{i + 1}"]["scale"].astype(y.dtype)[None, None]
                if keys is not None and rate:
                    # An example's whole branch is dropped, the others are scaled up.
                    kept = jax.random.bernoulli(keys[i], 1 - rate, (x.shape[0], 1, 1))
                    y = y * kept.astype(y.dtype) / (1 - rate)
                x = x + y
            return x

        # Rematerialise whole blocks: only their inputs are kept for the backward pass.
        step = jax.checkpoint(run, static_argnums=3) if self.remat else run
        found = []
        for i in range(self.depth):
            if 0 < i == frozen:
                x_NTD = jax.lax.stop_gradient(x_NTD)
            keys = None if key is None else jax.random.split(jax.random.fold_in(key, i))
            rate = self.drop_path * i / max(self.depth - 1, 1) if i >= frozen else 0.0
            x_NTD = step(params[f"blocks_{i}"], x_NTD, keys, rate)
            found.append(x_NTD)
        return found

    def attention(self, params: Tree, x_NTD: Array) -> Array:
        """The attention weights of the last block, [N, A, T, T], at least float32.

        Args:
          params: with those of `blank`.
          x_NTD: tokens before the first block.
        """
        before = [x_NTD, *self.apply(params, x_NTD)][-2]
        q, k, _ = self._heads(params[f"blocks_{self.depth - 1}"], before)
        q, k = (x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in (q, k))
        return jax.nn.softmax(_logits(q, k))

    def _heads(self, block: Tree, x_NTD: Array) -> Array:
        """Queries, keys and values, [3, N, T, A, F]."""
        n, t, d = x_NTD.shape
        qkv = linear(block["attn"]["qkv"], layer_norm(block["norm1"], x_NTD).astype(x_NTD.dtype))
        return jnp.moveaxis(qkv.reshape(n, t, 3, self.heads, d // self.heads), 2, 0)

    def _attention(self, block: Tree, x_NTD: Array) -> Array:
        q, k, v = self._heads(block, x_NTD)
        return linear(block["attn"]["proj"], attention(q, k, v).reshape(x_NTD.shape))

    def _perceptron(self, block: Tree, x_NTD: Array) -> Array:
        y = linear(block["mlp"]["fc1"], layer_norm(block["norm2"], x_NTD).astype(x_NTD.dtype))
        return linear(block["mlp"]["fc2"], jax.nn.gelu(y, approximate=False))


def attention(q_NTAF: Array, k_NTAF: Array, v_NTAF: Array) -> Array:
    """softmax(q k / sqrt(F)) v for every head, [N, T, A, F]."""
    if q_NTAF.dtype == jnp.float64:
        # jax.nn's softmax is in float32, whatever the arguments are.
        weights_NATT = jax.nn.softmax(_logits(q_NTAF, k_NTAF))
        return jnp.einsum("nats,nsaf->ntaf", weights_NATT, v_NTAF)
    return jax.nn.dot_product_attention(q_NTAF, k_NTAF, v_NTAF)


def _logits(q_NTAF: Array, k_NTAF: Array) -> Array:
    """q k / sqrt(F) for every head, [N, A, T, T]."""
    return jnp.einsum("ntaf,nsaf->nats", q_NTAF, k_NTAF) * q_NTAF.shape[-1] ** -0.5


def layer_norm(params: Tree, x: Array) -> Array:
    """Layer norm over the last axis, computed and returned in at least float32."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    x = x - x.mean(-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + EPSILON)
    scale, bias = (params[k].astype(x.dtype) for k in ("scale", "bias"))
    shape = (1,) * (x.ndim - 1) + scale.shape
    return x * scale.reshape(shape) + bias.reshape(shape)


def linear(params: Tree, x: Array) -> Array:
    """A linear layer on the last axis, in x's dtype."""
    kernel, bias = (params[k].astype(x.dtype) for k in ("kernel", "bias"))
    return x @ kernel + bias.reshape((1,) * (x.ndim - 1) + bias.shape)


def blank_linear(inner: int, outer: int, dtype: Any) -> Tree:
    """{"kernel", "bias"} of a linear layer, zeros."""
    return {"kernel": jnp.zeros((inner, outer), dtype), "bias": jnp.zeros(outer, dtype)}


def blank_norm(dim: int, dtype: Any) -> Tree:
    """{"scale", "bias"} of a layer norm that does nothing yet."""
    return {"scale": jnp.ones(dim, dtype), "bias": jnp.zeros(dim, dtype)}
