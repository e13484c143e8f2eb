"""Where images become views: what the host passes on, and what the step does with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from byol_jax import mesh
from byol_jax.core import Batch, Step
from byol_jax.data.pipeline import cuts, row_batches, train_batches
from byol_jax.experiment.build import Experiment, view_shapes
from byol_jax.train_step import Views, jit_step, jit_steps, make_train_step, step_keys
from byol_jax.views import device
from byol_jax.views.tasks import with_task

Shapes = dict[str, jax.ShapeDtypeStruct]


class Feed(NamedTuple):
    """How the images of a run reach its step; placement is decided once, in `build_feed`.

    batches: position in the data order -> this process's batches from there on.
    shapes: of one global batch as passed on by the host.
    views: makes the views inside the step, and does the task; None if the host makes the views, and
      there is no task.
    constants: shapes of the arrays that stay on the devices for the whole run.
    load: puts them there.
    steps_per_dispatch: at most; 0: one step per call, on a batch from the host.
    """

    batches: Callable[[int], Iterator[dict[str, np.ndarray]]]
    shapes: Shapes
    views: Views | None
    constants: Shapes
    load: Callable[[], dict[str, Array]]
    steps_per_dispatch: int


def build_feed(e: Experiment) -> Feed:
    """The feed of a run: one row of the table in docs/architecture.md, then the method's task."""
    feed, task = _placed(e), e.method.task
    return feed if task is None else feed._replace(views=with_task(feed.views, task))


def _placed(e: Experiment) -> Feed:
    if e.config.data.placement == "resident":
        return _resident(e)
    if e.config.views.placement == "host":
        return _host_views(e)
    return _host_windows(e) if cuts(e.source) else _host_images(e)


def _place(e: Experiment) -> dict[str, Any]:
    return {
        "batch_size": e.config.batch_size,
        "seed": e.config.seed,
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }


def _stream(e: Experiment, shapes: Shapes, views: Views | None) -> Feed:
    """A feed of batches that the host makes, one per call of the step."""
    options = {"threads": e.config.data.threads, "on_device": views is not None}

    def batches(position: int) -> Iterator[dict[str, np.ndarray]]:
        found = train_batches(e.source, e.recipe, position=position, **options, **_place(e))
        if views is not None or e.dtype == jnp.float32:
            return found
        return ({k: v.astype(e.dtype) if k in e.recipe else v for k, v in b.items()} for b in found)

    return Feed(batches, shapes, views, {}, dict, 0)


def _host_views(e: Experiment) -> Feed:
    """The host makes the views."""
    return _stream(e, dict(view_shapes(e)), None)


def _host_windows(e: Experiment) -> Feed:
    """The host decodes each image once and crops all windows; the device does the rest."""
    shapes = {
        k: jax.ShapeDtypeStruct(v.shape, jnp.uint8) if k in e.recipe else v
        for k, v in view_shapes(e).items()
    }
    return _stream(e, shapes, device.make_views(e.recipe, cropped=True, dtype=e.dtype))


def _host_images(e: Experiment) -> Feed:
    """The host passes on whole images that it has in memory."""
    assert e.source.images is not None
    shape = (e.config.batch_size, *e.source.images.shape[1:])
    shapes = _without_views(e) | {"image": jax.ShapeDtypeStruct(shape, jnp.uint8)}
    return _stream(e, shapes, device.make_views(e.recipe, cropped=False, dtype=e.dtype))


def _resident(e: Experiment) -> Feed:
    """The images are on the devices; the host sends only the index of each row's image."""
    images = e.source.images
    assert images is not None
    make = device.make_views(e.recipe, cropped=False, dtype=e.dtype)
    look_up = device.look_up(images.shape[1:])
    flat = (len(images), int(np.prod(images.shape[1:])))

    def views(batch: Batch, key: Array) -> Batch:
        return make(look_up(batch), key)

    def load() -> dict[str, Array]:
        return {"images": mesh.put_whole(images.reshape(flat), e.mesh)}

    rows = _without_views(e)
    # Steps on a CPU are long: dispatch one at a time, so that a signal to stop takes effect soon.
    automatic = 1 if mesh.platform(e.mesh) == "cpu" else 50
    return Feed(
        batches=lambda position: row_batches(e.source, position=position, **_place(e)),
        shapes=rows | {"row": rows["index"]},
        views=views,
        constants={"images": jax.ShapeDtypeStruct(flat, jnp.uint8)},
        load=load,
        steps_per_dispatch=e.config.data.steps_per_dispatch or automatic,
    )


def _without_views(e: Experiment) -> Shapes:
    return {k: v for k, v in view_shapes(e).items() if k not in e.recipe}


def build_step(e: Experiment, feed: Feed, constants: Batch) -> Step:
    """The train step of a run, compiled at its first call.

    Args:
      e: the run.
      feed: of the run.
      constants: what `feed.load` returned, or its shapes to lower the step without data.
    """
    accumulate = e.config.optimizer.accumulate
    step = make_train_step(e.method, e.optimizer, feed.views, accumulate=accumulate)
    if not feed.steps_per_dispatch:
        return jit_step(step, e.mesh, e.method.sharded)
    return jit_steps(step, e.mesh, feed.steps_per_dispatch, constants, e.method.sharded)


def view_renderer(
    feed: Feed, constants: dict[str, Array], key: Array, rows: int
) -> Callable[[Batch], np.ndarray]:
    """A function that renders the views of a batch about to be trained on.

    Args:
      feed: of the run.
      constants: what `feed.load` returned.
      key: of the run, as for the step.
      rows: number of rows of the batch to render.

    Returns:
      batch -> the views [rows, V, S, S, C] of its first rows, as the first step will make them; but
      a task that mixes images mixes these with each other.
    """
    views_key, _ = step_keys(key, 0)

    def views(batch: Batch) -> np.ndarray:
        first = {k: v[:rows] for k, v in batch.items()}
        if feed.views is not None:
            # On one of this process's own devices: other processes have other rows.
            own = {k: v.addressable_data(0) for k, v in constants.items()}
            first = dict(jax.jit(feed.views)({**first, **own}, views_key))
        return np.asarray(cast(Array, first["views"]))

    return views
