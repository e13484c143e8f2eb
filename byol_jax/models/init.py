"""Initial weights, drawn all at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import Array

from byol_jax.core import Tree

# Standard deviation of a unit normal truncated at +-2.
_TRUNCATED = 0.87962566103423978


def draw_kernels(key: Array, params: Tree) -> Tree:
    """Replace every leaf named `kernel` by lecun-normal weights (truncated, variance 1 / fan-in).

    Args:
      key: for this network.
      params: nested dicts; kernels are [..., in, out], others (biases, norms) are unchanged.
    """

    def draws(count: int, dtype: jnp.dtype) -> Array:
        return jax.random.truncated_normal(key, -2, 2, (count,), dtype)

    def scale(path: str, shape: tuple[int, ...]) -> float:
        return 1 / (_TRUNCATED * math.sqrt(math.prod(shape[:-1])))

    return draw(params, draws, scale)


def draw(
    params: Tree,
    draws: Callable[[int, jnp.dtype], Array],
    scale: Callable[[str, tuple[int, ...]], float],
    names: Sequence[str] = ("kernel",),
) -> Tree:
    """Replace leaves by random numbers of their own scale, from one draw for all of them.

    XLA takes a third of a second to compile each generator, which would add half a minute before
    the first step for a ResNet-50 with its target.

    Args:
      params: nested dicts.
      draws: (how many numbers, dtype) -> [how many].
      scale: (path "a/b/kernel", shape) -> what the numbers of that leaf are multiplied by.
      names: of the leaves that are drawn; all others are unchanged.
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(params)
    sizes = [leaf.size if path[-1].key in names else 0 for path, leaf in paths]
    if not sum(sizes):
        return params
    numbers = draws(sum(sizes), paths[0][1].dtype)
    leaves, start = [], 0
    for (path, leaf), size in zip(paths, sizes, strict=True):
        if size:
            own = scale(jax.tree_util.keystr(path, simple=True, separator="/"), leaf.shape)
            weights = numbers[start : start + size].reshape(leaf.shape)
            leaf = jnp.asarray(weights * own, leaf.dtype)
        leaves.append(leaf)
        start += size
    return jax.tree_util.tree_unflatten(structure, leaves)
