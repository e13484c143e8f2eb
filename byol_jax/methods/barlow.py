"""Barlow Twins.

Shape key: B examples, V views, D embedding.

    h = f(views)   z = g(h)   C = correlation of the dimensions of z1 with those of z2
    loss = sum_i (1 - C_ii)^2 + lambda sum_{i != j} C_ij^2

Reference: Zbontar et al. 2021; facebookresearch/barlowtwins:main.py.
"""

from __future__ import annotations

from jax import Array

from byol_jax.core import Batch, Method
from byol_jax.losses import barlow_twins
from byol_jax.methods.projections import projections
from byol_jax.models.network import Network


def barlow(net: Network, *, off_diagonal: float = 0.0051, scale: float = 1.0) -> Method:
    """Barlow Twins: equal dimensions of both views correlate, different ones do not.

    Args:
      net: f and g, without batch norm on the output: the loss has its own.
      off_diagonal: lambda, 0 or more.
      scale: of the loss. LARS undoes it for weights, but not for biases and norms.

    Returns:
      The method. Metrics: barlow/on_diagonal and barlow/off_diagonal, not weighted.
    """

    def objective(z_BVD: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
        on, off = barlow_twins(z_BVD, batch["mask"])
        metrics = {"barlow/on_diagonal": on, "barlow/off_diagonal": off}
        return scale * (on + off_diagonal * off), metrics

    return projections(net, objective)
