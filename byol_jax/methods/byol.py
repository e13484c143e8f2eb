"""BYOL.

Shape key: B examples, V views, H W C image, D features or embedding.

    h = f(views)   z = g(h)   q = p(z)                     online, trained
    z' = g'(f'(views))                                     target, a moving average of f and g
    loss = sum over both directions of |q/|q| - z'/|z'||^2, then the mean over the batch

With local views (multi-crop), each of them predicts the targets of both global views; the loss is
twice the mean over all 2 + 2 V' predictions, so that it is the sum above without local views.

Reference: Grill et al. 2020; google-deepmind/deepmind-research:byol/byol_experiment.py.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from byol_jax.core import Aux, Batch, Method, Tree
from byol_jax.losses import masked_mean, regression, regression_of_all
from byol_jax.methods.target import copied, follow, through
from byol_jax.models.heads import Head
from byol_jax.models.network import Network, crops, inference
from byol_jax.optim import Schedule

Objective = Callable[[Array, Array, Array], Array]
"""(q [B, V, D], z' [B, V, D], mask [B]) -> loss [B]."""


def byol(
    net: Network,
    predictor: Head | None,
    *,
    tau: Schedule,
    objective: Objective = regression,
    copy: bool = False,
    local: int = 0,
) -> Method:
    """BYOL.

    Args:
      net: f and g.
      predictor: p; None compares the projections themselves.
      tau: the target's decay at each step; a constant 1 gives a fixed random target.
      objective: compares the predictions with the target's projections.
      copy: start the target as a copy of the online network (MoCo v3), not from its own draws.
      local: V', local views of each image; they are compared by regression.

    Returns:
      The method. Batch-norm statistics are per view, as in separate passes; wrap encoder and heads
      with `models.joint` or `models.grouped` to compute them over anything else.
    """

    def init(key: Array, batch: Batch) -> tuple[Tree, Tree]:
        # Online and target start from different keys, as in DeepMind's code.
        online_key, target_key, predictor_key = jax.random.split(key, 3)
        params, stats = net.init(online_key, batch["views"])
        drawn = copied(params, stats) if copy else net.init(target_key, batch["views"])
        target, target_stats = drawn
        if predictor is not None:
            z = jnp.zeros((1, 1, net.dim))
            params["predictor"], stats["predictor"] = predictor.init(predictor_key, z)
        return params, {"stats": stats, "target": {"params": target, "stats": target_stats}}

    def loss(params: Tree, extra: Tree, batch: Batch, key: Array, step: Array) -> tuple[Array, Aux]:
        del step
        online_key, target_key = jax.random.split(key)
        views = batch["views"]
        h, z, stats = net.apply(params, extra["stats"], crops(batch, local), True, online_key)
        q, stats = predict(predictor, params, extra["stats"], stats, z)
        z_target, extra = through(net, {**extra, "stats": stats}, views, target_key)
        if local:
            pairs = objective(q[:, : views.shape[1]], z_target, batch["mask"])
            pairs = pairs + regression_of_all(q[:, views.shape[1] :], z_target)
            value = masked_mean(pairs, batch["mask"]) / (1 + local)
        else:
            value = masked_mean(objective(q, z_target, batch["mask"]), batch["mask"])
        return value, Aux(extra, {"h": h, "z": z}, {"train/loss": value})

    takes = {"views": 2} | ({"local": local} if local else {})
    return Method(init, loss, *inference(net), takes, follow(tau), ("stats", "target"))


def predict(
    predictor: Head | None, params: Tree, before: Tree, stats: Tree, z_BVD: Array
) -> tuple[Array, Tree]:
    """q = p(z) in training mode.

    Args:
      predictor: p; if None, q is z.
      params: with "predictor".
      before, stats: the statistics before the pass, and the network's after it.
      z_BVD: projections.

    Returns:
      (q [B, V, D] in z's dtype, the statistics including the predictor's).
    """
    if predictor is None:
        return z_BVD, stats
    q, moved = predictor.apply(params["predictor"], before["predictor"], z_BVD, True)
    return q.astype(z_BVD.dtype), {**stats, "predictor": moved}
