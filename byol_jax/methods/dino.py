"""DINO.

Shape key: B examples, V views, H W C image, D bottleneck, K outputs.

    s = last(g(f(crop)) / |.|)        student, of every crop
    t = last'(g'(f'(crop)) / |.|)     teacher, of large crops; a moving average of the student
    loss = cross-entropy of softmax((t - centre) / T') of one crop with softmax(s / T) of another,
           the mean over all such pairs
    centre <- m centre + (1 - m) mean of t            after the loss

Reference: Caron et al. 2021, algorithm 1; facebookresearch/dino:main_dino.py.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from byol_jax.core import Aux, Batch, Method, Tree
from byol_jax.losses import code_prediction, masked_mean, normalize
from byol_jax.losses.reductions import check_views
from byol_jax.methods.target import copied, follow, through
from byol_jax.models.network import Network, crops, inference
from byol_jax.optim import Schedule


def dino(
    net: Network,
    teacher: Network,
    outputs: int,
    *,
    tau: Schedule,
    temperature: float,
    teacher_temperature: Schedule,
    centre_momentum: float = 0.9,
    local: int = 0,
) -> Method:
    """DINO.

    Args:
      net: f and g up to the bottleneck, of the student. The authors normalise all crops of one size
        in one batch: pass an encoder wrapped with `models.joint`.
      teacher: the same without stochastic depth.
      outputs: K.
      tau: the teacher's decay at each step.
      temperature: T, of the student.
      teacher_temperature: T', at each step.
      centre_momentum: m.
      local: small crops of each image.

    Returns:
      The method. The last layer has no bias and columns of unit length (weight norm with its gain
      fixed at 1). "z" is the bottleneck.
    """

    def init(key: Array, batch: Batch) -> tuple[Tree, Tree]:
        net_key, last_key = jax.random.split(key)
        params, stats = net.init(net_key, batch["views"])
        dtype, bound = jax.tree.leaves(params)[0].dtype, net.dim**-0.5
        kernel = jax.random.uniform(last_key, (net.dim, outputs), dtype, -bound, bound)
        params = {**params, "last_layer": {"kernel": kernel}}
        target, target_stats = copied(params, stats)
        target = {"params": target, "stats": target_stats}
        return params, {"stats": stats, "target": target, "centre": jnp.zeros(outputs, dtype)}

    def last(params: Tree, z_BVD: Array) -> Array:
        kernel = normalize(params["last_layer"]["kernel"].T).T
        return normalize(z_BVD) @ kernel.astype(z_BVD.dtype)

    def loss(params: Tree, extra: Tree, batch: Batch, key: Array, step: Array) -> tuple[Array, Aux]:
        views, mask, centre = batch["views"], batch["mask"], extra["centre"]
        student_key, teacher_key = jax.random.split(key)
        h, z, stats = net.apply(params, extra["stats"], crops(batch, local), True, student_key)
        check_views("dino", z[:, : views.shape[1]])
        z_teacher, extra = through(teacher, {**extra, "stats": stats}, views, teacher_key)
        t_BCK = last(extra["target"]["params"], z_teacher)
        sharpness = teacher_temperature(step)
        logits = (t_BCK - centre[None, None].astype(t_BCK.dtype)) / sharpness.astype(t_BCK.dtype)
        codes_BCK = jax.nn.softmax(logits)
        s_BVK = last(params, z)
        value = masked_mean(code_prediction(s_BVK / temperature, codes_BCK), mask)
        mean_K = jax.vmap(masked_mean, (1, None))(t_BCK.mean(1), mask)
        moved = centre_momentum * centre + (1 - centre_momentum) * mean_K.astype(centre.dtype)
        entropy = -(codes_BCK * jax.nn.log_softmax(logits)).sum(-1).mean(1)
        metrics = {
            "train/loss": value,
            "teacher/entropy": masked_mean(entropy, mask),
            "teacher/temperature": sharpness,
        }
        large = views.shape[1]
        return value, Aux(
            {**extra, "centre": moved}, {"h": h[:, :large], "z": z[:, :large]}, metrics
        )

    takes = {"views": 2} | ({"local": local} if local else {})
    moving = ("stats", "target", "centre")
    return Method(init, loss, *inference(net), takes, follow(tau), moving)


def warmed_up(start: float, end: float, epochs: int, steps_per_epoch: int) -> Schedule:
    """The teacher's temperature: from `start` to `end` over `epochs`, constant in each of them.

    It is `end` from the last of these epochs on; with 0 epochs, always.

    Reference: facebookresearch/dino:main_dino.py (teacher_temp_schedule).
    """

    def schedule(step: Array) -> Array:
        epoch = jnp.asarray(step // steps_per_epoch, jnp.result_type(float))
        rising = start + (end - start) * epoch / max(epochs - 1, 1)
        return jnp.where(epoch < epochs, rising, end)

    return schedule
