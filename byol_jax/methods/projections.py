"""Methods whose loss is a function of the projections alone: no target, no predictor, no queue.

Shape key: B examples, V views, H W C image, D features or embedding.

    h = f(views)   z = g(h)   loss = objective(z)

SimCLR and its relatives, SupCon, Barlow Twins and VICReg are this with another objective.
"""

from __future__ import annotations

from collections.abc import Callable

from jax import Array

from byol_jax.core import Aux, Batch, Method, Tree
from byol_jax.losses import masked_mean
from byol_jax.models.network import Network, inference

OfProjections = Callable[[Array, Batch], tuple[Array, dict[str, Array]]]
"""(z [B, 2, D], batch) -> (loss, metrics). It leaves out the rows whose batch["mask"] is 0."""


def projections(net: Network, objective: OfProjections) -> Method:
    """A method that trains a network by a loss of its projections.

    Args:
      net: f and g; what their batch-norm statistics are computed over is the network's.
      objective: the loss, over the global batch.

    Returns:
      The method. Its metrics are train/loss and the objective's.
    """

    def init(key: Array, batch: Batch) -> tuple[Tree, Tree]:
        params, stats = net.init(key, batch["views"])
        return params, {"stats": stats}

    def loss(params: Tree, extra: Tree, batch: Batch, key: Array, step: Array) -> tuple[Array, Aux]:
        del step
        h, z, stats = net.apply(params, extra["stats"], batch["views"], True, key)
        value, metrics = objective(z, batch)
        return value, Aux({"stats": stats}, {"h": h, "z": z}, {"train/loss": value, **metrics})

    return Method(init, loss, *inference(net), {"views": 2})


def per_example(loss: Callable[[Array, Batch], Array]) -> OfProjections:
    """The objective that is the mean of a loss per example, (z, batch) -> [B]."""

    def objective(z_BVD: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
        return masked_mean(loss(z_BVD, batch), batch["mask"]), {}

    return objective
