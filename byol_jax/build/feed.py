"""Where images become views: the batches of a run, and the step that takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from byol_jax import mesh
from byol_jax.build.experiment import Experiment, steps_per_dispatch
from byol_jax.core import Batch, Step
from byol_jax.data.pipeline import cuts, places, train_batches
from byol_jax.train_step import Views, jit_step, jit_steps, make_train_step, step_keys
from byol_jax.views import device


def batches(e: Experiment, position: int) -> Iterator[dict[str, np.ndarray]]:
    """This process's training batches from a position on, as the step of `build_step` takes them.

    Args:
      e: the run.
      position: examples of the global order read so far.
    """
    where = {
        "batch_size": e.config.batch_size,
        "seed": e.config.seed,
        "position": position,
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }
    if e.config.data.placement == "resident":
        return places(e.source, **where)
    on_device = e.config.views.placement == "device"
    feed = train_batches(
        e.source, e.views, threads=e.config.data.threads, on_device=on_device, **where
    )
    if e.config.encoder.dtype == "float64" and not on_device:
        return ({**b, "views": b["views"].astype(np.float64)} for b in feed)
    return feed


def build_views_on_device(e: Experiment) -> Views | None:
    """What makes the views inside the step; None where the host makes them."""
    if e.config.views.placement == "host":
        return None
    dtype = jnp.float64 if e.config.encoder.dtype == "float64" else jnp.float32
    make = device.make_views(e.views, cropped=cuts(e.source), dtype=dtype)
    if e.config.data.placement == "stream":
        return make
    assert e.source.images is not None
    look_up = device.look_up(e.source.images.shape[1:])

    def views(batch: Batch, key: Array) -> Batch:
        return make(look_up(batch), key)

    return views


def resident(e: Experiment) -> dict[str, Array]:
    """What lies on the devices for the whole run: {"images": uint8 [N, H W C]}, or nothing."""
    if e.config.data.placement != "resident":
        return {}
    images = e.source.images
    assert images is not None
    return {"images": mesh.put_whole(images.reshape(len(images), -1), e.mesh)}


def build_step(e: Experiment, constants: dict[str, Array]) -> Step:
    """The train step of a run, compiled at its first call.

    Args:
      e: the run.
      constants: of `resident`.
    """
    step = make_train_step(
        e.method,
        e.optimizer,
        build_views_on_device(e),
        accumulate=e.config.optimizer.accumulate,
    )
    if not constants:
        return jit_step(step, e.mesh)
    return jit_steps(step, e.mesh, steps_per_dispatch(e), constants)


def shown(
    e: Experiment, constants: dict[str, Array], key: Array, rows: int
) -> Callable[[Batch], np.ndarray]:
    """How to see the views of a batch that is about to be trained on.

    Args:
      e: the run.
      constants: of `resident`.
      key: of the run, as the step takes it.
      rows: of the batch that are wanted.

    Returns:
      batch -> the views [rows, V, S, S, C] of its first rows: those that the first step will make.
    """
    make = build_views_on_device(e)
    views_key, _ = step_keys(key, 0)

    def views(batch: Batch) -> np.ndarray:
        first = {k: v[:rows] for k, v in batch.items()}
        if make is not None:
            # On one of our own devices: other processes have other rows to show.
            own = {k: v.addressable_data(0) for k, v in constants.items()}
            first = jax.jit(make)({**first, **own}, views_key)
        return np.asarray(first["views"])

    return views
