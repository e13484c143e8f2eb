"""The very step that train would run, traced for devices that need not be there; no data opened."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from ml_collections import ConfigDict

from byol_jax import mesh
from byol_jax.build import experiment, feed
from byol_jax.core import TrainState
from byol_jax.data.source import Source
from byol_jax.train_step import init_state

# Training images, channels and classes of data sets that nobody needs to open for that.
KNOWN = {
    "imagenet2012": (1281167, 3, 1000),
    "cifar10": (50000, 3, 10),
    "cifar100": (50000, 3, 100),
    "digits": (1297, 1, 10),
}


# Sides of data sets whose images lie in the host's memory as arrays.
IN_MEMORY = {"digits": (8, 8)}


class Lowered(NamedTuple):
    """A traced step as jax has it, the run, and bytes a device of each kind of argument."""

    step: Any
    experiment: experiment.Experiment
    arguments: dict[str, int]


def no_data(config: ConfigDict, channels: int, classes: int) -> Source:
    """A data set of which only the numbers are known.

    Args:
      config: names the data; data.train_examples is how many, 0 where it is known.
      channels, classes: 0 and -1 where they are known (else 3 and none).

    Raises:
      ValueError: nobody knows how many images there are.
    """
    name, given = config.data.name, config.data.train_examples
    examples, known_channels, known_classes = KNOWN.get(name, (0, 3, 0))
    if not (given or examples):
        raise ValueError(
            f"data.train_examples is 0 and the size of {name!r} is not known without opening it; "
            "set it, e.g. --config.data.train_examples=100000."
        )
    count, channels = given or examples, channels or known_channels
    classes = known_classes if classes < 0 else classes
    if name in IN_MEMORY:
        images = blank(count, (*IN_MEMORY[name], channels))
        return Source(f"{name} (not opened)", count, channels, classes, images=images)
    paths = np.empty(0, object)
    return Source(f"{name} (not opened)", count, channels, classes, paths=paths)


def blank(count: int, shape: tuple[int, ...]) -> np.ndarray:
    """Images that take no memory: [count, H, W, C] of one zero."""
    return np.broadcast_to(np.uint8(0), (count, *shape))


def lower(config: ConfigDict, source: Source, devices: Sequence[Any]) -> Lowered:
    """The step that `byol_jax.train` would run on these devices, traced.

    Where the device makes the views of images of many sizes, the host hands over uint8 crops. Of
    resident data it is the step without the loop of several a dispatch.

    Raises:
      ValueError: the config.
    """
    e = _built(config, source, devices)
    rows, whole = mesh.rows(e.mesh), mesh.replicated(e.mesh)
    shapes = experiment.batch_shapes(e)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(lambda k: init_state(e.method, e.optimizer, k, shapes, e.mesh), key)

    def place(x: Any, sharding: Sharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    batch, constants = dict(shapes), {}
    images = e.source.images
    if config.views.placement == "device":
        shape = batch["views"].shape
        if images is not None:
            shape = (shape[0], 1, *images.shape[1:])
        batch["views"] = jax.ShapeDtypeStruct(shape, jnp.uint8)
    batch = {k: place(v, rows) for k, v in batch.items()}
    if config.data.placement == "resident":
        assert images is not None
        flat = jax.ShapeDtypeStruct((len(images), math.prod(images.shape[1:])), jnp.uint8)
        constants = {"images": place(flat, whole)}
        batch["row"] = batch["index"]
        del batch["views"]
        batch = {k: _a_step(v, e) for k, v in batch.items()}
    state = jax.tree.map(place, state, mesh.divided(state, e.mesh))
    arguments = _arguments(state, batch, constants)
    if constants:
        batch["count"] = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
    step: Any = feed.build_step(e, cast(Any, constants))
    return Lowered(step.lower(state, batch, place(key, whole)), e, arguments)


def _built(config: ConfigDict, source: Source, devices: Sequence[Any]) -> experiment.Experiment:
    """The run, as `build` makes it; resident data, which it would decode, are blank."""
    if config.data.placement != "resident":
        return experiment.build(config, source, devices)
    experiment.check_values(config)
    resident = copy.deepcopy(config)
    resident.data.steps_per_dispatch = 1
    stream = copy.deepcopy(config)
    stream.data.placement = "stream"
    e = experiment.build(stream, source, devices)
    if source.images is None:
        side = config.data.resident_size or e.eval_spec.resize
        images = blank(source.num_examples, (side, side, source.channels))
        source = dataclasses.replace(source, paths=None, images=images)
    return e._replace(config=resident, source=source)


def _a_step(x: Any, e: experiment.Experiment) -> jax.ShapeDtypeStruct:
    """The batch of one step of a dispatch of one."""
    sharding = mesh.rows_of_steps(e.mesh)
    return jax.ShapeDtypeStruct((1, *x.shape), x.dtype, sharding=sharding)


def _arguments(state: TrainState, batch: Any, constants: Any) -> dict[str, int]:
    """Bytes that each device holds of each kind of argument."""
    extra = dict(state.extra)
    kinds = {
        "parameters": state.params,
        "target": extra.get("target", {}).get("params", {}),
        "optimizer": state.opt_state,
    }
    found = {kind: held(tree) for kind, tree in kinds.items()}
    found["statistics and counters"] = held(state) - sum(found.values())
    return found | {"batch": held(batch), "resident images": held(constants)}


def held(tree: Any) -> int:
    """Bytes of a tree of shapes that each device holds, without the padding of layouts."""

    def size(x: Any) -> int:
        return math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize

    return sum(size(x) for x in jax.tree.leaves(tree))
