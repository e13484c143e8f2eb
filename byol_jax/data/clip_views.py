"""Batches of clips: frames and sound, read in threads and cropped as views.

NOTE: PyAV and Pillow are called from Python, and the destructor of a tf.data iterator waits for the
functions in it while it holds Python's lock, which a Python function needs to end. So this is a
pool of threads, a few batches ahead, and TensorFlow only computes.
"""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tensorflow as tf

from byol_jax.data import media
from byol_jax.data.rows import HostBatch
from byol_jax.data.source import Clip, Source
from byol_jax.views import host
from byol_jax.views.spec import (
    FRAMES,
    UNIFORMS,
    EvalSpec,
    Recipe,
    ViewSpec,
    draws_of,
    group_slices,
    total_views,
)

Tensor = Any  # tf.Tensor; TensorFlow ships no usable types
_AHEAD = 2  # batches


def train_clips(
    source: Source,
    plan: Iterable[tuple[int, np.ndarray]],
    recipe: Recipe,
    *,
    seed: int,
    chunk: int,
    threads: int,
) -> Iterator[HostBatch]:
    """The views and the sound of clips.

    Args:
      source: of clips.
      plan: epoch and examples [b] of each batch.
      recipe: "frames", as many as are read, or views of the one frame that is read.
      seed: for the views, and for where in a clip they are.
      chunk: how many examples are augmented in one call. 0: the views are only cropped.
      threads: 0: as many as there are processors.

    Returns:
      Batches {group: float32 [b, V, S, S, C], "sound": float32 [b, samples] if it is asked for,
      "index": int64 [b], "ok": bool [b]}; with chunk 0 the groups are uint8. A function of the
      arguments alone but for `threads`. Where "ok" is False, all is 0.
    """
    clip = source.clip
    assert clip is not None
    total = total_views(recipe)
    which = np.array([*draws_of(recipe), total])

    def draw(epoch: Tensor, index: Tensor) -> Tensor:
        # One more row of draws than there are views: where in the clip they are.
        return tf.gather(host.uniforms(seed, epoch, index, total + 1), which)

    whole = tf.TensorSpec([], tf.int64)
    draws = tf.function(draw, [whole, whole], autograph=False)
    dtype = tf.float32 if chunk else tf.uint8
    cut = _cropper(tuple(recipe.items()), clip.frames, source.channels, dtype)

    def read(epoch: int, index: int) -> dict[str, np.ndarray]:
        u = draws(tf.constant(epoch, tf.int64), tf.constant(index, tf.int64))
        at = u[-1, :2].numpy()
        images, sound = media.read_clip(
            _path(source, index), clip, source.channels, (float(at[0]), float(at[1]))
        )
        made = {k: v.numpy() for k, v in cut(images, u).items()} | {"u": u.numpy()}
        return made | ({"sound": sound} if clip.sound else {})

    blank: dict[str, np.ndarray] = {
        name: np.zeros((len(specs), *[specs[0].size] * 2, source.channels), dtype.as_numpy_dtype)
        for name, specs in recipe.items()
    }
    blank["u"] = np.zeros((total + 1, UNIFORMS), np.float32)
    if clip.sound:
        blank["sound"] = np.zeros(clip.samples, np.float32)
    for batch in _in_threads(plan, read, blank, threads):
        u = batch.pop("u")
        if chunk:
            batch |= _augmented(batch, recipe, u, chunk)
        yield batch


def eval_clips(source: Source, plan: Iterable[np.ndarray], spec: EvalSpec) -> Iterator[HostBatch]:
    """The evaluation views of clips: the centre of the frame in the middle.

    Args:
      source: of clips.
      plan: examples of each batch, int [b].
      spec: the view.

    Returns:
      Batches {"views" [b, S, S, C], "index" [b], "ok" [b]}.
    """
    view = tf.function(
        lambda image: host.eval_view(image, spec),
        [tf.TensorSpec([None, None, source.channels], tf.uint8)],
        autograph=False,
    )

    def read(epoch: int, index: int) -> dict[str, np.ndarray]:
        del epoch
        images, _ = media.read_clip(_path(source, index), Clip(), source.channels, (0.5, 0.5))
        return {"views": view(images[0]).numpy()}

    blank = {"views": np.zeros((spec.size, spec.size, source.channels), np.float32)}
    yield from _in_threads(((0, index) for index in plan), read, blank, 0)


