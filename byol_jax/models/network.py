"""An encoder with its projector: what the methods of the joint-embedding family share.

Shape key: N rows, G views, H W C image, D features, E embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from byol_jax.core import Encoder, Features, Tree
from byol_jax.models.heads import Head


class Network(NamedTuple):
    """z = g(f(x)), as two pure functions.

    init(key, images_NGHWC) -> (params, stats)     {"encoder": ..., "projector": ...} both
    apply(params, stats, images_NGHWC, train, key=None) -> (h_NGD, z_NGE, stats)

    h and z are at least float32. encoder: f. dim: of the embedding, E.
    """

    init: Callable[[Array, Array], tuple[Tree, Tree]]
    apply: Callable[..., tuple[Array, Array, Tree]]
    encoder: Encoder
    dim: int


def network(encoder: Encoder, projector: Head) -> Network:
    """Combine an encoder with a projector.

    Args:
      encoder: f.
      projector: g; a head without layers is the identity.
    """

    def init(key: Array, images_NGHWC: Array) -> tuple[Tree, Tree]:
        encoder_key, projector_key = jax.random.split(key)
        params, stats = encoder.init(encoder_key, images_NGHWC)
        h = jnp.zeros((*images_NGHWC.shape[:2], encoder.dim), jnp.float32)
        head, head_stats = projector.init(projector_key, h)
        return {"encoder": params, "projector": head}, {"encoder": stats, "projector": head_stats}

    def apply(
        params: Tree, stats: Tree, images_NGHWC: Array, train: bool, key: Array | None = None
    ) -> tuple[Array, Array, Tree]:
        out, encoder_stats = encoder.apply(
            params["encoder"], stats["encoder"], images_NGHWC, train, key
        )
        z, head_stats = projector.apply(params["projector"], stats["projector"], out.pooled, train)
        z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
        return out.pooled, z, {"encoder": encoder_stats, "projector": head_stats}

    return Network(init, apply, encoder, projector.dim or encoder.dim)


def extended(encoder: Encoder, head: Head) -> Encoder:
    """An encoder whose pooled features are those of a head on top of it.

    Args:
      encoder: f.
      head: g.

    Returns:
      The encoder, its parameters and statistics {"encoder": ..., "head": ...}; `config` is still
      f's.
    """

    def init(key: Array, images_NGHWC: Array) -> tuple[Tree, Tree]:
        encoder_key, head_key = jax.random.split(key)
        params, stats = encoder.init(encoder_key, images_NGHWC)
        h = jnp.zeros((*images_NGHWC.shape[:2], encoder.dim), jnp.float32)
        own, own_stats = head.init(head_key, h)
        return {"encoder": params, "head": own}, {"encoder": stats, "head": own_stats}

    def apply(
        params: Tree, stats: Tree, images_NGHWC: Array, train: bool, *args: Any, **options: Any
    ) -> tuple[Features, Tree]:
        out, moved = encoder.apply(
            params["encoder"], stats["encoder"], images_NGHWC, train, *args, **options
        )
        z, head_moved = head.apply(params["head"], stats["head"], out.pooled, train)
        z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
        return Features(z, out.maps), {"encoder": moved, "head": head_moved}

    return encoder._replace(init=init, apply=apply, dim=head.dim or encoder.dim)


def inference(
    net: Network,
) -> tuple[Callable[[Tree, Tree], tuple[Tree, Tree]], Callable[..., dict[str, Any]]]:
    """`Method.encoder` and `Method.features` when params and extra["stats"] contain a network."""

    def encoder(params: Tree, extra: Tree) -> tuple[Tree, Tree]:
        return params["encoder"], extra["stats"]["encoder"]

    def features(params: Tree, extra: Tree, images_NGHWC: Array) -> dict[str, Array]:
        h, z, _ = net.apply(params, extra["stats"], images_NGHWC, False)
        return {"h": h, "z": z}

    return encoder, features
