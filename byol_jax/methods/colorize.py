"""Colorization: the colours of a grey image, as a classification of its pixels.

Shape key: B examples, S side of an image, T side of its sampled colours, K bins, N nearest bins.

    p(bin | pixel) = softmax(d(last map of f(lightness)))
    z = weights of the N bins nearest to the pixel's colour, a Gaussian of their distance
    loss = -v(nearest bin) sum z log p, the mean over pixels; v is larger for rare colours

Reference: Zhang et al. 2016; richzhang/colorization.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from byol_jax.core import Answers, Aux, Batch, Encoder, Method, Tree
from byol_jax.losses import masked_mean
from byol_jax.models.heads import Head
from byol_jax.models.network import drawing
from byol_jax.views.lab import denormalised, normalised, to_lab
from byol_jax.views.tasks import Task
from byol_jax.views.tasks.colorization import (
    annealed_mean,
    bins,
    coloured,
    colourful,
    rebalancing,
    soft_bins,
)


def colorize(
    encoder: Encoder,
    decoder: Head,
    task: Task,
    prior: np.ndarray,
    *,
    neighbours: int = 5,
    sigma: float = 5.0,
    rebalance: float = 0.5,
    temperature: float = 0.38,
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
) -> Method:
    """A network that colours grey images.

    Args:
      encoder: f, of images in colour of which it sees the lightness; see `models.on_lightness`.
      decoder: d, from the last map [B, 1, H, W, D] to [B, 1, T, T, K].
      task: makes "target" [B, T, T, 2].
      prior: [K], share of each bin in the data, as `counted_colours` returns it; part of `extra`,
        so that a checkpoint has the bins that it was trained with.
      neighbours, sigma: of the targets; see `soft_bins`.
      rebalance: of the weights v; see `rebalancing`.
      temperature: of the decoding in pictures.
      mean, std: that images are normalised with.

    Returns:
      The method. Images without a colour do not count. Metrics: train/loss; and of p / v, since v
      makes rare colours too likely: task/cross_entropy, beside task/prior_entropy, which an answer
      that does not look at the image reaches; task/top1, the share of pixels whose bin is the
      likeliest, beside task/grey, that of pixels in the bin of grey, in percent. `answered` has
      the same four, "prior_entropy" being the cross-entropy of the prior for the same pixels.
    """
    net, grey = drawing(encoder, decoder), int(np.square(bins()).sum(-1).argmin())

    def init(key: Array, batch: Batch) -> tuple[Tree, Tree]:
        params, stats = net.init(key, batch["views"])
        return params, {"stats": stats, "prior": jnp.asarray(prior, jnp.float32)}

    def log_shares(logits: Array, odds_K: Array) -> Array:
        """Logarithm of the shares of bins, odds exp(logits); -inf where `odds` is 0."""
        odds = jnp.log(odds_K).reshape(*(1,) * (logits.ndim - 1), -1)
        return jax.nn.log_softmax(logits + odds.astype(logits.dtype))

    def judged(logits_BTTK: Array, prior: Array, batch: Batch) -> tuple[Array, Answers]:
        """The loss of each image [B], and how well it was answered, means of its pixels."""
        dtype, prior_K = logits_BTTK.dtype, prior.astype(logits_BTTK.dtype)
        ab_BTT2, used_K = batch["target"].astype(dtype), prior_K > 0
        index_BTTN, weight_BTTN = soft_bins(ab_BTT2, used_K, neighbours, sigma)
        nearest_BTT, v_K = index_BTTN[..., 0], rebalancing(prior_K, rebalance)

        def average(x_BTT: Array) -> Array:
            return x_BTT.astype(dtype).mean((1, 2))

        def cross_entropy(log_p_BTTK: Array) -> Array:
            log_p_BTTN = jnp.take_along_axis(log_p_BTTK, index_BTTN, -1)
            return -jnp.where(weight_BTTN > 0, weight_BTTN * log_p_BTTN, 0).sum(-1)

        entropy_BTT = cross_entropy(log_shares(logits_BTTK, used_K))
        loss_B = average(v_K[nearest_BTT] * entropy_BTT)
        log_p_BTTK = log_shares(logits_BTTK, jnp.where(used_K, 1 / v_K, 0))
        blind_BTTK = jnp.broadcast_to(log_shares(prior_K * 0, prior_K), logits_BTTK.shape)
        return loss_B, {
            "cross_entropy": average(cross_entropy(log_p_BTTK)),
            "prior_entropy": average(cross_entropy(blind_BTTK)),
            "top1": 100 * average(log_p_BTTK.argmax(-1) == nearest_BTT),
            "grey": 100 * average(nearest_BTT == grey),
            "mask": batch["mask"] * colourful(ab_BTT2),
        }

    def loss(params: Tree, extra: Tree, batch: Batch, key: Array, step: Array) -> tuple[Array, Aux]:
        del step
        logits_BTTK, h, stats = net.apply(params, extra["stats"], batch["views"], True, key)
        loss_B, answers = judged(logits_BTTK, extra["prior"], batch)
        mask_B = answers.pop("mask")
        value = masked_mean(loss_B, mask_B)
        metrics = {f"task/{k}": masked_mean(x_B, mask_B) for k, x_B in answers.items()}
        entropy = jax.scipy.special.entr(extra["prior"]).sum()
        metrics = {"train/loss": value, **metrics, "task/prior_entropy": entropy}
        return value, Aux({**extra, "stats": stats}, {"h": h}, metrics)

    def answered(params: Tree, extra: Tree, batch: Batch, key: Array) -> dict[str, Answers]:
        del key
        logits_BTTK, _, _ = net.apply(params, extra["stats"], batch["views"], False, None)
        return {"task": judged(logits_BTTK, extra["prior"], batch)[1]}

    def pictures(params: Tree, extra: Tree, images_BHWC: Array, key: Array) -> dict[str, Array]:
        ab = task({"views": images_BHWC[:, None]}, key)["target"]
        logits, _, _ = net.apply(params, extra["stats"], images_BHWC[:, None], False, None)
        index, weight = soft_bins(ab, extra["prior"] > 0, neighbours, sigma)
        near_BTTN2 = jnp.asarray(bins(), weight.dtype)[index]
        right = (weight[..., None] * near_BTTN2).sum(-2)
        found = annealed_mean(log_shares(logits, extra["prior"] > 0), temperature)
        lightness = to_lab(denormalised(images_BHWC, mean, std))[..., 0]
        shown = {"asked": 0 * right, "found": found, "right": right}
        return {k: normalised(coloured(lightness, v), mean, std) for k, v in shown.items()}

    takes = {"views": 1}
    colours = Method(init, loss, net.encoder, net.features, takes, pictures=pictures, task=task)
    return colours._replace(answered=answered)
