"""One network compared with itself: the variants without a target network.

Shape key: B examples, V views, H W C image, D features or embedding.

    h = f(views)   z = g(h)   q = p(z)   loss = objective(q, stop_gradient(z))

With a predictor and the stop-gradient it is SimSiam's loss; without them, and with negatives, it
is SimCLR's, in the form given in the BYOL paper.

Reference: Grill et al. 2020, table 5 (b); Chen and He 2021.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from byol_jax.core import Aux, Batch, Method, Tree
from byol_jax.losses import masked_mean, regression
from byol_jax.methods.byol import Objective, predict
from byol_jax.models.heads import Head
from byol_jax.models.network import Network, inference


def siamese(
    net: Network,
    predictor: Head | None,
    *,
    objective: Objective = regression,
    stop_gradient: bool = True,
) -> Method:
    """A method in which the online projections are their own targets.

    Args:
      net: f and g.
      predictor: p; None compares the projections themselves.
      objective: compares predictions with projections.
      stop_gradient: stop the gradient through the projections used as targets.

    Returns:
      The method.
    """

    def init(key: Array, batch: Batch) -> tuple[Tree, Tree]:
        # As in BYOL: equal seeds give all rows of an ablation the same initial online network.
        online_key, _, predictor_key = jax.random.split(key, 3)
        params, stats = net.init(online_key, batch["views"])
        if predictor is not None:
            z = jnp.zeros((1, 1, net.dim))
            params["predictor"], stats["predictor"] = predictor.init(predictor_key, z)
        return params, {"stats": stats}

    def loss(params: Tree, extra: Tree, batch: Batch, key: Array, step: Array) -> tuple[Array, Aux]:
        del step
        online_key, _ = jax.random.split(key)
        h, z, stats = net.apply(params, extra["stats"], batch["views"], True, online_key)
        q, stats = predict(predictor, params, extra["stats"], stats, z)
        z_target = jax.lax.stop_gradient(z) if stop_gradient else z
        value = masked_mean(objective(q, z_target, batch["mask"]), batch["mask"])
        return value, Aux({**extra, "stats": stats}, {"h": h, "z": z}, {"train/loss": value})

    return Method(init, loss, *inference(net), {"views": 2})
