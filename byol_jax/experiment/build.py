"""Build all objects of a training run from a config."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from byol_jax import log, mesh
from byol_jax.config import group_of, resolve
from byol_jax.config_table import KEYS
from byol_jax.convert.info import EncoderInfo
from byol_jax.convert.load import read_encoder
from byol_jax.core import Batch, Encoder, Method, starting_from
from byol_jax.data.labels import named_in
from byol_jax.data.opening import open_source
from byol_jax.data.pipeline import decode_all, steps_per_epoch, train_batches
from byol_jax.data.rows import why_damaged
from byol_jax.data.source import Clip, Source
from byol_jax.experiment.methods import Facts, Parts, build_encoder, build_method
from byol_jax.experiment.optimizers import build_optimizer
from byol_jax.experiment.views import build_views, check_takes
from byol_jax.loop import Damage, Options
from byol_jax.models.patches import sincos
from byol_jax.models.vit import SIZES, resized
from byol_jax.optim import Optimizer
from byol_jax.views.lab import denormalised
from byol_jax.views.spec import EvalSpec, Recipe


class Experiment(NamedTuple):
    """Everything that a training run is made of.

    config: resolved. recipe: of the training views. encoder: as configured, on its own. info:
    describes it for exports.
    """

    config: ConfigDict
    source: Source
    recipe: Recipe
    eval_spec: EvalSpec
    encoder: Encoder
    method: Method
    optimizer: Optimizer
    mesh: Mesh
    facts: Facts
    info: EncoderInfo

    @property
    def dtype(self) -> Any:
        """The dtype of the encoder's input views."""
        return jnp.float64 if self.config.encoder.dtype == "float64" else jnp.float32


def clip_of(config: ConfigDict) -> Clip | None:
    """What is read of each clip; None if the data are images."""
    data = config.data
    clip = Clip(max(1, data.frames), data.stride, data.sound, data.rate)
    return clip if data.name == "clips" else None


def open_data(config: ConfigDict, split: str, channels: int = 3) -> Source:
    """Open a part of the data that a config names, and say what was noticed.

    Args:
      config: resolved.
      split: "train" or "test".
      channels: to which encoded images are decoded, 1 or 3; of other encoders, 3.
    """
    data = config.data
    options = {
        "channels": channels if channels == 1 else 3,
        "seed": config.seed,
        "bits": data.bits,
        "orient": data.orient,
        "clip": clip_of(config),
    }
    source = open_source(data.name, data.dir, split, **options)
    if split == "train" and data.ids_file:
        source = named_in(source, data.ids_file)
    for note in source.notes:
        log.say(f"data: {note}")
    return source


def decoded(source: Source, side: int, devices: Mesh, antialias: bool) -> Source:
    """The data set in memory, decoded to squares of `side` px if it is not yet decoded.

    Raises:
      ValueError: it would not fit on the devices.
    """
    shape = (side, side, source.channels) if source.images is None else source.images.shape[1:]
    size = source.num_examples * math.prod(shape)
    mesh.check_fits(size, f"{source.name} ({source.num_examples:,} images of {shape})", devices)
    return decode_all(source, side, antialias)


