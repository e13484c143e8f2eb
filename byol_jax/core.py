"""The vocabulary every room shares: batches, encoders, methods and the train state.

Shape key: N batch rows, G batch-norm groups (axis 1), B batch, V views, H W C image, D features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

Array = jax.Array
Tree = Any  # a pytree of arrays
Batch = Mapping[str, Any]
"""One training batch, arrays only.

views  [B, V, H, W, C]  float, normalised (uint8 [B, 1, H, W, C] where the device makes the views)
index  [B] int32        position of the example in the data set
label  [B] int32        class, -1 where unknown
mask   [B] float32      1, or 0 for a row that must not count (a substitute, padding)
"""


class Features(NamedTuple):
    """What an encoder gives: `pooled` [N, G, D] and `maps`, one [N, G, H, W, C] a stage."""

    pooled: Array
    maps: tuple[Array, ...]


class Encoder(NamedTuple):
    """An image encoder as two pure functions.

    init(key, images_NGHWC) -> (params, stats)
    apply(params, stats, images_NGHWC, train, key=None, keep=None) -> (Features, stats)

    Axis 1 is the batch-norm group: in training each group is normalised by its own statistics over
    axis 0 (the whole, global batch), and the running statistics move once a group, in order. G = V
    takes statistics per view; a reshape to G = 1 takes them jointly. `keep` names the patches that
    a masked encoder sees; convolutional encoders refuse it.

    dim: features D. channels: image channels C. config: a JSON-able description from which
    `models.make_encoder` builds the same encoder again; saved with every checkpoint and export.
    """

    init: Callable[..., tuple[Tree, Tree]]
    apply: Callable[..., tuple[Features, Tree]]
    dim: int
    channels: int
    config: dict[str, Any]


class Aux(NamedTuple):
    """What a loss gives beside its scalar.

    extra: the method's next `extra`. features: {"h": [B, V, D], "z": [B, V, D'], ...}, watched for
    collapse and read by probes. metrics: flat dict of scalars.
    """

    extra: Tree
    features: dict[str, Array]
    metrics: dict[str, Array]


def _no_update(params: Tree, extra: Tree, step: Array) -> tuple[Tree, dict[str, Array]]:
    del params, step
    return extra, {}


class Method(NamedTuple):
    """A self-supervised method as pure functions; see docs/architecture.md.

    init(key, batch) -> (params, extra)            params: what gradients train; extra: all else
    loss(params, extra, batch, key) -> (scalar, Aux)
    encoder(params, extra) -> (params, stats)      the online encoder, under any wrapper
    features(params, extra, images_NGHWC) -> {"h", "z", ...}   inference mode
    after_update(params, extra, step) -> (extra, metrics)      step: before the increment
    """

    init: Callable[[Array, Batch], tuple[Tree, Tree]]
    loss: Callable[[Tree, Tree, Batch, Array], tuple[Array, Aux]]
    encoder: Callable[[Tree, Tree], tuple[Tree, Tree]]
    features: Callable[[Tree, Tree, Array], dict[str, Array]]
    after_update: Callable[[Tree, Tree, Array], tuple[Tree, dict[str, Array]]] = _no_update


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that changes in training, arrays only.

    step: optimizer steps done, int32. position: examples of the global data order read so far,
    int32 (2**31 - 1 examples at most; `build` refuses longer runs).
    """

    step: Array
    position: Array
    params: Tree
    extra: Tree
    opt_state: Tree


Step = Callable[[TrainState, Any, Array], tuple[TrainState, dict[str, Array]]]
"""(state, batch, root key) -> (state, metrics)."""
