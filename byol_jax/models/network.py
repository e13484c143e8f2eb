"""An encoder with its projector: what the methods of the joint-embedding family share.

Shape key: N rows, G views, H W C image, D features, E embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from byol_jax.core import Batch, Encoder, Features, Tree
from byol_jax.models.heads import Head


class Network(NamedTuple):
    """z = g(f(x)), as two pure functions.

    init(key, images_NGHWC) -> (params, stats)     {"encoder": ..., "projector": ...} both
    apply(params, stats, images_NGHWC, train, key=None) -> (h_NGD, z_NGE, stats)

    images_NGHWC may be a tuple of such arrays, one per size of image: see `network`.

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

    Returns:
      The network. Of several arrays of images, of different sizes, the encoder sees one after the
      other (so that no batch norm is over two sizes, and the running statistics are updated in
      this order), the projector the features of all of them together, along axis 1.
    """

    def init(key: Array, images_NGHWC: Array) -> tuple[Tree, Tree]:
        encoder_key, projector_key = jax.random.split(key)
        params, stats = encoder.init(encoder_key, images_NGHWC)
        h = jnp.zeros((*images_NGHWC.shape[:2], encoder.dim), jnp.float32)
        head, head_stats = projector.init(projector_key, h)
        return {"encoder": params, "projector": head}, {"encoder": stats, "projector": head_stats}

    def encode(
        params: Tree,
        stats: Tree,
        images: Array | tuple[Array, ...],
        train: bool,
        key: Array | None,
    ) -> tuple[Array, Tree]:
        if not isinstance(images, tuple):
            out, stats = encoder.apply(params, stats, images, train, key)
            return out.pooled, stats
        found = []
        for i, images_NGHWC in enumerate(images):
            own_key = None if key is None else jax.random.fold_in(key, i)
            out, stats = encoder.apply(params, stats, images_NGHWC, train, own_key)
            found.append(out.pooled)
        return jnp.concatenate(found, 1), stats

    def apply(
        params: Tree,
        stats: Tree,
        images: Array | tuple[Array, ...],
        train: bool,
        key: Array | None = None,
    ) -> tuple[Array, Array, Tree]:
        h, encoder_stats = encode(params["encoder"], stats["encoder"], images, train, key)
        z, head_stats = projector.apply(params["projector"], stats["projector"], h, train)
        z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
        return h, z, {"encoder": encoder_stats, "projector": head_stats}

    return Network(init, apply, encoder, projector.dim or encoder.dim)


class Drawing(NamedTuple):
    """y = d(last map of f(x)), as two pure functions.

    init(key, images_NGHWC) -> (params, stats)     {"encoder": ..., "decoder": ...} both
    apply(params, stats, images_NGHWC, train, key=None) -> (y of view 0 [N, ...], pooled, stats)
    encoder(params, extra), features(params, extra, images_NGHWC)    `Method`'s, where params and
      extra["stats"] contain it
    """

    init: Callable[[Array, Array], tuple[Tree, Tree]]
    apply: Callable[..., tuple[Array, Array, Tree]]
    encoder: Callable[[Tree, Tree], tuple[Tree, Tree]]
    features: Callable[[Tree, Tree, Array], dict[str, Array]]


def drawing(encoder: Encoder, decoder: Head) -> Drawing:
    """Combine an encoder with a decoder of its last map.

    Args:
      encoder: f, with a map.
      decoder: d, from [N, 1, H, W, D] to [N, 1, ...].
    """

    def init(key: Array, images_NGHWC: Array) -> tuple[Tree, Tree]:
        encoder_key, decoder_key = jax.random.split(key)
        params, stats = encoder.init(encoder_key, images_NGHWC)

        def last_map(params: Tree, stats: Tree, images: Array) -> Array:
            return encoder.apply(params, stats, images, False)[0].maps[-1]

        like = jax.eval_shape(last_map, params, stats, images_NGHWC[:1])
        own, own_stats = decoder.init(decoder_key, jnp.zeros(like.shape, like.dtype))
        return {"encoder": params, "decoder": own}, {"encoder": stats, "decoder": own_stats}

    def apply(
        params: Tree, stats: Tree, images_NGHWC: Array, train: bool, key: Array | None = None
    ) -> tuple[Array, Array, Tree]:
        own = params["encoder"], stats["encoder"]
        out, moved = encoder.apply(*own, images_NGHWC, train, key)
        own = params["decoder"], stats["decoder"]
        drawn, decoder_moved = decoder.apply(*own, out.maps[-1], train)
        return drawn[:, 0], out.pooled, {"encoder": moved, "decoder": decoder_moved}

    def online_encoder(params: Tree, extra: Tree) -> tuple[Tree, Tree]:
        return params["encoder"], extra["stats"]["encoder"]

    def features(params: Tree, extra: Tree, images_NGHWC: Array) -> dict[str, Array]:
        out, _ = encoder.apply(*online_encoder(params, extra), images_NGHWC, False)
        return {"h": out.pooled}

    return Drawing(init, apply, online_encoder, features)


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


def crops(batch: Batch, local: int) -> Array | tuple[Array, ...]:
    """The images of a batch as `Network.apply` takes them.

    Args:
      batch: with "views" and, unless `local` is 0, "local".
      local: local views of each image.
    """
    return (batch["views"], batch["local"]) if local else batch["views"]


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
