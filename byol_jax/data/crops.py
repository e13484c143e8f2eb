"""Batches of images and their maps: scaled, cropped and mirrored alike, or whole.

A crop is a function of (seed, epoch, image), as the views of training are.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from byol_jax import pulse
from byol_jax.data.order import epoch_permutation, generator
from byol_jax.data.pairs import VOID, Pairs, nearest
from byol_jax.data.rows import HostBatch

_PURPOSE = 3  # of the random numbers: those of `order.py` have others


class Crops(NamedTuple):
    """How images become batches.

    size: side of the square crops, px. scales: smallest and largest factor on an image's sides.
    flip: probability of mirroring left and right. mean, std: per channel, of images in 0..1.
    """

    size: int
    scales: tuple[float, float]
    flip: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


def cropped(
    image: np.ndarray, target: np.ndarray, crops: Crops, u: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One crop of an image and of its map.

    Depths of an image scaled by s are those of a camera s times nearer: they are divided by s.
    Beyond the image's border the crop is of the mean colour, and its map not known.

    Args:
      image: uint8 [H, W, C].
      target: [H, W], a mask or depths.
      crops: how.
      u: four numbers in [0, 1): the scale, the place down and across, the mirroring.

    Returns:
      (float32 [S, S, C], normalised; int32 classes with -1 for void, or float32 depths, [S, S]).

    Reference: Eigen et al. 2014 for depths.
    """
    from PIL import Image

    low, high = crops.scales
    height, width = target.shape
    down, across = (max(1, round(side * (low + (high - low) * u[0]))) for side in target.shape)
    if (down, across) != (height, width):
        pictures = [Image.fromarray(c) for c in np.moveaxis(image, 2, 0)]
        scaled = [p.resize((across, down), Image.Resampling.BILINEAR) for p in pictures]
        image = np.stack([np.asarray(p) for p in scaled], 2)
        target = nearest(target, down, across)
        if target.dtype != np.uint8:
            target = target * np.float32((height / down + width / across) / 2)
    top, left = (
        int(v * (max(side - crops.size, 0) + 1))
        for v, side in zip(u[1:3], target.shape, strict=True)
    )
    window = slice(top, top + crops.size), slice(left, left + crops.size)
    image, target = image[window], target[window]
    if u[3] < crops.flip:
        image, target = image[:, ::-1], target[:, ::-1]
    return _placed(image, target, (crops.size, crops.size), crops)


def _placed(
    image: np.ndarray, target: np.ndarray, size: tuple[int, int], crops: Crops
) -> tuple[np.ndarray, np.ndarray]:
    """Normalised, at the upper left of a view of a size."""
    mean, std = (np.asarray(v, np.float32) for v in (crops.mean, crops.std))
    room = [(0, full - side) for full, side in zip(size, target.shape, strict=True)]
    pixels = (image.astype(np.float32) / np.float32(255) - mean) / std
    if target.dtype == np.uint8:
        classes = np.where(target == VOID, -1, target.astype(np.int32))
        wanted = np.pad(classes, room, constant_values=-1)
    else:
        wanted = np.pad(target, room)
    return np.pad(pixels, [*room, (0, 0)]), wanted


def crop_batches(pairs: Pairs, crops: Crops, batch_size: int, seed: int) -> Iterator[HostBatch]:
    """Training batches, without end; images that do not fill a batch are left out of an epoch.

    Args:
      pairs: at least `batch_size` of them.
      crops: how.
      batch_size: B.
      seed: for the order and the crops.

    Returns:
      Batches {"views": float32 [B, 1, S, S, C], "target": [B, S, S] (see `cropped`), "index":
      int32 [B], "label": int32 [B], -1, "mask": float32 [B], 1}.
    """
    count = pairs.num_examples
    for epoch in itertools.count():
        rows = epoch_permutation(seed, epoch, count)[: count // batch_size * batch_size]
        for index in rows.reshape(-1, batch_size):
            pulse.beat()
            made = []
            for i in index:
                u = generator(seed, epoch, _PURPOSE, i).random(4)
                made.append(cropped(pairs.images[i], pairs.targets[i], crops, u))
            yield _batch(made, index)


def whole_batches(
    pairs: Pairs, crops: Crops, batch_size: int, multiple: int = 1
) -> Iterator[HostBatch]:
    """One pass of whole images, in order, all filled up to one size.

    Args:
      pairs: the images.
      crops: only mean and std are used.
      batch_size: B; the last batch is filled up with rows of mask 0.
      multiple: of the height and width, px.

    Returns:
      Batches as of `crop_batches`, [B, 1, H, W, C] with H and W those of the largest image.
    """
    shapes = np.array([t.shape for t in pairs.targets]).max(0)
    down, across = (int(-(-side // multiple) * multiple) for side in shapes)
    for start in range(0, pairs.num_examples, batch_size):
        pulse.beat()
        index = np.arange(start, min(start + batch_size, pairs.num_examples))
        made = [_placed(pairs.images[i], pairs.targets[i], (down, across), crops) for i in index]
        batch = _batch(made, index)
        short = batch_size - len(index)
        fill = {"target": -1 if pairs.targets[0].dtype == np.uint8 else 0, "index": -1, "label": -1}
        yield {
            k: np.pad(v, [(0, short), *[(0, 0)] * (v.ndim - 1)], constant_values=fill.get(k, 0))
            for k, v in batch.items()
        }


def _batch(made: list[tuple[np.ndarray, np.ndarray]], index: np.ndarray) -> HostBatch:
    images, targets = zip(*made, strict=True)
    return {
        "views": np.stack(images)[:, None],
        "target": np.stack(targets),
        "index": index.astype(np.int32),
        "label": np.full(len(index), -1, np.int32),
        "mask": np.ones(len(index), np.float32),
    }
