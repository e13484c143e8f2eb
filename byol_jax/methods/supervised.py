"""Supervised training with the same contract: linear evaluation, fine-tuning, a baseline.

    h = f(view)                       all of f is trained, its last blocks, or nothing
    loss = cross-entropy of W h + b and the label, or the soft target of mixup and cutmix

Shape key: B examples, V views, H W C image, D features, K classes, L linear layers side by side.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from byol_jax.core import Aux, Batch, Encoder, Method, Tree
from byol_jax.losses import cross_entropy, masked_mean, soft_cross_entropy
from byol_jax.models.partial import frozen_parts, split_params
from byol_jax.views.tasks import Task

NORM_DECAY, NORM_EPSILON = 0.9, 1e-6


def supervised(
    encoder: Encoder,
    classes: int,
    *,
    frozen: bool = False,
    last: int | None = None,
    lr_factors: tuple[float, ...] = (1.0,),
    norm: bool = False,
    head_std: float = 0.0,
    task: Task | None = None,
) -> Method:
    """A linear classifier on an encoder, trained jointly or on frozen features.

    Several linear layers can be trained side by side with one pass through the encoder: the loss of
    layer l is multiplied by lr_factors[l], which for SGD with momentum and no decay is the same as
    training that layer alone at lr_factors[l] times the learning rate.

    Args:
      encoder: the network below the classifier; `core.starting_from` sets trained weights.
      classes: number of classes K.
      frozen: keep the encoder's parameters and statistics fixed, in inference mode.
      last: train only so many of the encoder's last blocks (of a transformer) or stages, and what
        comes after them; the rest is kept as with `frozen`, in extra["frozen"]. None: all.
      lr_factors: one per linear layer; more than one needs `frozen`.
      norm: a batch norm without scale and bias before the classifier, as for MAE's linear probe
        (decay 0.9, epsilon 1e-6, running variance unbiased, as in torch).
      head_std: standard deviation of the classifier's first kernel; 0: 1 / sqrt(D).
      task: done to the views of a batch; it sets a soft "target" [B, K] (`views.tasks.mixing`).

    Returns:
      The method. It takes one view; rows labelled -1 or masked do not count. Metrics:
      train/loss (unweighted mean over the layers) and train/top1 (of the best layer; with soft
      targets an answer is right if it has the largest share of the target).

    Raises:
      ValueError: several layers on an encoder that is not frozen; or `last` is none of its blocks.

    Reference: He et al. 2022 (MAE); facebookresearch/mae:main_finetune.py, main_linprobe.py.
    """
    if len(lr_factors) > 1 and not frozen:
        raise ValueError(f"{len(lr_factors)} linear layers side by side need a frozen encoder.")
    kept = 0 if frozen or last is None else frozen_parts(encoder, last)

    def init(key: Array, batch: Batch) -> tuple[Tree, Tree]:
        encoder_key, head_key = jax.random.split(key)
        params, stats = encoder.init(encoder_key, batch["views"])
        dtype = jax.tree.leaves(params)[0].dtype
        kernel = jax.random.normal(head_key, (encoder.dim, classes), dtype)
        kernel = kernel * head_std if head_std else kernel / encoder.dim**0.5
        head = {
            "kernel": jnp.tile(kernel[None], (len(lr_factors), 1, 1)),
            "bias": jnp.zeros((len(lr_factors), classes), dtype),
        }
        extra = {"stats": stats}
        if norm:
            extra["norm"] = {
                "mean": jnp.zeros(encoder.dim, dtype),
                "var": jnp.ones(encoder.dim, dtype),
            }
        if frozen:
            return {"head": head}, {"encoder": params, **extra}
        if kept:
            extra["frozen"], params = split_params(encoder, params, kept)
        return {"encoder": params, "head": head}, extra

    def online_encoder(params: Tree, extra: Tree) -> tuple[Tree, Tree]:
        own = (extra if frozen else params)["encoder"]
        return {**extra["frozen"], **own} if kept else own, extra["stats"]

    def classify(head: Tree, h_BD: Array) -> Array:
        h_BD = h_BD.astype(head["kernel"].dtype)
        return jnp.einsum("bd,ldk->lbk", h_BD, head["kernel"]) + head["bias"][:, None]

    def loss(params: Tree, extra: Tree, batch: Batch, key: Array, step: Array) -> tuple[Array, Aux]:
        del step
        images = batch["views"][:, :1]
        weights, stats = online_encoder(params, extra)
        options = {"frozen": kept} if kept else {}
        features, stats = encoder.apply(weights, stats, images, not frozen, key, **options)
        h = jax.lax.stop_gradient(features.pooled) if frozen else features.pooled
        if not frozen:
            extra = {**extra, "stats": stats}
        x_BD = h[:, 0]
        if norm:
            x_BD, moved = _normalised(x_BD, extra["norm"])
            extra = {**extra, "norm": moved}
        logits_LBK = classify(params["head"], x_BD)
        ce_L, top1_L = _judged(logits_LBK, batch)
        metrics = {"train/loss": ce_L.mean(), "train/top1": 100 * top1_L.max()}
        factors_L = jnp.asarray(lr_factors, ce_L.dtype)
        return (ce_L * factors_L).sum(), Aux(extra, {"h": h}, metrics)

    def features(params: Tree, extra: Tree, images_NGHWC: Array) -> dict[str, Array]:
        out, _ = encoder.apply(*online_encoder(params, extra), images_NGHWC, False)
        x_BD = out.pooled[:, 0]
        if norm:
            x_BD = (x_BD - extra["norm"]["mean"][None]) * _factor(extra["norm"]["var"])[None]
        logits_LBK = classify(params["head"], x_BD)
        return {"h": out.pooled, "logits": jnp.moveaxis(logits_LBK, 0, 1)}

    moving = (*(() if frozen else ("stats",)), *(("norm",) if norm else ()))
    return Method(init, loss, online_encoder, features, {"views": 1}, moving=moving, task=task)


def linear_layer(params: Tree, extra: Tree) -> dict[str, Array]:
    """{"kernel" [D, K], "bias" [K]} of the first linear layer, the norm before it folded in."""
    kernel_DK, bias_K = params["head"]["kernel"][0], params["head"]["bias"][0]
    if "norm" in extra:
        kernel_DK = kernel_DK * _factor(extra["norm"]["var"])[:, None]
        bias_K = bias_K - extra["norm"]["mean"] @ kernel_DK
    return {"kernel": kernel_DK, "bias": bias_K}


def _factor(var_D: Array) -> Array:
    return 1 / jnp.sqrt(var_D + NORM_EPSILON)


def _normalised(x_BD: Array, running: Tree) -> tuple[Array, Tree]:
    """The batch normalised by its own statistics, and the running ones moved."""
    x_BD = x_BD.astype(running["mean"].dtype)
    mean_D, var_D = x_BD.mean(0), x_BD.var(0)
    unbiased = var_D * (len(x_BD) / max(len(x_BD) - 1, 1))
    moved = {
        k: NORM_DECAY * running[k] + (1 - NORM_DECAY) * jax.lax.stop_gradient(new)
        for k, new in (("mean", mean_D), ("var", unbiased))
    }
    return (x_BD - mean_D[None]) * _factor(var_D)[None], moved


def _judged(logits_LBK: Array, batch: Batch) -> tuple[Array, Array]:
    """(cross-entropy, share of right answers) of each layer, [L]."""
    label_B, mask_B = batch["label"], batch["mask"] * (batch["label"] >= 0)
    answer_B, target_BK = label_B, batch.get("target")
    if target_BK is None:
        ce_LB = jax.vmap(lambda x: cross_entropy(x, label_B))(logits_LBK)
    else:
        ce_LB = jax.vmap(lambda x: soft_cross_entropy(x, target_BK))(logits_LBK)
        answer_B = target_BK.argmax(-1)
    hits_LB = (logits_LBK.argmax(-1) == answer_B[None]).astype(ce_LB.dtype)
    mean = jax.vmap(lambda x: masked_mean(x, mask_B))
    return mean(ce_LB), mean(hits_LB)