def build(
    config: ConfigDict,
    source: Source | None = None,
    devices: Sequence[Any] | None = None,
    *,
    resumed: bool = False,
    decode: Callable[[Source, int, Mesh, bool], Source] = decoded,
) -> Experiment:
    """Open the data and make every object of a training run; nothing is compiled.

    Args:
      config: complete.
      source: the data, if not those named by the config.
      devices: where to run; by default, all devices of the process group.
      resumed: the state will come from a checkpoint, so `init_from` is not read.
      decode: (source, side, mesh) -> the images in memory, for resident data.

    Raises:
      ValueError: anything about config or data that would fail later, with a clear message.
    """
    config = resolve(config)
    _check_start(config)
    if config.encoder.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    where = mesh.make_mesh(devices, config.mesh.fsdp)
    mesh.check_batch(config.batch_size // config.optimizer.accumulate, where)
    if source is None:
        source = open_data(config, "train")
    recipe, eval_spec = build_views(config, source.channels)
    if config.data.placement == "resident":
        side = config.data.resident_size or eval_spec.resize
        source = decode(source, side, where, eval_spec.antialias)
    seen = {"mean": eval_spec.mean, "std": eval_spec.std, "image_size": config.image_size}
    look = None if resumed else functools.partial(first_views, config, source, recipe)
    facts = _facts(config, source, recipe)._replace(**seen, views=look)
    encoder = build_encoder(config, source.channels)
    start = encoder
    if config.init_from and not resumed:
        start = _pretrained(encoder, config.init_from)
    parts = Parts(start, _gather(where), mesh.placement(where))
    method = build_method(config, parts, facts)
    sound = bool(source.clip and source.clip.sound)
    check_takes(config.method.name, method, config.views.recipe, recipe, sound)
    info = EncoderInfo(
        encoder=encoder.config,
        image_size=config.image_size,
        mean=eval_spec.mean,
        std=eval_spec.std,
        resize=eval_spec.resize,
        antialias=eval_spec.antialias,
        method=config.method.name,
        source=config.data.name,
    )
    optimizer = build_optimizer(config, facts)
    e = Experiment(
        config, source, recipe, eval_spec, encoder, method, optimizer, where, facts, info
    )
    batch_shapes(e)  # a task that does not fit the images is refused here
    return e


def _check_start(config: ConfigDict) -> None:
    """Refuse keys of clips for other data, and to freeze what nothing has trained."""
    data = config.data
    for name in () if data.name == "clips" else ("frames", "stride", "sound", "rate"):
        if data[name] != KEYS[f"data.{name}"].default:
            raise ValueError(
                f"data.{name} is {data[name]}, but data.name is {data.name!r}, which has no clips; "
                f"leave it at {KEYS[f'data.{name}'].default}, or set data.name=clips."
            )
    if data.name == "clips" and data.placement == "resident":
        raise ValueError(
            "data.placement is 'resident', but clips are read anew in every epoch; set it to "
            "stream."
        )
    if config.method.name == "supervised" and config.supervised.last >= 0 and not config.init_from:
        raise ValueError(
            f"supervised.last is {config.supervised.last}, but init_from is empty: the rest of the "
            "encoder would stay as it was drawn. Give the export to start from, or set "
            "supervised.last=-1."
        )


def first_views(
    config: ConfigDict, source: Source, recipe: Recipe, count: int
) -> Iterator[np.ndarray]:
    """The first views of a run, in 0..1, for methods that count something in the data.

    A function of the config and the data alone: the views that the host makes in the first epoch,
    in the order of a single process, without those of images that could not be read.
    """
    rows = min(config.batch_size, source.num_examples)
    found = train_batches(source, recipe, batch_size=rows, seed=config.seed)
    group = next(iter(recipe))
    spec = recipe[group][0]
    for batch in itertools.islice(found, max(1, min(count, source.num_examples) // rows)):
        views = batch[group][batch["mask"] > 0, 0]
        yield np.clip(denormalised(views, spec.mean, spec.std), 0, 1)


def _gather(where: Mesh) -> Callable[[Any], Any]:
    """The wrapper of encoders and heads; the identity if every device holds the whole state."""
    if where.shape["fsdp"] == 1:
        return lambda module: module
    return lambda module: mesh.gathered(module, where)


def _facts(config: ConfigDict, source: Source, recipe: Recipe) -> Facts:
    """The sizes of the data, of the run and of a batch.

    Raises:
      ValueError: the number of examples is not as declared, or the run is too long for int32.
    """
    declared = config.data.train_examples
    if declared and declared != source.num_examples:
        raise ValueError(
            f"data.train_examples is {declared}, but {source.name} has {source.num_examples} "
            "images; set it to 0 to use that number."
        )
    per_epoch = steps_per_epoch(source, config.batch_size, jax.process_count())
    total = per_epoch * config.epochs
    if total * config.batch_size >= 2**31:
        raise ValueError(
            f"{config.epochs} epochs of {source.num_examples} images are more than 2**31 examples; "
            "lower epochs."
        )
    rows = config.batch_size // config.optimizer.accumulate
    sizes = (source.num_examples, source.classes, total, per_epoch, rows)
    return Facts(*sizes, len(recipe.get("local", ())), clip=source.clip)


# Arguments of an encoder that say what its arrays mean.
_OF_ARRAYS = ("name", "width", "padding", "channels")
_OF_CONV = ("stem", "project_first", "sk_ratio", "stages")
_OF_VIT = ("patch", "dim", "depth", "heads", "class_token", "registers", "positions")


def _pretrained(encoder: Encoder, path: str) -> Encoder:
    """The encoder, starting from an export.

    Raises:
      ValueError: the export has another architecture.
    """
    given, params, stats, _ = read_encoder(path)
    transformer = encoder.config["name"] in SIZES
    if bool(given.config.get("lightness")) != bool(encoder.config.get("lightness")):
        sees = [
            "lightness" if c.get("lightness") else "colour" for c in (given.config, encoder.config)
        ]
        raise ValueError(
            f"init_from={path} has encoder.input {sees[0]!r}, the config {sees[1]!r}; make them "
            "equal."
        )
    for key in (*_OF_ARRAYS, *(_OF_VIT if transformer else _OF_CONV)):
        ours, theirs = encoder.config[key], given.config.get(key)
        # Fixed positions are trained on, as in MAE's fine-tuning.
        from_fixed = (key, theirs, ours) == ("positions", "sincos", "learned")
        if ours != theirs and not from_fixed:
            own = key in _OF_CONV or key in _OF_VIT
            group = group_of("encoder.name", encoder.config["name"]) if own else "encoder"
            raise ValueError(
                f"init_from={path} has {group}.{key} {theirs!r}, the config {ours!r}; make them "
                "equal."
            )
    if transformer:
        configs = given.config, encoder.config
        factors = [c["layer_scale"] for c in configs]
        if bool(factors[0]) != bool(factors[1]):
            raise ValueError(
                f"init_from={path} has vit.layer_scale {factors[0]}, the config {factors[1]}; both "
                "or neither must be 0.0."
            )
        if encoder.config["positions"] == "learned" and "pos_embed" not in params:
            side = given.config["image_size"] // given.config["patch"]
            params = {**params, "pos_embed": sincos(given.dim, (side, side))}
        params = resized(params, *(c["image_size"] // c["patch"] for c in configs))
    image = jax.ShapeDtypeStruct((1, 1, 64, 64, encoder.channels), np.float32)
    like = jax.eval_shape(encoder.init, jax.random.key(0), image)
    params, stats = jax.tree.map(lambda x, old: np.asarray(x, old.dtype), (params, stats), like)
    return starting_from(encoder, params, stats)


def view_shapes(e: Experiment) -> Batch:
    """Shapes of one global batch with its views, before a pretext task."""
    rows = e.config.batch_size
    shapes = {
        group: jax.ShapeDtypeStruct(
            (rows, len(views), views[0].size, views[0].size, e.source.channels), e.dtype
        )
        for group, views in e.recipe.items()
    }
    clip = e.source.clip
    if clip is not None and clip.sound:
        shapes["sound"] = jax.ShapeDtypeStruct((rows, clip.samples), jnp.float32)
    return {
        **shapes,
        "index": jax.ShapeDtypeStruct((rows,), jnp.int32),
        "label": jax.ShapeDtypeStruct((rows,), jnp.int32),
        "mask": jax.ShapeDtypeStruct((rows,), jnp.float32),
    }


def batch_shapes(e: Experiment) -> Batch:
    """Shapes of one global batch, as the method sees it."""
    shapes = view_shapes(e)
    if e.method.task is None:
        return shapes
    return jax.eval_shape(e.method.task, shapes, jax.eval_shape(lambda: jax.random.key(0)))


def build_damage(e: Experiment, seen: Any) -> Damage:
    """The counter of unreadable images, with an explanation for each."""

    def explain(index: int) -> str:
        return f"{e.source.describe(index)}: {why_damaged(e.source, index)}"

    return Damage(e.config.data.max_damaged * e.source.num_examples, explain, seen)


def build_options(e: Experiment, steps_per_dispatch: int) -> Options:
    """When the loop logs, saves and evaluates."""
    c = e.config
    # Without embeddings to watch.
    apart = e.method.task is not None or c.method.name in ("supervised", "distill", "mae")
    return Options(
        total_steps=e.facts.steps,
        batch_size=c.batch_size,
        log_every=c.log_every,
        checkpoint_every=c.checkpoint_every,
        evaluate_every=c.evaluate_every * e.facts.steps_per_epoch,
        collapse_threshold=0.0 if apart else c.collapse.threshold,
        collapse_stop=c.collapse.stop,
        steps_per_dispatch=steps_per_dispatch,
        what=f"the train step ({c.method.name}, {c.encoder.name}, batch {c.batch_size})",
    )
