"""The exact step that train would run, traced for devices that need not exist, without data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from ml_collections import ConfigDict

from byol_jax import mesh
from byol_jax.config import resolve
from byol_jax.core import TrainState
from byol_jax.data.facts import facts_of
from byol_jax.data.source import Source
from byol_jax.experiment.build import Experiment, batch_shapes, build, clip_of
from byol_jax.experiment.feed import build_feed, build_step
from byol_jax.train_step import state_shapes


class Lowered(NamedTuple):
    """A traced step, the run, and the bytes per device of the arguments and of the state."""

    step: Any
    experiment: Experiment
    arguments: dict[str, int]
    state: int


def no_data(config: ConfigDict, channels: int, classes: int) -> Source:
    """A data set of which only the sizes are known.

    Args:
      config: names the data; data.train_examples is how many, 0 if that is known.
      channels, classes: 0 and -1 if they are known (else 3 and none).

    Raises:
      ValueError: the number of images is not known.
    """
    name, given = config.data.name, config.data.train_examples
    facts = facts_of(name)
    if not (given or facts):
        raise ValueError(
            f"data.train_examples is 0 and the size of {name!r} is not known without opening it; "
            "set it, e.g. --config.data.train_examples=100000."
        )
    count = given or (facts.train.examples if facts else 0)
    channels = channels or (facts.channels if facts else 3)
    if classes < 0:
        classes = facts.classes if facts else 0
    title = f"{name} (not opened)"
    if facts and facts.side:
        images = blank(count, (facts.side, facts.side, channels))
        return Source(title, count, channels, classes, images=images)
    return Source(title, count, channels, classes, paths=np.empty(0, object), clip=clip_of(config))


def blank(count: int, shape: tuple[int, ...]) -> np.ndarray:
    """Images that take no memory: [count, H, W, C], a broadcast zero."""
    return np.broadcast_to(np.uint8(0), (count, *shape))


def _blank_images(source: Source, side: int, devices: Any, antialias: bool) -> Source:
    """Instead of decoding resident data: blank images of the size they would have."""
    del devices
    if source.images is not None:
        return source
    images = blank(source.num_examples, (side, side, source.channels))
    return dataclasses.replace(source, paths=None, images=images)


def lower(config: ConfigDict, source: Source, devices: Sequence[Any]) -> Lowered:
    """The step that `byol_jax.train` would run on these devices, traced.

    For resident data it is the step without the loop over several steps per dispatch.

    Raises:
      ValueError: the config is invalid.
    """
    config = resolve(config)
    config.data.steps_per_dispatch = 1
    e = build(config, source, devices, resumed=True, decode=_blank_images)
    feed, key = build_feed(e), jax.eval_shape(lambda: jax.random.key(0))
    whole = mesh.replicated(e.mesh)

    def place(x: Any, sharding: Sharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    constants = {k: place(v, whole) for k, v in feed.constants.items()}
    if feed.steps_per_dispatch:
        stacked = {k: jax.ShapeDtypeStruct((1, *v.shape), v.dtype) for k, v in feed.shapes.items()}
        batch = {k: place(v, mesh.steps_sharding(e.mesh)) for k, v in stacked.items()}
    else:
        batch = {k: place(v, mesh.batch_sharding(e.mesh)) for k, v in feed.shapes.items()}
    state = state_shapes(e.method, e.optimizer, key, batch_shapes(e), e.mesh)
    arguments = _arguments(state, batch, constants)
    if feed.steps_per_dispatch:
        batch["count"] = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
    step: Any = build_step(e, feed, constants)
    return Lowered(step.lower(state, batch, place(key, whole)), e, arguments, held(state))


def _arguments(state: TrainState, batch: Any, constants: Any) -> dict[str, int]:
    """Bytes per device of each kind of argument; the method's extra by its own names."""
    kinds = {"parameters": state.params, **dict(state.extra), "optimizer": state.opt_state}
    found = {kind: held(tree) for kind, tree in kinds.items()}
    return found | {"batch": held(batch), "resident images": held(constants)}


def held(tree: Any) -> int:
    """Bytes of a tree of shapes that each device holds, without the padding of layouts."""

    def size(x: Any) -> int:
        return math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize

    return sum(size(x) for x in jax.tree.leaves(tree))
