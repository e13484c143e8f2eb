"""MAE's decoder: from the tokens of the visible patches to the pixels of all patches.

Shape key: N rows, K visible patches, P prefix tokens, L patches, D features of the encoder, E of
the decoder, Q numbers of a patch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from byol_jax.core import Tree
from byol_jax.models.patches import sincos
from byol_jax.models.transformer import Blocks, blank_linear, blank_norm, layer_norm, linear
from byol_jax.models.vit import draw_weights


class Decoder(NamedTuple):
    """A decoder as two pure functions.

    init(key) -> params
    apply(params, stats, tokens_NTD, place_NL, grid) -> (pixels [N, L, Q], stats)

    place: for each patch the number of its token among the visible ones, or K for a hidden patch.
    grid: (patches down, across). stats: passed through; there are none.
    """

    init: Callable[[Array], Tree]
    apply: Callable[..., tuple[Array, Tree]]


def mae_decoder(
    inner: int,
    outer: int,
    *,
    dim: int = 512,
    depth: int = 8,
    heads: int = 16,
    prefix: int = 1,
    remat: bool = False,
    dtype: Any = jnp.float32,
    param_dtype: Any = jnp.float32,
) -> Decoder:
    """A transformer on the visible tokens, with a mask token for each hidden patch.

    Args:
      inner: D, width of the encoder.
      outer: Q, numbers of a patch.
      dim, depth, heads: E, blocks, heads per block.
      prefix: P, tokens of the encoder that are no patch.
      remat: recompute each block in the backward pass.
      dtype, param_dtype: of the computation, of the parameters.

    Returns:
      The decoder. It has fixed positions of its own.

    Raises:
      ValueError: E is not a multiple of 4 and of the heads.

    Reference: He et al. 2022; facebookresearch/mae:models_mae.py (forward_decoder).
    """
    if dim % heads or dim % 4:
        raise ValueError(
            f"mae.dim is {dim} with mae.heads {heads}; expected a multiple of 4 and of the heads."
        )
    blocks = Blocks(dim, depth, heads, remat=remat, dtype=dtype, param_dtype=param_dtype)

    def init(key: Array) -> Tree:
        weights_key, token_key = jax.random.split(key)
        params = {
            "embed": blank_linear(inner, dim, param_dtype),
            **blocks.blank(),
            "norm": blank_norm(dim, param_dtype),
            "pixels": blank_linear(dim, outer, param_dtype),
        }
        token = 0.02 * jax.random.normal(token_key, (1, dim), param_dtype)
        return {**draw_weights(weights_key, params, "mae"), "mask_token": token}

    def apply(
        params: Tree, stats: Tree, tokens_NTD: Array, place_NL: Array, grid: tuple[int, int]
    ) -> tuple[Array, Tree]:
        x = linear(params["embed"], tokens_NTD.astype(dtype))
        token = params["mask_token"].astype(dtype)[None]
        visible = jnp.concatenate([x[:, prefix:], jnp.tile(token, (len(x), 1, 1))], 1)
        all_NLE = jnp.take_along_axis(visible, place_NL[:, :, None], 1)
        all_NLE = all_NLE + jnp.asarray(sincos(dim, grid), param_dtype).astype(dtype)[None]
        x = blocks.apply(params, jnp.concatenate([x[:, :prefix], all_NLE], 1))[-1]
        x = layer_norm(params["norm"], x[:, prefix:]).astype(dtype)
        return linear(params["pixels"], x), stats

    return Decoder(init, apply)