def _path(source: Source, index: int) -> str:
    assert source.paths is not None
    return os.path.join(source.root, str(source.paths[index]))


def _in_threads(
    plan: Iterable[tuple[int, np.ndarray]],
    read: Callable[[int, int], dict[str, np.ndarray]],
    blank: dict[str, np.ndarray],
    threads: int,
) -> Iterator[HostBatch]:
    """Batches of what `read` returns of (epoch, example); of those that it cannot read, `blank`."""

    def one(epoch: int, index: int) -> dict[str, np.ndarray]:
        try:
            return read(epoch, index) | {"ok": np.array(True)}
        except Exception:  # `rows.why_damaged` says why
            return blank | {"ok": np.array(False)}

    plan, ahead = iter(plan), deque[tuple[np.ndarray, list[Any]]]()
    pool = ThreadPoolExecutor(threads or os.cpu_count(), "clips")
    try:
        while True:
            while len(ahead) <= _AHEAD and (new := next(plan, None)) is not None:
                epoch, index = new
                ahead.append((index, [pool.submit(one, epoch, int(i)) for i in index]))
            if not ahead:
                return
            index, pending = ahead.popleft()
            rows = [p.result() for p in pending]
            found = {k: np.stack([row[k] for row in rows]) for k in rows[0]} if rows else {}
            yield found | {"index": index}
    finally:
        pool.shutdown(cancel_futures=True)


@functools.lru_cache(maxsize=64)
def _cropper(
    recipe: tuple[tuple[str, tuple[ViewSpec, ...]], ...], count: int, channels: int, dtype: Any
) -> Callable[[np.ndarray, Tensor], dict[str, Tensor]]:
    """(frames uint8 [T, H, W, C], u [V, UNIFORMS]) -> {group: [V, S, S, C]}."""

    def crop(image: Tensor, spec: ViewSpec, u: Tensor) -> Tensor:
        if not spec.affine:
            window = host.crop_window(spec, u, tf.shape(image)[0], tf.shape(image)[1])
            return host.crop_resize(image, window, spec.size, dtype)
        turned = host.crop_affine(image[None], spec, u[None])[0]
        return tf.cast(turned * 255 + 0.5, tf.uint8) if dtype == tf.uint8 else turned

    def crops(frames: Tensor, u: Tensor) -> dict[str, Tensor]:
        made = {}
        for name, part in group_slices(dict(recipe)).items():
            specs = dict(recipe)[name]
            images = [frames[i if name == FRAMES else 0] for i in range(len(specs))]
            rows = [u[part.start + i] for i in range(len(specs))]
            made[name] = tf.stack([crop(*x) for x in zip(images, specs, rows, strict=True)])
        return made

    shapes = [
        tf.TensorSpec([count, None, None, channels], tf.uint8),
        tf.TensorSpec([None, UNIFORMS], tf.float32),
    ]
    return tf.function(crops, shapes, autograph=False)


@functools.lru_cache(maxsize=64)
def _augment(spec: ViewSpec) -> Callable[[Tensor, Tensor], Tensor]:
    return tf.function(lambda images, u: host.augment(images, spec, u), autograph=False)


def _augmented(
    batch: HostBatch, recipe: Recipe, u_BVU: np.ndarray, chunk: int
) -> dict[str, np.ndarray]:
    """The crops of a batch, augmented `chunk` examples at a time."""
    made = {}
    for name, part in group_slices(recipe).items():
        views = []
        for i, spec in enumerate(recipe[name]):
            images, u = batch[name][:, i], u_BVU[:, part.start + i]
            pieces = [slice(at, at + chunk) for at in range(0, len(images), chunk)]
            views.append(np.concatenate([_augment(spec)(images[p], u[p]).numpy() for p in pieces]))
        made[name] = np.stack(views, 1)
    return made
