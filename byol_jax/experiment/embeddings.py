"""What can be seen of a run's embeddings on a few hundred images, for its report."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from byol_jax import log
from byol_jax.checkpoint import Checkpoints
from byol_jax.config import resolve
from byol_jax.data.source import Source
from byol_jax.evals.features import Extracted, extract, topk_accuracy
from byol_jax.evals.knn import votes
from byol_jax.experiment.build import Experiment, batch_shapes, build
from byol_jax.experiment.evaluation import EvalData, limited, open_eval_data
from byol_jax.experiment.frozen import candidates
from byol_jax.experiment.views import build_views
from byol_jax.run_folder import RunEncoder, read_run, same_precision
from byol_jax.views.device import augment, crop_batch, uniforms

CROPPED = 64  # images of which two crops are compared


class Crops(NamedTuple):
    """Two random crops of images, before and after the colours of the recipe were changed.

    images: [N, H, W, C]. plain, changed: [N, 2, S, S, C]. All in 0..1.
    """

    images: np.ndarray
    plain: np.ndarray
    changed: np.ndarray


class Embeddings(NamedTuple):
    """The embeddings of some test images [M], and what kNN makes of them.

    h: features [M, D]. z: projections [M, D']; None for a method without a projector, or with
    `why_no_z`. labels, predicted: [M] int32. names: of the classes. top1, untrained_top1: percent,
    by kNN on `train_images` training images. step: of the checkpoint.
    """

    h: np.ndarray
    z: np.ndarray | None
    why_no_z: str
    labels: np.ndarray
    predicted: np.ndarray
    names: tuple[str, ...]
    top1: float
    untrained_top1: float
    train_images: int
    step: int
    crops: Crops


def embeddings(workdir: Path, images: int) -> Embeddings:
    """Compute the embeddings of a run's newest checkpoint on the data it was trained on.

    Args:
      workdir: folder of the run.
      images: at most so many training and so many test images are read.

    Raises:
      ValueError: there is no checkpoint, the data cannot be opened, or have no labels.
      TrainingError: more images than `data.max_damaged` cannot be read.
    """
    with same_precision():
        run = read_run(workdir)
        config = resolve(run.config)
        run = run._replace(config=config)
        data = open_eval_data(run)
        train, test = limited(data.train, images), limited(data.test, images)
        # The counts of damaged images are by part: `test` is the test images from here on.
        few = dataclasses.replace(data, test=test)
        found: dict[str, Any] = {}
        for prefix, start in candidates(run).items():
            a, b = (few.features(run.encoder, start, s) for s in (train, test))
            found[prefix] = b, _scores(config, a, b, data.train.classes)
        own, scores = found[""]
        z, why = _projections(workdir, run, few)
        return Embeddings(
            h=own.outputs["h"],
            z=z,
            why_no_z=why,
            labels=own.labels,
            predicted=scores.argmax(1).astype(np.int32),
            names=_names(data.train),
            top1=topk_accuracy(scores, own.labels)["top1"],
            untrained_top1=topk_accuracy(found["untrained_"][1], own.labels)["top1"],
            train_images=train.num_examples,
            step=run.info.step or 0,
            crops=_crops(config, few),
        )


def _scores(config: ConfigDict, train: Extracted, test: Extracted, classes: int) -> np.ndarray:
    return votes(
        train.outputs["h"],
        train.labels,
        test.outputs["h"],
        classes=classes,
        k=config.eval.knn_k,
        temperature=config.eval.knn_temperature,
    )


def _names(source: Source) -> tuple[str, ...]:
    return source.class_names or tuple(str(i) for i in range(source.classes))


def _projections(workdir: Path, run: RunEncoder, data: EvalData) -> tuple[np.ndarray | None, str]:
    """z of the test images, from the whole method; or None, and why not."""
    try:
        config = run.config.copy_and_resolve_references()
        config.mesh.fsdp = 1
        # Nothing is trained: resident data are not decoded.
        e = build(config, resumed=True, decode=lambda source, *_: source)
        saved = Checkpoints(workdir)
        step, _ = saved.newest_good()
        if step is None:
            raise ValueError("there is no good checkpoint")
        weights = _weights(e, saved, step)
        saved.close()

        @jax.jit
        def outputs(weights: Any, images: jax.Array) -> dict[str, jax.Array]:
            params, extra = weights
            found = e.method.features(params, extra, images)
            return {"z": found["z"]} if "z" in found else {}

        got = extract(outputs, weights, data.crops(data.test), data.mesh)
    except Exception as error:  # h is worth showing without z
        log.say(f"WARNING: no projections: {error}")
        return None, f"The projections could not be computed: {error}"
    if "z" not in got.outputs:
        return None, f"{run.info.method} has no projector."
    return got.outputs["z"], ""


def _weights(e: Experiment, saved: Checkpoints, step: int) -> tuple[Any, Any]:
    """(params, extra) of the method, whose parts without arrays are in no checkpoint."""
    params, extra = jax.eval_shape(e.method.init, jax.random.key(0), batch_shapes(e))
    like = {"params": params, "extra": extra}
    arrays = {f"{part}/{k}": v for part in like for k, v in saved.arrays(step, f"{part}/").items()}

    def found(path: Any, _: Any) -> np.ndarray:
        return arrays[jax.tree_util.keystr(path, simple=True, separator="/")]

    tree = jax.tree_util.tree_map_with_path(found, like)
    return tree["params"], tree["extra"]


def _crops(config: ConfigDict, data: EvalData) -> Crops:
    """Two crops of the evaluation's squares of some test images, made as view 1 is."""
    recipe, _ = build_views(config, data.train.channels)
    spec = next(iter(recipe.values()))[0]
    square = dataclasses.replace(
        data.spec, size=data.spec.resize, mean=(0.0,) * len(spec.mean), std=(1.0,) * len(spec.mean)
    )
    shown = dataclasses.replace(data, spec=square)
    first = next(iter(shown.crops(limited(data.test, CROPPED))))
    images = np.asarray(first["views"])[np.asarray(first["mask"]) > 0, 0][:CROPPED]
    pixels = jnp.asarray(np.round(images * 255).astype(np.uint8))
    u = uniforms(jax.random.key(config.seed), len(images), 2)

    @jax.jit
    def view(u_NU: jax.Array) -> tuple[jax.Array, jax.Array]:
        crop = crop_batch(pixels, spec, u_NU)
        return crop, augment(crop, spec, u_NU)

    plain, changed = (np.stack(x, 1) for x in zip(*(view(u[:, v]) for v in range(2)), strict=True))
    return Crops(images, plain, np.clip(changed * spec.std + spec.mean, 0, 1))
