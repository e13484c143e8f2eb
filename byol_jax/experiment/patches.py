"""What the positions of an encoder's last map know of images, in figures and in pictures."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from byol_jax import log
from byol_jax.core import Features, Tree
from byol_jax.evals.features import NothingToJudge, pixels
from byol_jax.evals.patches import Seen, as_colours, chance, components, nearest, same_class
from byol_jax.experiment.evaluation import Change, EvalData, eval_batch_size, limited
from byol_jax.experiment.frozen import UNTRAINED, candidates
from byol_jax.models import as_vit
from byol_jax.models.patches import patchify
from byol_jax.models.vit import SIZES
from byol_jax.run_folder import RunEncoder

SHOWN = 8  # images whose positions are shown; positions whose nearest are shown
NEAREST = 4  # of each, in as many images
ASKING = 4096  # positions that ask for the figure


def run_patches(run: RunEncoder, data: EvalData) -> dict[str, Any]:
    """Components, attention and nearest patches of the last map, for some of the test images."""
    data = _few(run, data)
    images, labels = _images(run, data)
    c, seed, spec = run.config.eval, run.config.seed, data.spec
    shown = np.random.RandomState(seed).permutation(len(images))[:SHOWN]
    normal = ((images[shown] - spec.mean) / spec.std).astype(np.float32)
    attention = None if data.show is None else _attention(run)
    names = {"": run.info.method, "untrained_": UNTRAINED}
    rows: dict[str, dict[str, float]] = {}
    seen: list[Seen] = []
    counts: dict[str, Any] = {"test_images": len(images), "side": spec.size}
    for prefix, start in reversed(candidates(run).items()):
        name, x_NhwD = names[prefix], _map(run, data, start)
        grid = x_NhwD.shape[1:3]
        if not rows and c.pixels and grid[0] == grid[1] and spec.size % grid[0] == 0:
            cut = np.asarray(patchify(jnp.asarray(images), spec.size // grid[0]))
            rows["raw pixels"] = _figures(cut.reshape(*x_NhwD.shape[:3], -1), labels, seed)
        log.say(f"patches: {name}, {grid[0]} x {grid[1]} positions")
        rows[name] = _figures(x_NhwD, labels, seed)
        counts["positions"] = list(grid)
        if attention is not None:
            seen.append(_seen(name, x_NhwD, shown, attention(start[0], normal), seed))
    if data.show is not None:
        data.show(images, seen)
    if (labels >= 0).sum() > 1:
        counts["chance"] = chance(labels)
    return counts | {"rows": rows}


def _few(run: RunEncoder, data: EvalData) -> EvalData:
    """The data with `eval.patches_images` test images, and centre crops of `eval.patches_size`.

    Raises:
      ValueError: patches do not cover the crops.
    """
    c, spec, test = run.config.eval, data.spec, data.test
    size, patch = c.patches_size or spec.size, run.encoder.config.get("patch", 1)
    if size % patch:
        raise ValueError(
            f"eval.patches_size is {size}, which cannot be divided into the encoder's patches of "
            f"{patch} px; choose a multiple."
        )
    resize = c.resize or round(spec.resize * size / spec.size)
    spec = dataclasses.replace(spec, size=size, resize=resize)
    return dataclasses.replace(
        data, spec=spec, test=test if test.is_stream else limited(test, c.patches_images)
    )


def _first(run: RunEncoder, data: EvalData) -> Change:
    """Of a stream, which has more images, the first ones."""
    count = -(-run.config.eval.patches_images // eval_batch_size(data.config, data.mesh))
    return lambda batches, spec: itertools.islice(batches, count)


def _images(run: RunEncoder, data: EvalData) -> tuple[np.ndarray, np.ndarray]:
    """The images [N, S, S, C] in 0..1, and their labels.

    Raises:
      NothingToJudge: there are not even two.
    """
    spec = data.spec
    plain = dataclasses.replace(spec, mean=(0.0,) * spec.channels, std=(1.0,) * spec.channels)
    plainly = dataclasses.replace(data, spec=plain)
    found = pixels(plainly.crops(data.test, _first(run, data)))
    images = found.outputs["h"].reshape(-1, spec.size, spec.size, spec.channels)
    if len(images) < 2:
        raise NothingToJudge("Fewer than two test images can be read: nothing can be compared.")
    return images, found.labels


def _last(features: Features) -> dict[str, jax.Array]:
    return {"map": features.maps[-1]}


def _map(run: RunEncoder, data: EvalData, start: tuple[Tree, Tree]) -> np.ndarray:
    """The last map of the images, [N, h, w, D].

    Raises:
      NothingToJudge: it is not finite.
    """
    found = data.features(run.encoder, start, data.test, _last, _first(run, data)).outputs["map"]
    if not np.isfinite(found).all():
        raise NothingToJudge("The encoder's last map is not finite; judge an earlier checkpoint.")
    return found


def _figures(x_NhwD: np.ndarray, labels: np.ndarray, seed: int) -> dict[str, float]:
    n, h, w, d = x_NhwD.shape
    x_NPD = x_NhwD.reshape(n, h * w, d)
    found = {"variance_3": components(x_NPD.reshape(-1, d))[1]}
    known = np.flatnonzero(np.repeat(labels >= 0, h * w))
    if (labels >= 0).sum() > 1:
        asking = np.random.RandomState(seed).permutation(known)[:ASKING]
        answers = nearest(x_NPD, asking)[:, 0]
        found["same_class"] = same_class(answers, asking, np.repeat(labels, h * w))
    return found


def _seen(
    name: str, x_NhwD: np.ndarray, shown: np.ndarray, attention: np.ndarray | None, seed: int
) -> Seen:
    """What there is to draw of an encoder.

    Args:
      name: of the encoder.
      x_NhwD: its last map.
      shown: the images whose positions are shown.
      attention: of these.
      seed: of the positions that ask.
    """
    n, h, w, d = x_NhwD.shape
    random = np.random.RandomState(seed)
    asking = random.permutation(n)[:SHOWN] * h * w
    asking += random.randint(h * w, size=len(asking))
    scores, _ = components(x_NhwD[shown].reshape(-1, d))
    colours = as_colours(scores).reshape(len(shown), h, w, 3)
    found = nearest(x_NhwD.reshape(n, h * w, d), asking, min(NEAREST, n - 1))
    return Seen(name, shown, colours, attention, (h, w), asking, found)


def _attention(run: RunEncoder) -> Callable[[Tree, np.ndarray], np.ndarray | None]:
    """(params, normalised images [N, S, S, C]) -> [N, A, h, w]: how much the class token takes from
    each patch in each head of the last block; None for an encoder without such a token.
    """
    config = run.encoder.config
    if config["name"] not in SIZES or not config["class_token"] or config.get("lightness"):
        log.say("attention is left out: the encoder has no class token to look from")
        return lambda params, images: None
    vit = as_vit(run.encoder, "attention")

    @jax.jit
    def of_one(params: Tree, image: jax.Array) -> jax.Array:
        return vit.attention(params, image[None])[0, :, 0, vit.prefix :]

    def of_all(params: Tree, images: np.ndarray) -> np.ndarray:
        # One image at a time: T x T numbers per head are many for large images.
        found = np.stack([np.asarray(of_one(params, x)) for x in images])
        side = images.shape[1] // vit.patch
        return found.reshape(*found.shape[:2], side, side)

    return of_all
