"""MoCo v1 and v2.

Shape key: B examples, V views, H W C image, D embedding, K keys in the queue.

    q = g(f(view 1))       k = g'(f'(view 2))               query network, trained; key network
    loss = InfoNCE of q between k and the queue
    queue <- k in front, the oldest dropped                 after the loss
    g', f' <- m g', f' + (1 - m) g, f                       before the keys of a step

The key network starts as a copy of the query network. Moving it at the end of a step, by the m of
the next, is moving it at the beginning of the next one, as the authors do: their first move, of a
copy towards its original, changes nothing.

Reference: He et al. 2020, algorithm 1; Chen et al. 2020 (v2); facebookresearch/moco.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from byol_jax.core import Aux, Batch, Method, Tree
from byol_jax.losses import info_nce, masked_mean, normalize
from byol_jax.methods.queue import enqueue, random_queue
from byol_jax.methods.target import ahead, copied, follow, through
from byol_jax.models.network import Network, inference
from byol_jax.optim import Schedule


def moco(
    net: Network,
    key_net: Network,
    *,
    tau: Schedule,
    temperature: float,
    queue: int,
    symmetric: bool = False,
    local: int = 0,
) -> Method:
    """MoCo.

    Args:
      net: f and g of the queries; wrap the encoder with `models.grouped` for the batch norm that
        the authors' eight devices have, each over its own rows.
      key_net: the same for the keys, with the encoder wrapped with `models.shuffled` on top: a
        query cannot find its key by what the rows of its group have in common.
      tau: m, the key network's decay at each step.
      temperature: of InfoNCE, above 0.
      queue: K, a multiple of the keys that a (micro-)batch adds.
      symmetric: also predict view 1 from view 2. The losses of both directions are added, and the
        keys of both views enter the queue.
      local: local views of each image, which are further queries: the loss of a direction is the
        mean over its queries, of which view 1 (or 2) and each local view are one.

    Returns:
      The method. Batch-norm statistics of the key network are its own. With micro-batches the queue
      takes the keys of each in turn, so that the keys of one are negatives of the next.
    """

    def init(key: Array, batch: Batch) -> tuple[Tree, Tree]:
        net_key, queue_key = jax.random.split(key)
        params, stats = net.init(net_key, batch["views"])
        start = random_queue(queue_key, queue, net.dim, jax.tree.leaves(params)[0].dtype)
        target, target_stats = copied(params, stats)
        target = {"params": target, "stats": target_stats}
        return params, {"stats": stats, "target": target, "queue": start}

    def loss(params: Tree, extra: Tree, batch: Batch, key: Array, step: Array) -> tuple[Array, Aux]:
        del step
        views = batch["views"]
        if views.shape[1] != 2:
            raise ValueError(f"moco compares 2 views; got images of shape {views.shape}.")
        query_key, key_key, local_key = jax.random.split(key, 3)
        seen, sought = (views, views[:, ::-1]) if symmetric else (views[:, :1], views[:, 1:])
        h, q, stats = net.apply(params, extra["stats"], seen, True, query_key)
        small = None
        if local:
            _, small, stats = net.apply(params, stats, batch["local"], True, local_key)
        k, extra = through(key_net, {**extra, "stats": stats}, sought, key_key)
        negatives_KD = jax.lax.stop_gradient(extra["queue"])
        total = jnp.zeros((), q.dtype)
        for v in range(k.shape[1]):
            own = q[:, v : v + 1]
            queries_BVD = own if small is None else jnp.concatenate([own, small], 1)
            terms_BV = info_nce(queries_BVD, k[:, v : v + 1], negatives_KD, temperature)
            total = total + masked_mean(terms_BV.mean(1), batch["mask"])
        keys_BD = normalize(k).swapaxes(0, 1).reshape(-1, k.shape[-1])
        mask_B = jnp.tile(batch["mask"], k.shape[1])
        extra = {**extra, "queue": enqueue(extra["queue"], keys_BD, mask_B)}
        return total, Aux(extra, {"h": h, "z": q}, {"train/loss": total})

    takes = {"views": 2} | ({"local": local} if local else {})
    moving = ("stats", "target", "queue")
    return Method(init, loss, *inference(net), takes, follow(ahead(tau)), moving)
