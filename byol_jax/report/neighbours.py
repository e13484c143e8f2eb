"""A picture of images and their nearest neighbours, the wrong ones framed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from byol_jax.data.pipeline import eval_batches
from byol_jax.data.source import Source
from byol_jax.evals.features import Extracted
from byol_jax.report.views import denormalised
from byol_jax.views.spec import EvalSpec

EXAMPLES = 10
SIDE = 48  # px at least of an image in the picture
WRONG = (0.85, 0.1, 0.1)


def draw_neighbours(
    path: Path, found: Extracted, nearest: np.ndarray, source: Source, spec: EvalSpec
) -> None:
    """Draw some images of a data set, each followed by its nearest neighbours.

    Args:
      path: of the PNG, which has one row per image; neighbours of another class have a red frame.
      found: what was extracted from the source, in its order.
      nearest: [N, n], as from `retrieval`.
      source: the images; a stream cannot show any.
      spec: their centre crop.
    """
    read = np.setdiff1d(np.arange(source.num_examples), found.damaged)
    known = np.flatnonzero(found.labels >= 0)
    asking = np.random.RandomState(0).permutation(known)[:EXAMPLES]
    rows = np.column_stack([asking, nearest[asking]])
    there = np.unique(rows[rows >= 0])
    batch = next(eval_batches(source.take(read[there]), spec, batch_size=len(there)))
    images = dict(zip(there.tolist(), denormalised(batch["views"][:, 0], spec), strict=True))
    lines = []
    for asked, *others in rows.tolist():
        own = _tile(images[asked], wrong=False)
        tiles = [
            _tile(images[i], found.labels[i] != found.labels[asked])
            if i >= 0
            else np.ones_like(own)
            for i in others
        ]
        gap = np.ones((len(own), len(own) // 4, 3))
        lines.append(np.concatenate([own, gap, *tiles], 1))
    from matplotlib.image import imsave

    temporary = path.with_suffix(".tmp.png")
    imsave(temporary, np.concatenate(lines))
    temporary.replace(path)


def _tile(image: np.ndarray, wrong: bool) -> np.ndarray:
    """An image [H, W, C] in 0..1, enlarged if it is small, in a frame: RGB."""
    times = -(-SIDE // image.shape[0])
    x = np.repeat(np.repeat(image, times, 0), times, 1)
    x = np.broadcast_to(x, (*x.shape[:2], 3))
    frame = max(2, len(x) // 20)
    tile = np.ones((x.shape[0] + 4 * frame, x.shape[1] + 4 * frame, 3))
    if wrong:
        tile[frame:-frame, frame:-frame] = WRONG
    tile[2 * frame : -2 * frame, 2 * frame : -2 * frame] = x
    return tile
