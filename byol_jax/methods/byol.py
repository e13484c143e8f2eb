"""BYOL, and the forms between it and SimCLR.

Shape key: B examples, V views, H W C image, D features or embedding.

    h = f(views)   z = g(h)   q = p(z)                     online, trained
    z' = g'(f'(views))                                     target, a moving average of f and g
    loss = sum over both directions of |q/|q| - z'/|z'||^2, then the mean over the batch

Reference: Grill et al. 2020; google-deepmind/deepmind-research:byol/byol_experiment.py.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jax import Array

from byol_jax.core import Aux, Batch, Encoder, Method, Tree
from byol_jax.losses import info_nce, masked_mean, regression
from byol_jax.models.heads import Head
from byol_jax.optim import Schedule


def byol(
    encoder: Encoder,
    projector: Head,
    predictor: Head | None,
    *,
    tau: Schedule | None,
    beta: float = 0.0,
    temperature: float = 0.1,
    stop_gradient: bool = True,
) -> Method:
    """BYOL with its options.

    Args:
      encoder, projector: f and g.
      predictor: p; None compares the projections themselves.
      tau: the target's decay at a step; a constant 1 is a fixed random target; None is no target
        network: the online projections are the targets.
      beta: weight of the negatives in the common InfoNCE form; 0 is BYOL's loss.
      temperature: of the negatives, where beta > 0.
      stop_gradient: cut the gradient through the targets. With a target network it makes no
        difference; without one, True is SimSiam and False is what SimCLR does.

    Returns:
      The method. Batch norm takes its statistics per view, as separate passes would; wrap encoder
      and heads by `models.joint` to take them over both.
    """

    def run(
        params: Tree, stats: Tree, views: Array, key: Array | None
    ) -> tuple[Array, Array, Tree]:
        features, encoder_stats = encoder.apply(
            params["encoder"], stats["encoder"], views, True, key
        )
        z, projector_stats = projector.apply(
            params["projector"], stats["projector"], features.pooled, True
        )
        return features.pooled, z, {"encoder": encoder_stats, "projector": projector_stats}

    def init_network(key: Array, views: Array) -> tuple[Tree, Tree, Array]:
        encoder_key, projector_key = jax.random.split(key)
        params, stats = encoder.init(encoder_key, views)
        h = jnp.zeros((*views.shape[:2], encoder.dim), jnp.float32)
        head, head_stats = projector.init(projector_key, h)
        z, _ = projector.apply(head, head_stats, h, False)
        return (
            {"encoder": params, "projector": head},
            {"encoder": stats, "projector": head_stats},
            z,
        )

    def init(key: Array, batch: Batch) -> tuple[Tree, Tree]:
        online_key, target_key, predictor_key = jax.random.split(key, 3)
        params, stats, z = init_network(online_key, batch["views"])
        if predictor is not None:
            params["predictor"], stats["predictor"] = predictor.init(predictor_key, z)
        extra = {"stats": stats}
        if tau is not None:
            # Online and target start from different keys, as in DeepMind's code.
            target, target_stats, _ = init_network(target_key, batch["views"])
            extra["target"] = {"params": target, "stats": target_stats}
        return params, extra

    def loss(params: Tree, extra: Tree, batch: Batch, key: Array) -> tuple[Array, Aux]:
        views, mask = batch["views"], batch["mask"]
        online_key, target_key = jax.random.split(key)
        h, z, stats = run(params, extra["stats"], views, online_key)
        q = z
        if predictor is not None:
            q, stats["predictor"] = predictor.apply(
                params["predictor"], extra["stats"]["predictor"], z, True
            )
        extra = {**extra, "stats": stats}
        z_target = z
        if tau is not None:
            target = extra["target"]
            _, z_target, target_stats = run(target["params"], target["stats"], views, target_key)
            extra["target"] = {**target, "stats": target_stats}
        if stop_gradient or tau is not None:
            z_target = jax.lax.stop_gradient(z_target)
        dtype = jnp.promote_types(z.dtype, jnp.float32)
        q, z_target = q.astype(dtype), z_target.astype(dtype)
        if beta:
            loss_B = info_nce(q, z_target, temperature, beta, mask)
        else:
            loss_B = regression(q, z_target)
        value = masked_mean(loss_B, mask)
        return value, Aux(extra, {"h": h, "z": z}, {"train/loss": value})

    def after_update(params: Tree, extra: Tree, step: Array) -> tuple[Tree, dict[str, Array]]:
        if tau is None:
            return extra, {}
        decay = tau(step)
        online = {k: params[k] for k in ("encoder", "projector")}
        target = extra["target"]
        moved = optax.incremental_update(online, target["params"], 1 - decay)
        # Where float64 is enabled, tau is float64 and would take a float32 target along.
        moved = jax.tree.map(lambda new, old: new.astype(old.dtype), moved, target["params"])
        return {**extra, "target": {**target, "params": moved}}, {"target/tau": decay}

    def online_encoder(params: Tree, extra: Tree) -> tuple[Tree, Tree]:
        return params["encoder"], extra["stats"]["encoder"]

    def features(params: Tree, extra: Tree, images_NGHWC: Array) -> dict[str, Array]:
        stats = extra["stats"]
        out, _ = encoder.apply(params["encoder"], stats["encoder"], images_NGHWC, False)
        z, _ = projector.apply(params["projector"], stats["projector"], out.pooled, False)
        return {"h": out.pooled, "z": z}

    return Method(init, loss, online_encoder, features, after_update)
