"""Combinators that set what batch-norm statistics are computed over, for encoders and heads.

By default each view is normalised separately over the global batch, as separate passes would do.

Shape key: N rows, G views.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import NamedSharding

from byol_jax.core import Encoder
from byol_jax.models.heads import Head

Module = TypeVar("Module", Encoder, Head)
_rows: contextvars.ContextVar[NamedSharding | None] = contextvars.ContextVar("rows", default=None)


@contextlib.contextmanager
def batch_sharded_as(sharding: NamedSharding) -> Iterator[None]:
    """Set the sharding of rows in the program traced inside, for modules that reorder them.

    Args:
      sharding: of axis 0, as that of the batch.
    """
    token = _rows.set(sharding)
    try:
        yield
    finally:
        _rows.reset(token)


def _sharded(rows: Array) -> Array:
    """Reordered rows [N, ...], sharded as the batch is, if N is a multiple of the devices.

    XLA leaves the result of a gather whole on every device, which then does all of the work.
    """
    sharding = _rows.get()
    if sharding is None or len(rows) % sharding.mesh.size:
        return rows
    return jax.lax.with_sharding_constraint(rows, sharding)


def joint(module: Module) -> Module:
    """Statistics over all views together, as if they were concatenated into one batch."""

    def apply(params: Any, stats: Any, x: Array, *args: Any, **options: Any) -> tuple[Any, Any]:
        n, g = x.shape[:2]
        merged = x.reshape(n * g, 1, *x.shape[2:])
        out, stats = module.apply(params, stats, merged, *args, **options)
        return jax.tree.map(lambda y: y.reshape(n, g, *y.shape[2:]), out), stats

    return module._replace(apply=apply)


def grouped(module: Module, groups: int) -> Module:
    """Statistics over groups of contiguous rows, as on devices that do not synchronise them.

    A group of rows on one device, or on neighbouring ones, needs no communication across the whole
    machine. The groups do not depend on the number of devices. The running statistics are updated
    with the mean over the groups. It composes: `grouped(joint(module), 8)`.

    Args:
      module: an encoder or a head.
      groups: how many, at least 1; in training they must divide the batch (or micro-batch).
    """

    def apply(
        params: Any, stats: Any, x: Array, train: bool, *args: Any, **options: Any
    ) -> tuple[Any, Any]:
        if train and x.shape[0] % groups:
            raise ValueError(
                f"A batch of {x.shape[0]} rows cannot be divided into {groups} groups for batch "
                "norm; expected a divisor of the batch, or of the micro-batch."
            )
        options = {**options, "groups": groups if train else 1}
        return module.apply(params, stats, x, train, *args, **options)

    return module._replace(apply=apply)


def shuffled(encoder: Encoder) -> Encoder:
    """The encoder applied to rows in an order drawn from the key; features in the original order.

    With `grouped` statistics a query and its key are then in different groups, and cannot be
    matched by what their group shares: MoCo's shuffled batch norm, independent of devices. It needs
    a key in training.

    Reference: He et al. 2020, section 3.3; facebookresearch/moco:moco/builder.py.
    """

    def apply(
        params: Any,
        stats: Any,
        images_NGHWC: Array,
        train: bool,
        key: Array | None = None,
        **options: Any,
    ) -> tuple[Any, Any]:
        if not train:
            return encoder.apply(params, stats, images_NGHWC, train, key, **options)
        if key is None:
            raise ValueError("Shuffled batch norm needs a `key` in apply during training.")
        order_key, key = jax.random.split(key)
        order = jax.random.permutation(order_key, images_NGHWC.shape[0])
        images = _sharded(images_NGHWC[order])
        out, stats = encoder.apply(params, stats, images, train, key, **options)
        back = jnp.argsort(order)
        return jax.tree.map(lambda y: y[back], out), stats

    return encoder._replace(apply=apply)
