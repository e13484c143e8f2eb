"""SimCLR v1 and v2.

Shape key: B examples, V views, H W C image, D features or embedding.

    h = f(views)   z = g(h)   loss = NT-Xent over the global 2N

Reference: Chen et al. 2020 (v1, v2); google-research/simclr.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from byol_jax.core import Aux, Batch, Encoder, Method, Tree
from byol_jax.losses import masked_mean, nt_xent
from byol_jax.models.heads import Head


def simclr(encoder: Encoder, projector: Head, *, temperature: float = 0.1) -> Method:
    """SimCLR: views of one image attract, all other images of the global batch repel.

    Args:
      encoder, projector: f and g. SimCLR normalises both views in one batch: give it an encoder and
        a head wrapped by `models.joint`.
      temperature: of NT-Xent, above 0.

    Returns:
      The method.
    """

    def init(key: Array, batch: Batch) -> tuple[Tree, Tree]:
        encoder_key, projector_key = jax.random.split(key)
        params, stats = encoder.init(encoder_key, batch["views"])
        h = jnp.zeros((*batch["views"].shape[:2], encoder.dim), jnp.float32)
        head, head_stats = projector.init(projector_key, h)
        return (
            {"encoder": params, "projector": head},
            {"stats": {"encoder": stats, "projector": head_stats}},
        )

    def embed(
        params: Tree, stats: Tree, views: Array, train: bool, key: Array | None
    ) -> tuple[Array, Array, Tree]:
        features, encoder_stats = encoder.apply(
            params["encoder"], stats["encoder"], views, train, key
        )
        z, projector_stats = projector.apply(
            params["projector"], stats["projector"], features.pooled, train
        )
        return features.pooled, z, {"encoder": encoder_stats, "projector": projector_stats}

    def loss(params: Tree, extra: Tree, batch: Batch, key: Array) -> tuple[Array, Aux]:
        h, z, stats = embed(params, extra["stats"], batch["views"], True, key)
        z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
        value = masked_mean(nt_xent(z, temperature, batch["mask"]), batch["mask"])
        return value, Aux({"stats": stats}, {"h": h, "z": z}, {"train/loss": value})

    def online_encoder(params: Tree, extra: Tree) -> tuple[Tree, Tree]:
        return params["encoder"], extra["stats"]["encoder"]

    def features(params: Tree, extra: Tree, images_NGHWC: Array) -> dict[str, Array]:
        h, z, _ = embed(params, extra["stats"], images_NGHWC, False, None)
        return {"h": h, "z": z}

    return Method(init, loss, online_encoder, features)
