"""The protocols that ask for an answer at every pixel: segmentation and depth."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from byol_jax import log, mesh
from byol_jax.core import starting_from
from byol_jax.data.crops import Crops, crop_batches, whole_batches
from byol_jax.data.pairs import VOID, Pairs, depths, masks, open_pairs
from byol_jax.data.source import Decoding, counted, shown
from byol_jax.evals import depth, segmentation
from byol_jax.evals.dense import (
    DensePart,
    DenseParts,
    DensePlan,
    DenseTask,
    judge_dense,
)
from byol_jax.experiment.frozen import UNTRAINED, candidates
from byol_jax.faults import Damage
from byol_jax.losses import pixel_cross_entropy, reverse_huber
from byol_jax.models import DTYPES, output_strides, with_output_stride
from byol_jax.models.dense_head import dense_head
from byol_jax.models.vit import SIZES
from byol_jax.run_folder import RunEncoder
from byol_jax.untrusted import read_bytes

USUAL_STRIDE = 16  # px, of the papers' segmentation


@dataclasses.dataclass(frozen=True)
class DenseData:
    """Images with their maps, and the devices.

    train: all that may be learned from. sweep, validation: two parts to choose the learning rate
    by. test: judged once. damage: what could not be read. stride: px per position of the
    encoder's last map.
    """

    train: Pairs
    sweep: Pairs
    validation: Pairs
    test: Pairs
    damage: tuple[Damage, ...]
    crops: Crops
    stride: int
    mesh: Mesh


def open_dense_data(run: RunEncoder, protocol: str) -> DenseData:
    """Open the images and maps that an encoder is judged on.

    Raises:
      ValueError: they cannot be opened, or the encoder cannot take them.
      TrainingError: more than `data.max_damaged` of them cannot be read.
    """
    c, info = run.config, run.info
    if c.data.name != "folder":
        raise ValueError(
            f"data.name is {c.data.name!r}; {protocol} reads folders of images and maps: set "
            "--config.data.name=folder and --config.data.dir (docs/evaluation.md)."
        )
    stride = _stride(run)
    kind = masks(tuple(c.eval.void)) if protocol == "segment" else depths(c.eval.depth_unit)
    how = Decoding(run.encoder.channels, c.data.bits, False)
    crops = Crops(
        c.eval.dense_crop, _scales(c.eval.dense_scales), c.eval.dense_flip, info.mean, info.std
    )
    opened = functools.partial(open_pairs, c.data.dir, how=how, kind=kind, side=c.eval.dense_side)
    train, test = opened("train"), opened("test")
    held = opened("val", needed=False)
    assert train is not None
    assert test is not None
    damage = tuple(_damage(p, c.data.max_damaged) for p in (train, held, test) if p is not None)
    sweep = train
    if held is None and len(c.eval.dense_lrs) > 1:
        sweep, held = _held_out(train, c.eval.validation, c.seed)
    held = train if held is None else held  # not read with one learning rate
    _say_copies(train, test)
    parts = (train, sweep, held, test)
    return DenseData(*parts, damage, crops, stride, mesh.make_mesh())


def _stride(run: RunEncoder) -> int:
    """The encoder's output stride.

    Raises:
      ValueError: it cannot have the one that is asked for, or crops do not fit its patches.
    """
    asked, possible = run.config.eval.output_stride, output_strides(run.encoder)
    stride = asked or (USUAL_STRIDE if USUAL_STRIDE in possible else possible[-1])
    with_output_stride(run.encoder, stride)
    crop = run.config.eval.dense_crop
    if run.encoder.config["name"] in SIZES and crop % stride:
        raise ValueError(
            f"eval.dense_crop is {crop}; a transformer with patches of {stride} px takes a "
            f"multiple of that: {crop // stride * stride or stride}."
        )
    return stride


def _scales(scales: Any) -> tuple[float, float]:
    if len(scales) != 2 or scales[0] > scales[1]:
        raise ValueError(
            f"eval.dense_scales is {tuple(scales)}; expected two numbers, the smallest and the "
            "largest factor on the sides of an image."
        )
    return float(scales[0]), float(scales[1])


def _damage(pairs: Pairs, share: float) -> Damage:
    bad = pairs.damaged
    limit = share * (pairs.num_examples + len(bad))
    names = (f"{shown(name)}: {why}" for name, why in bad)
    named = dict(enumerate(names))
    damage = Damage(limit, lambda i: named[i], fate="left out")
    damage.add(np.arange(len(bad)))
    return damage


def _held_out(pairs: Pairs, share: float, seed: int) -> tuple[Pairs, Pairs]:
    count = pairs.num_examples
    held = round(share * count)
    if not 0 < held < count:
        raise ValueError(
            f"eval.validation {share} of the {counted(count, 'image')} of {pairs.name} leaves a "
            "part empty; add a val/ folder, or give one number in eval.dense_lrs."
        )
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(count)
    return pairs.take(np.sort(order[held:])), pairs.take(np.sort(order[:held]))


def _say_copies(train: Pairs, test: Pairs) -> None:
    same = sorted(
        name
        for name, digest in zip(test.files, test.digests, strict=True)
        if digest in set(train.digests)
    )
    if same:
        log.say(
            f"WARNING: {counted(len(same), 'test image')} of {test.name} are training images too, "
            f"the first of them {shown(same[0])}"
        )


def _part(data: DenseData, pairs: Pairs) -> DensePart:
    return DensePart(
        pairs.num_examples,
        lambda batch_size, seed: crop_batches(pairs, data.crops, batch_size, seed),
        lambda batch_size: whole_batches(pairs, data.crops, batch_size, data.stride),
    )


def _judged(run: RunEncoder, data: DenseData, task: DenseTask) -> dict[str, dict[str, Any]]:
    """Figures by what was judged: an untrained encoder, the encoder."""
    c = run.config.eval
    plan = DensePlan(
        tuple(c.dense_lrs),
        c.dense_steps,
        c.dense_batch,
        c.dense_decay,
        c.dense_encoder == "frozen",
        run.config.seed,
    )
    encoder = with_output_stride(run.encoder, data.stride)
    parts = DenseParts(
        *(_part(data, p) for p in (data.train, data.sweep, data.validation, data.test))
    )
    found = {}
    names = {"": run.info.method, "untrained_": UNTRAINED}
    for prefix, start in reversed(candidates(run).items()):
        log.say(f"{names[prefix]}, {c.dense_encoder}:")
        given = starting_from(encoder, *start)
        found[names[prefix]] = judge_dense(given, parts, task, plan, data.mesh)
    return found


def _head(run: RunEncoder, outputs: int, bias: float = 0.0) -> Any:
    c, dtype = run.config.eval, run.encoder.config["dtype"]
    options = {"dtype": DTYPES[dtype], "param_dtype": DTYPES[dtype]}
    if dtype == "bfloat16":
        options["param_dtype"] = DTYPES["float32"]
    return dense_head(outputs, width=c.dense_width, taps=c.dense_taps, bias=bias, **options)


def _common(run: RunEncoder, data: DenseData, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "encoder": run.config.eval.dense_encoder,
        "output_stride": data.stride,
        "train_images": data.train.num_examples,
        "test_images": data.test.num_examples,
        "lr": {name: figures["lr"] for name, figures in found.items()},
        "validation": {name: figures["validation"] for name, figures in found.items()},
    }


# Segmentation.


def run_segment(run: RunEncoder, data: DenseData) -> dict[str, Any]:
    """Mean intersection over union of a dense head on the encoder and on an untrained one."""
    classes, counts = _classes(data)

    def judge(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
        total = np.zeros((classes, classes), np.int64)
        for found, truth in pairs:
            total += segmentation.confusion(found, truth, classes)
        return segmentation.scores(total) | {"confusion": total}

    task = DenseTask(
        _head(run, classes),
        pixel_cross_entropy,
        lambda y: y.argmax(-1).astype(jnp.uint8),
        judge,
        "miou",
        True,
    )
    usual = int(counts.argmax())
    truths = (np.where(t == VOID, -1, t.astype(np.int32)) for t in data.test.targets)
    prior = judge((np.full(t.shape, usual), t) for t in truths)
    found = _judged(run, data, task)
    names = _names(run.config.data.dir, classes)
    rows = {f"always {names[usual]}": prior} | found
    shown_in = ("miou", "pixels", "classes")
    by_class = {
        row: _by_name(names, segmentation.intersection_over_union(figures["confusion"]))
        for row, figures in rows.items()
    }
    return _common(run, data, found) | {
        "miou": found[run.info.method]["miou"],
        "untrained_miou": found[UNTRAINED]["miou"],
        "rows": {row: {k: figures[k] for k in shown_in} for row, figures in rows.items()},
        "iou": by_class,
        "confusion": {row: figures["confusion"].tolist() for row, figures in found.items()},
    }


def _by_name(names: list[str], iou: np.ndarray) -> dict[str, float | None]:
    return {n: None if np.isnan(v) else 100 * float(v) for n, v in zip(names, iou, strict=True)}


def _classes(data: DenseData) -> tuple[int, np.ndarray]:
    """The number of classes of the training masks, and how many pixels each has.

    Raises:
      ValueError: there is only one, or another part has more.
    """
    counts = np.zeros(VOID, np.int64)
    for target in data.train.targets:
        counts += np.bincount(target.ravel(), minlength=VOID + 1)[:VOID]
    classes = int(np.flatnonzero(counts).max(initial=0)) + 1
    if classes < 2:
        raise ValueError(
            f"The masks of {data.train.name} have one class; expected two or more, numbered from "
            "0, beside eval.void."
        )
    for pairs in (data.validation, data.test):
        for name, target in zip(pairs.files, pairs.targets, strict=True):
            most = int(np.where(target == VOID, 0, target).max(initial=0))
            if most >= classes:
                raise ValueError(
                    f"The mask of {shown(name)} of {pairs.name} has the class {most}, but the "
                    f"training masks have 0 to {classes - 1}; name it in eval.void if it does not "
                    "count."
                )
    return classes, counts[:classes]


def _names(root: str, classes: int) -> list[str]:
    """Of classes.txt in the folder of the data, one per line; their numbers without it."""
    path = Path(root).expanduser() / "classes.txt"
    if not path.is_file():
        return [str(i) for i in range(classes)]
    lines = read_bytes(path, 2**20).decode("utf-8", "replace").splitlines()
    names = [shown(line.strip()) for line in lines if line.strip()]
    if len(names) < classes or len(set(names[:classes])) < classes:
        raise ValueError(
            f"{shown(path)} names {counted(len(set(names)), 'class', 'classes')}, and the masks "
            f"have {classes}; expected a line for each, all different."
        )
    return names[:classes]


# Depth.


def run_depth(run: RunEncoder, data: DenseData) -> dict[str, Any]:
    """Errors of the depths of a dense head on the encoder and on an untrained one."""
    known = np.concatenate([t[t > 0] for t in data.train.targets])
    if not len(known):
        raise ValueError(f"No depth of {data.train.name} is known: all are 0.")
    typical = float(np.median(known))

    def judge(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
        per_pixel, per_image = depth.scores(np.array([depth.sums(*pair) for pair in pairs]))
        return per_pixel | {"per_image": per_image}

    def objective(y_BHWE: jax.Array, depth_BHW: jax.Array, mask_B: jax.Array) -> jax.Array:
        return reverse_huber(y_BHWE[..., 0], depth_BHW, mask_B)

    task = DenseTask(_head(run, 1, typical), objective, lambda y: y[..., 0], judge, "rms", False)
    prior = judge((np.full(t.shape, typical), t) for t in data.test.targets)
    found = _judged(run, data, task)
    rows = {f"always {typical:.2f} m": prior} | found
    shown_in = ("delta1", "delta2", "delta3", "rms", "rel")
    return _common(run, data, found) | {
        "delta1": found[run.info.method]["delta1"],
        "untrained_delta1": found[UNTRAINED]["delta1"],
        "averages": "rows: over all pixels; per_image: means of the images' own figures",
        "rows": {row: {k: figures[k] for k in shown_in} for row, figures in rows.items()},
        "per_image": {row: figures["per_image"] for row, figures in rows.items()},
    }


DENSE: dict[str, Callable[[RunEncoder, DenseData], dict[str, Any]]] = {
    "segment": run_segment,
    "depth": run_depth,
}
