"""SwAV.

Shape key: B examples, V views, C views that have codes, H W C image, D embedding, K prototypes,
Q entries of the queue.

    z = g(f(crop)) / |.|              of every crop, two large ones and any number of small ones
    scores = z . prototypes           prototypes of unit length
    codes = Sinkhorn(scores)          of the large crops, with those of the queue; no gradient
    loss = cross-entropy of the codes of one crop with softmax(scores / T) of another, the mean
           over all such pairs

Reference: Caron et al. 2020, appendix A; facebookresearch/swav:main_swav.py, src/resnet50.py.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from byol_jax.core import Aux, Batch, Method, Tree
from byol_jax.losses import code_prediction, masked_mean, normalize, sinkhorn
from byol_jax.losses.reductions import check_views
from byol_jax.methods.queue import enqueue
from byol_jax.models.network import Network, crops, inference


def swav(
    net: Network,
    prototypes: int,
    *,
    temperature: float = 0.1,
    epsilon: float = 0.05,
    iterations: int = 3,
    queue: int = 0,
    queue_start: int = 0,
    local: int = 0,
) -> Method:
    """SwAV.

    Args:
      net: f and g. The authors normalise all crops of one size in one batch, and all crops in the
        projector: pass an encoder and a head wrapped with `models.joint`.
      prototypes: K.
      temperature: of the predictions, above 0.
      epsilon, iterations: of `losses.sinkhorn`.
      queue: Q, embeddings of earlier batches for each large view, which take part in the
        assignment, scored with the current prototypes; a multiple of the (micro-)batch; 0: none.
      queue_start: step from which the queue is filled. It is used once it is full.
      local: small crops of each image.

    Returns:
      The method. The prototypes are made of unit length before each step, in the parameters
      themselves (`Method.prepare`), so that the gradient, the decay and the trust ratio are those
      at unit length. With micro-batches the assignment is over each of them.
    """

    def init(key: Array, batch: Batch) -> tuple[Tree, Tree]:
        net_key, prototype_key = jax.random.split(key)
        params, stats = net.init(net_key, batch["views"])
        dtype, bound = jax.tree.leaves(params)[0].dtype, net.dim**-0.5
        shape = (net.dim, prototypes)
        kernel = jax.random.uniform(prototype_key, shape, dtype, -bound, bound)
        extra = {"stats": stats}
        if queue:
            extra["queue"] = jnp.zeros((2, queue, net.dim), dtype)
        return {**params, "prototypes": {"kernel": kernel}}, extra

    def prepare(params: Tree) -> Tree:
        return {**params, "prototypes": {"kernel": normalize(params["prototypes"]["kernel"].T).T}}

    def codes(rows_BK: Array, kernel: Array, queue_QD: Array, mask_B: Array) -> Array:
        known_Q = (queue_QD != 0).any(1)
        known_Q = known_Q & known_Q[-rows_BK.shape[0] :].any()  # the oldest are filled last
        scores = jnp.concatenate([queue_QD.astype(kernel.dtype) @ kernel, rows_BK])
        mask = jnp.concatenate([known_Q.astype(mask_B.dtype), mask_B])
        all_QK = sinkhorn(scores, mask, epsilon=epsilon, iterations=iterations)
        return all_QK[queue_QD.shape[0] :]

    def loss(params: Tree, extra: Tree, batch: Batch, key: Array, step: Array) -> tuple[Array, Aux]:
        large, mask = batch["views"].shape[1], batch["mask"]
        h, z, stats = net.apply(params, extra["stats"], crops(batch, local), True, key)
        check_views("swav", z[:, :large])
        z = normalize(z)
        kernel = params["prototypes"]["kernel"].astype(z.dtype)
        scores_BVK, moved = z @ kernel, {"stats": stats}
        queues_CQD = extra["queue"] if queue else jnp.zeros((large, 0, net.dim), z.dtype)
        found = [codes(scores_BVK[:, c], kernel, queues_CQD[c], mask) for c in range(large)]
        if queue:
            filled = [enqueue(queues_CQD[c], z[:, c], mask) for c in range(large)]
            moved["queue"] = jnp.where(step >= queue_start, jnp.stack(filled), queues_CQD)
        terms_B = code_prediction(scores_BVK / temperature, jnp.stack(found, 1))
        value = masked_mean(terms_B, mask)
        seen = {"h": h[:, :large], "z": z[:, :large]}
        return value, Aux(moved, seen, {"train/loss": value})

    takes = {"views": 2} | ({"local": local} if local else {})
    moving = ("stats", "queue") if queue else ("stats",)
    return Method(init, loss, *inference(net), takes, moving=moving, prepare=prepare)
