"""Pretext tasks whose answer is an image: inpainting.

Shape key: B examples, S side of an image, C channels.

    image = d(last map of f(view))
    loss = weight |image - target|^2, the mean over channels and over pixels whose weight is not 0

Reference: Pathak et al. 2016, without the adversarial term (docs/methods.md says why).
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from byol_jax.core import Answers, Aux, Batch, Encoder, Method, Tree
from byol_jax.losses import masked_mean
from byol_jax.models.heads import Head
from byol_jax.models.network import drawing
from byol_jax.views.lab import denormalised
from byol_jax.views.tasks import Task


def regress(
    encoder: Encoder,
    decoder: Head,
    task: Task,
    *,
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
) -> Method:
    """A network that draws what a task asks for.

    Args:
      encoder: f, with a map.
      decoder: d, from the last map [B, 1, H, W, D] to [B, 1, S, S, C].
      task: makes "views" [B, 1, S, S, C], "target" [B, S, S, C], "weight" [B, S, S] and "hidden"
        [B, S, S], the pixels that are 0 in "views".
      mean, std: that images are normalised with.

    Returns:
      The method. `loss` and `init` take batches after the task. Metrics: train/loss, and
      task/error, the unweighted squared error as a share of that of the mean colour: below 1 it has
      learnt something. Only f is evaluated and exported. `pictures` shows what is asked, and what
      is found where the weight is not 0. `answered`: of what is hidden alone, "psnr" in dB of
      images in 0..1, and "psnr_blank" of the mean colour.
    """

    net = drawing(encoder, decoder)

    def init(key: Array, batch: Batch) -> tuple[Tree, Tree]:
        params, stats = net.init(key, batch["views"])
        return params, {"stats": stats}

    def loss(params: Tree, extra: Tree, batch: Batch, key: Array, step: Array) -> tuple[Array, Aux]:
        del step
        drawn_BSSC, h, stats = net.apply(params, extra["stats"], batch["views"], True, key)
        weight_BSS = batch["weight"].astype(drawn_BSSC.dtype)
        target_BSSC, asked_BSS = batch["target"].astype(drawn_BSSC.dtype), weight_BSS > 0

        def mean(x_BSS: Array) -> Array:
            return masked_mean(x_BSS.sum((1, 2)) / asked_BSS.sum((1, 2)), batch["mask"])

        error_BSS = jnp.square(drawn_BSSC - target_BSSC).mean(-1)
        value = mean(error_BSS * weight_BSS)
        blank = mean(jnp.square(target_BSSC).mean(-1) * asked_BSS)
        metrics = {"train/loss": value, "task/error": mean(error_BSS * asked_BSS) / blank}
        return value, Aux({"stats": stats}, {"h": h}, metrics)

    def pictures(params: Tree, extra: Tree, images_BHWC: Array, key: Array) -> dict[str, Array]:
        batch = task({"views": images_BHWC[:, None]}, key)
        drawn, _, _ = net.apply(params, extra["stats"], batch["views"], False, None)
        asked = batch["views"][:, 0]
        found = jnp.where(batch["weight"][..., None] > 0, drawn.astype(asked.dtype), asked)
        return {"asked": asked, "found": found}

    def answered(params: Tree, extra: Tree, batch: Batch, key: Array) -> dict[str, Answers]:
        del key
        drawn_BSSC, _, _ = net.apply(params, extra["stats"], batch["views"], False, None)
        right_BSSC = denormalised(batch["target"].astype(drawn_BSSC.dtype), mean, std)
        hidden_BSS = batch["hidden"].astype(drawn_BSSC.dtype)

        def psnr(found_BSSC: Array) -> Array:
            found_BSSC = jnp.clip(denormalised(found_BSSC, mean, std), 0, 1)
            error_BSS = jnp.square(found_BSSC - right_BSSC).mean(-1) * hidden_BSS
            error_B = error_BSS.sum((1, 2)) / hidden_BSS.sum((1, 2))
            return -10 * jnp.log10(jnp.maximum(error_B, 1e-10))

        blank_BSSC, mask_B = jnp.zeros_like(drawn_BSSC), batch["mask"]
        found = {"psnr": psnr(drawn_BSSC), "psnr_blank": psnr(blank_BSSC), "mask": mask_B}
        return {"task": found}

    takes = {"views": 1}
    drawn = Method(init, loss, net.encoder, net.features, takes, pictures=pictures, task=task)
    return drawn._replace(answered=answered)
