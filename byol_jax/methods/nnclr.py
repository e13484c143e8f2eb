"""NNCLR.

Shape key: B examples, V views, H W C image, D embedding, K projections in the queue.

    h = f(views)   z = g(h), of unit length   q = p(z)
    n = the entry of the queue nearest to z                 no gradient
    loss = half of InfoNCE(n1, q2) + InfoNCE(n2, q1) over the global batch
    queue <- z1 in front, the oldest dropped                after the loss

Reference: Dwibedi et al. 2021, equations 3 and 4; vturrisi/solo-learn:solo/methods/nnclr.py.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from byol_jax.core import Aux, Batch, Method, Tree
from byol_jax.losses import info_nce_in_batch, masked_mean, normalize
from byol_jax.losses.reductions import check_views
from byol_jax.methods.byol import predict
from byol_jax.methods.queue import enqueue, random_queue
from byol_jax.models.heads import Head
from byol_jax.models.network import Network, inference


def nnclr(net: Network, predictor: Head, *, temperature: float, queue: int) -> Method:
    """NNCLR: the nearest neighbour of one view is the positive of the other.

    Args:
      net: f and g.
      predictor: p.
      temperature: of InfoNCE, above 0.
      queue: K, a multiple of the (micro-)batch.

    Returns:
      The method. With micro-batches the queue takes the projections of each in turn.
    """

    def init(key: Array, batch: Batch) -> tuple[Tree, Tree]:
        net_key, predictor_key, queue_key = jax.random.split(key, 3)
        params, stats = net.init(net_key, batch["views"])
        z = jnp.zeros((1, 1, net.dim))
        params["predictor"], stats["predictor"] = predictor.init(predictor_key, z)
        start = random_queue(queue_key, queue, net.dim, jax.tree.leaves(params)[0].dtype)
        return params, {"stats": stats, "queue": start}

    def loss(params: Tree, extra: Tree, batch: Batch, key: Array, step: Array) -> tuple[Array, Aux]:
        del step
        mask = batch["mask"]
        h, z, stats = net.apply(params, extra["stats"], batch["views"], True, key)
        check_views("nnclr", z)
        q, stats = predict(predictor, params, extra["stats"], stats, z)
        unit_BVD = normalize(z)
        near_BVD = jax.lax.stop_gradient(nearest(unit_BVD, extra["queue"]))
        directions = [
            info_nce_in_batch(near_BVD[:, v], q[:, 1 - v], mask, temperature=temperature)
            for v in (0, 1)
        ]
        value = masked_mean((directions[0] + directions[1]) / 2, mask)
        extra = {"stats": stats, "queue": enqueue(extra["queue"], unit_BVD[:, 0], mask)}
        return value, Aux(extra, {"h": h, "z": z}, {"train/loss": value})

    return Method(init, loss, *inference(net), {"views": 2}, moving=("stats", "queue"))


def nearest(z_BVD: Array, queue_KD: Array) -> Array:
    """The entry of a queue with the largest cosine to each row, [B, V, D]; unit length on input."""
    b, v, d = z_BVD.shape
    similarity_AK = z_BVD.reshape(b * v, d) @ queue_KD.T
    return queue_KD[similarity_AK.argmax(-1)].reshape(b, v, d)
