"""Build the pictures of what a method makes of images, for those methods that show any."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np

from byol_jax import mesh
from byol_jax.core import TrainState, Tree
from byol_jax.data.pipeline import eval_batches, train_batches
from byol_jax.experiment.build import Experiment

EXAMPLES = 8


def build_pictures(e: Experiment) -> Callable[[TrainState], dict[str, np.ndarray]] | None:
    """What the method makes of the first training images or clips, always the same ones.

    Returns:
      state -> {title: [N, H, W, C]}, normalised as views are, the images themselves first; all
      processes must call it together. None if the method has nothing to show.
    """
    make = e.method.pictures
    if make is None:
        return None

    @jax.jit
    def made(params: Tree, extra: Tree, images: jax.Array) -> dict[str, jax.Array]:
        return make(params, extra, images, jax.random.key(e.config.seed))

    def of_clips(state: TrainState) -> dict[str, np.ndarray]:
        groups = (*e.recipe, "sound")
        rows = min(EXAMPLES, e.source.num_examples)
        first = next(train_batches(e.source, e.recipe, batch_size=rows, seed=e.config.seed))
        given = {k: first[k][first["mask"] > 0] for k in groups if k in first}
        placed = {k: mesh.put_whole(v.astype(e.dtype), e.mesh) for k, v in given.items()}
        frame = given[groups[0]][:, 0]
        return {"image": frame} | mesh.fetched(made(state.params, state.extra, placed), e.mesh)

    def pictures(state: TrainState) -> dict[str, np.ndarray]:
        first = next(iter(eval_batches(e.source, e.eval_spec, batch_size=EXAMPLES)))
        images = np.asarray(first["views"], e.dtype)[np.asarray(first["mask"]) > 0, 0]
        placed = mesh.put_whole(images, e.mesh)
        return {"image": images} | mesh.fetched(made(state.params, state.extra, placed), e.mesh)

    return of_clips if e.method.reads else pictures
