"""An answer for every pixel, on a frozen encoder or with one that is trained too.

    y = resize(head(last map of f(view)))            bilinear, to the size of the view
    loss = mean over the known pixels of l(y, target)

Shape key: B images, G = 1 view, H W pixels, E outputs per pixel.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax import Array

from byol_jax.core import Aux, Batch, Encoder, Method, Tree
from byol_jax.models.heads import Head

Objective = Callable[[Array, Array, Array], Array]
"""(outputs [B, H, W, E], target [B, H, W], mask [B]) -> scalar."""


def dense(encoder: Encoder, head: Head, objective: Objective, *, frozen: bool) -> Method:
    """Train a dense head.

    Args:
      encoder: f; `core.starting_from` sets trained weights.
      head: [B, 1, h, w, D] -> [B, 1, h, w, E].
      objective: l.
      frozen: keep the encoder's parameters and statistics as they are, in inference mode.

    Returns:
      The method. It takes one view, of any height and width, and "target" [B, H, W] of its size.
      `features` has "dense" [B, 1, H, W, E]. Metrics: train/loss.
    """

    def init(key: Array, batch: Batch) -> tuple[Tree, Tree]:
        encoder_key, head_key = jax.random.split(key)
        images = batch["views"]
        params, stats = encoder.init(encoder_key, images)
        maps = jax.eval_shape(lambda: encoder.apply(params, stats, images, False)[0].maps)
        head_params, head_stats = head.init(head_key, maps[-1])
        extra = {"stats": stats, "head": head_stats}
        if frozen:
            return {"head": head_params}, {"encoder": params, **extra}
        return {"encoder": params, "head": head_params}, extra

    def online_encoder(params: Tree, extra: Tree) -> tuple[Tree, Tree]:
        return (extra if frozen else params)["encoder"], extra["stats"]

    def outputs(
        params: Tree, extra: Tree, images_BGHWC: Array, train: bool, key: Array | None
    ) -> tuple[Array, Array, Tree]:
        weights, stats = online_encoder(params, extra)
        learns = train and not frozen
        options = {"key": key} if learns else {}
        found, stats = encoder.apply(weights, stats, images_BGHWC, learns, **options)
        x, h = found.maps[-1], found.pooled
        if frozen:
            x, h = jax.lax.stop_gradient((x, h))
        y, moved = head.apply(params["head"], extra["head"], x, train)
        y = jax.image.resize(y, (*images_BGHWC.shape[:4], y.shape[-1]), "bilinear")
        if train:
            extra = {**extra, "head": moved} | ({} if frozen else {"stats": stats})
        return y, h, extra

    def loss(params: Tree, extra: Tree, batch: Batch, key: Array, step: Array) -> tuple[Array, Aux]:
        del step
        y, h, extra = outputs(params, extra, batch["views"][:, :1], True, key)
        value = objective(y[:, 0], batch["target"], batch["mask"])
        return value, Aux(extra, {"h": h}, {"train/loss": value})

    def features(params: Tree, extra: Tree, images_NGHWC: Array) -> dict[str, Array]:
        y, h, _ = outputs(params, extra, images_NGHWC, False, None)
        return {"h": h, "dense": y}

    moving = ("head",) if frozen else ("stats", "head")
    return Method(init, loss, online_encoder, features, {"views": 1}, moving=moving)
