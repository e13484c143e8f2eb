"""VICReg: variance-invariance-covariance regularisation.

Shape key: B examples, V views, D embedding.

    h = f(views)   z = g(h)
    loss = 25 |z1 - z2|^2 / D + 25 (hinge on the std of each dimension) + 1 (squared covariances)

Reference: Bardes et al. 2022; facebookresearch/vicreg:main_vicreg.py.
"""

from __future__ import annotations

from jax import Array

from byol_jax import losses
from byol_jax.core import Batch, Method
from byol_jax.methods.projections import projections
from byol_jax.models.network import Network


def vicreg(
    net: Network, *, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0
) -> Method:
    """VICReg: both views agree, every dimension varies, and no two dimensions covary.

    Args:
      net: f and g (the expander), without batch norm on the output.
      invariance, variance, covariance: weights of the terms of `losses.vicreg`, 0 or more. The
        variance term is the mean of both views; where it is their sum (in the paper, and in
        solo-learn), this weight is twice theirs.

    Returns:
      The method. Metrics: vicreg/invariance, vicreg/variance, vicreg/covariance, not weighted.
    """

    def objective(z_BVD: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
        same, spread, covary = losses.vicreg(z_BVD, batch["mask"])
        metrics = {"invariance": same, "variance": spread, "covariance": covary}
        loss = invariance * same + variance * spread + covariance * covary
        return loss, {f"vicreg/{name}": value for name, value in metrics.items()}

    return projections(net, objective)
