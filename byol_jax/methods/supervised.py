"""Supervised training with the same contract: linear evaluation, fine-tuning, a baseline.

Shape key: B examples, V views, H W C image, D features, K classes, L linear layers side by side.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from byol_jax.core import Aux, Batch, Encoder, Method, Tree
from byol_jax.losses import cross_entropy, masked_mean


def supervised(
    encoder: Encoder,
    classes: int,
    *,
    frozen: bool = False,
    lr_factors: tuple[float, ...] = (1.0,),
) -> Method:
    """A linear classifier on an encoder, trained jointly or on frozen features.

    Several linear layers can be trained side by side with one pass through the encoder: the loss of
    layer l is multiplied by lr_factors[l], which for SGD with momentum and no decay is the same as
    training that layer alone at lr_factors[l] times the learning rate.

    Args:
      encoder: the network below the classifier; `core.starting_from` sets trained weights.
      classes: number of classes K.
      frozen: keep the encoder's parameters and statistics fixed, in inference mode.
      lr_factors: one per linear layer; more than one needs `frozen`.

    Returns:
      The method. It takes one view; rows labelled -1 or masked do not count. Metrics:
      train/loss (unweighted mean over the layers) and train/top1 (of the best layer).

    Raises:
      ValueError: several layers on an encoder that is not frozen.
    """
    if len(lr_factors) > 1 and not frozen:
        raise ValueError(f"{len(lr_factors)} linear layers side by side need a frozen encoder.")

    def init(key: Array, batch: Batch) -> tuple[Tree, Tree]:
        encoder_key, head_key = jax.random.split(key)
        params, stats = encoder.init(encoder_key, batch["views"])
        dtype = jax.tree.leaves(params)[0].dtype
        kernel = jax.random.normal(head_key, (encoder.dim, classes), dtype) / encoder.dim**0.5
        head = {
            "kernel": jnp.tile(kernel[None], (len(lr_factors), 1, 1)),
            "bias": jnp.zeros((len(lr_factors), classes), dtype),
        }
        if frozen:
            return {"head": head}, {"encoder": params, "stats": stats}
        return {"encoder": params, "head": head}, {"stats": stats}

    def online_encoder(params: Tree, extra: Tree) -> tuple[Tree, Tree]:
        return (extra if frozen else params)["encoder"], extra["stats"]

    def classify(head: Tree, h_BD: Array) -> Array:
        h_BD = h_BD.astype(head["kernel"].dtype)
        return jnp.einsum("bd,ldk->lbk", h_BD, head["kernel"]) + head["bias"][:, None]

    def loss(params: Tree, extra: Tree, batch: Batch, key: Array, step: Array) -> tuple[Array, Aux]:
        del step
        images = batch["views"][:, :1]
        weights, stats = online_encoder(params, extra)
        features, new_stats = encoder.apply(weights, stats, images, not frozen, key)
        h = jax.lax.stop_gradient(features.pooled) if frozen else features.pooled
        logits_LBK = classify(params["head"], h[:, 0])
        label, mask = batch["label"], batch["mask"] * (batch["label"] >= 0)
        ce_L = jax.vmap(lambda x: masked_mean(cross_entropy(x, label), mask))(logits_LBK)
        hits_LB = (logits_LBK.argmax(-1) == label[None]).astype(ce_L.dtype)
        top1_L = jax.vmap(lambda x: masked_mean(x, mask))(hits_LB)
        metrics = {"train/loss": ce_L.mean(), "train/top1": 100 * top1_L.max()}
        extra = extra if frozen else {"stats": new_stats}
        factors_L = jnp.asarray(lr_factors, ce_L.dtype)
        return (ce_L * factors_L).sum(), Aux(extra, {"h": h}, metrics)

    def features(params: Tree, extra: Tree, images_NGHWC: Array) -> dict[str, Array]:
        out, _ = encoder.apply(*online_encoder(params, extra), images_NGHWC, False)
        logits_LBK = classify(params["head"], out.pooled[:, 0])
        return {"h": out.pooled, "logits": jnp.moveaxis(logits_LBK, 0, 1)}

    moving = () if frozen else ("stats",)
    return Method(init, loss, online_encoder, features, {"views": 1}, moving=moving)
