"""From a config to the objects of a training run. Names become functions through plain dicts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from byol_jax import mesh, models, optim
from byol_jax.config import nearest
from byol_jax.convert.load import read_encoder
from byol_jax.convert.native import EncoderInfo
from byol_jax.core import Batch, Encoder, Method, TrainState, Tree
from byol_jax.data.pipeline import decode_all, steps_per_epoch, why_damaged
from byol_jax.data.source import Source, open_source
from byol_jax.loop import Damage, Options
from byol_jax.methods.byol import byol
from byol_jax.methods.probe import with_probe
from byol_jax.methods.simclr import simclr
from byol_jax.methods.supervised import supervised
from byol_jax.models import heads
from byol_jax.optim import Optimizer
from byol_jax.train_step import gathered
from byol_jax.views import spec as views

STATISTICS = {
    "digits": (views.DIGITS_MEAN, views.DIGITS_STD),
    "cifar10": (views.CIFAR_MEAN, views.CIFAR_STD),
    "cifar100": (views.CIFAR_MEAN, views.CIFAR_STD),
}


class Experiment(NamedTuple):
    """All a training run is made of. `info` describes the encoder for exports."""

    config: ConfigDict
    source: Source
    views: tuple[views.ViewSpec, ...]
    eval_spec: views.EvalSpec
    encoder: Encoder
    method: Method
    optimizer: Optimizer
    mesh: Mesh
    total_steps: int
    steps_per_epoch: int
    info: EncoderInfo


def _pick(what: str, name: str, table: dict[str, Any]) -> Any:
    if name not in table:
        raise ValueError(
            f"{what} is {name!r}; expected one of {', '.join(table)}. {nearest(name, table)}"
        )
    return table[name]


def normalisation(config: ConfigDict, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std a channel: the config's, else the recipe's or the data set's."""
    if config.views.mean or config.views.std:
        return tuple(config.views.mean), tuple(config.views.std)
    if config.views.recipe == "simclr":
        return (0.0,) * channels, (1.0,) * channels
    mean, std = STATISTICS.get(config.data.name, (views.IMAGENET_MEAN, views.IMAGENET_STD))
    if len(mean) == channels:
        return mean, std
    return (float(np.mean(mean)),) * channels, (float(np.mean(std)),) * channels


def build_views(
    config: ConfigDict, channels: int
) -> tuple[tuple[views.ViewSpec, ...], views.EvalSpec]:
    """The training views and the evaluation's centre crop."""
    size = config.image_size
    mean, std = normalisation(config, channels)
    recipe = _pick("views.recipe", config.views.recipe, views.RECIPES)
    fields = {f.name for f in dataclasses.fields(views.ViewSpec)}
    overrides = config.views.overrides.to_dict()
    for key in overrides:
        if key not in fields:
            raise ValueError(f"Unknown config key views.overrides.{key}: {nearest(key, fields)}")
    # Small images are not cropped in evaluation: a border of 2 px of 32 may hold the object.
    resize = config.eval.resize or (size if size < 64 else round(size * 8 / 7))
    return recipe(size, mean=mean, std=std, **overrides), views.EvalSpec(size, resize, mean, std)


def build_encoder_of(config: ConfigDict, channels: int) -> Encoder:
    """The encoder that a config names."""
    return models.make_encoder(**config.encoder.to_dict(), channels=channels)


def _dtypes(config: ConfigDict) -> dict[str, Any]:
    dtype = models.DTYPES[config.encoder.dtype]
    return {"dtype": dtype, "param_dtype": jnp.float64 if dtype == jnp.float64 else jnp.float32}


def _byol(config: ConfigDict, encoder: Encoder, classes: int, steps: int) -> Method:
    m = config.method
    head = heads.mlp((m.hidden, m.out), **_dtypes(config))
    tau = None
    if m.target:
        schedules = {
            "cosine": lambda: optim.cosine_tau(m.tau, steps),
            "constant": lambda: optim.constant(m.tau),
        }
        tau = _pick("method.tau_schedule", m.tau_schedule, schedules)()
        if not 0 <= m.tau <= 1:
            raise ValueError(f"method.tau is {m.tau}; expected a decay from 0 to 1.")
    wrap = _statistics(config)
    predictor = wrap[1](head) if m.predictor else None
    return byol(
        wrap[0](encoder),
        wrap[1](head),
        predictor,
        tau=tau,
        beta=m.beta,
        temperature=m.temperature,
        stop_gradient=m.stop_gradient,
    )


def _simclr(config: ConfigDict, encoder: Encoder, classes: int, steps: int) -> Method:
    m = config.method
    hidden = _pick("method.head", m.head, {"v1": 1, "v2": 2})
    widths = (m.hidden,) * hidden + (m.out,)
    head = heads.mlp(widths, hidden_bias=False, norm_last=True, **_dtypes(config))
    wrap = _statistics(config)
    return simclr(wrap[0](encoder), wrap[1](head), temperature=m.temperature)


def _supervised(config: ConfigDict, encoder: Encoder, classes: int, steps: int) -> Method:
    if not classes:
        raise ValueError("method.name is 'supervised', but the data have no labels.")
    return supervised(encoder, classes)


def _statistics(config: ConfigDict) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Wrappers of encoder and head for what batch-norm statistics are taken over."""
    table = {
        "per_view": (lambda e: e, lambda h: h),
        "joint": (models.joint, heads.joint),
    }
    return _pick("method.bn", config.method.bn, table)


METHODS: dict[str, Callable[[ConfigDict, Encoder, int, int], Method]] = {
    "byol": _byol,
    "simclr": _simclr,
    "supervised": _supervised,
}


def build_method(config: ConfigDict, encoder: Encoder, classes: int, steps: int) -> Method:
    """The method that a config names, with its probe where there are labels."""
    make = _pick("method.name", config.method.name, METHODS)
    method = make(config, encoder, classes, steps)
    if config.method.probe and classes and config.method.name != "supervised":
        method = with_probe(method, classes, encoder.dim)
    return method


def build_optimizer(config: ConfigDict, steps: int, steps_per_epoch: int) -> Optimizer:
    """The optimizer that a config names, with its schedule."""
    o = config.optimizer
    base = optim.scale_learning_rate(o.lr, config.batch_size, o.lr_scaling)
    lr = optim.warmup_cosine(base, round(o.warmup_epochs * steps_per_epoch), steps)
    decay = o.weight_decay
    table: dict[str, Callable[[], Optimizer]] = {
        "lars": lambda: optim.lars(
            lr,
            weight_decay=decay,
            momentum=o.momentum,
            eta=o.eta,
            nesterov=o.nesterov,
            lr_inside=o.lr_inside,
        ),
        "sgd": lambda: optim.sgd(lr, weight_decay=decay, momentum=o.momentum, nesterov=o.nesterov),
        "adamw": lambda: optim.adamw(lr, weight_decay=decay, b1=o.momentum),
    }
    return _pick("optimizer.name", o.name, table)()


def check_values(config: ConfigDict) -> None:
    """Refuse numbers out of range before anything is opened or compiled.

    Raises:
      ValueError: names the key, its value and what was expected.
    """
    positive = ("batch_size", "epochs", "image_size", "log_every", "keep")
    for key in positive:
        if config[key] < 1:
            raise ValueError(f"{key} is {config[key]}; expected at least 1.")
    if config.optimizer.accumulate < 1 or config.batch_size % config.optimizer.accumulate:
        raise ValueError(
            f"batch_size {config.batch_size} cannot be divided into optimizer.accumulate "
            f"{config.optimizer.accumulate} micro-batches."
        )
    for key, value, allowed in (
        ("views.placement", config.views.placement, ("host", "device")),
        ("data.placement", config.data.placement, ("stream", "resident")),
    ):
        if value not in allowed:
            raise ValueError(f"{key} is {value!r}; expected {allowed[0]!r} or {allowed[1]!r}.")
    if config.data.placement == "resident" and config.views.placement != "device":
        raise ValueError(
            "data.placement is 'resident', but views.placement is 'host'; images that lie on the "
            "device are augmented there: set views.placement to device."
        )
    for key in ("steps_per_dispatch", "resident_size", "threads"):
        if config.data[key] < 0:
            raise ValueError(f"data.{key} is {config.data[key]}; expected 0 (automatic) or more.")
    if not 0 <= config.data.max_damaged <= 1:
        raise ValueError(f"data.max_damaged is {config.data.max_damaged}; expected 0 to 1.")
    for key in ("hang_seconds", "rollbacks"):
        if config[key] < 0:
            raise ValueError(f"{key} is {config[key]}; expected 0 (never) or more.")
    if config.method.temperature <= 0:
        raise ValueError(f"method.temperature is {config.method.temperature}; expected above 0.")


def decoded(source: Source, side: int, devices: Mesh) -> Source:
    """The data set in memory, decoded to squares of `side` px where it is not yet.

    Raises:
      ValueError: it would not fit on the devices.
    """
    shape = (side, side, source.channels) if source.images is None else source.images.shape[1:]
    size = source.num_examples * math.prod(shape)
    mesh.check_fits(size, f"{source.name} ({source.num_examples:,} images of {shape})", devices)
    return decode_all(source, side)


def build(
    config: ConfigDict, source: Source | None = None, devices: Sequence[Any] | None = None
) -> Experiment:
    """Open the data and make every object of a training run; nothing is compiled.

    Args:
      config: complete.
      source: the data, where they are not those that the config names.
      devices: where to run; all of the process group's by default.

    Raises:
      ValueError: anything about config or data that would fail later, said clearly.
    """
    check_values(config)
    if config.encoder.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    where = mesh.make_mesh(devices, config.mesh.fsdp)
    mesh.check_batch(config.batch_size // config.optimizer.accumulate, where)
    if source is None:
        source = open_source(config.data.name, config.data.dir, "train", seed=config.seed)
    specs, eval_spec = build_views(config, source.channels)
    if config.data.placement == "resident":
        source = decoded(source, config.data.resident_size or eval_spec.resize, where)
    declared = config.data.train_examples
    if declared and declared != source.num_examples:
        raise ValueError(
            f"data.train_examples is {declared}, but {source.name} has {source.num_examples} "
            "images; set it to 0 to ask the data."
        )
    per_epoch = steps_per_epoch(source, config.batch_size, jax.process_count())
    total = per_epoch * config.epochs
    if total * config.batch_size >= 2**31:
        raise ValueError(
            f"{config.epochs} epochs of {source.num_examples} images are more than 2**31 examples; "
            "lower epochs."
        )
    encoder = build_encoder_of(config, source.channels)
    method = build_method(config, encoder, source.classes, total)
    if config.mesh.fsdp > 1:
        method = gathered(method, where)
    info = EncoderInfo(
        encoder=encoder.config,
        image_size=config.image_size,
        mean=eval_spec.mean,
        std=eval_spec.std,
        resize=eval_spec.resize,
        method=config.method.name,
        source=config.data.name,
    )
    return Experiment(
        config=config,
        source=source,
        views=specs,
        eval_spec=eval_spec,
        encoder=encoder,
        method=method,
        optimizer=build_optimizer(config, total, per_epoch),
        mesh=where,
        total_steps=total,
        steps_per_epoch=per_epoch,
        info=info,
    )


def batch_shapes(e: Experiment) -> Batch:
    """Shapes of one global batch, as the method sees it."""
    size = e.config.image_size
    dtype = jnp.float64 if e.config.encoder.dtype == "float64" else jnp.float32
    b = e.config.batch_size
    shape = (b, len(e.views), size, size, e.source.channels)
    return {
        "views": jax.ShapeDtypeStruct(shape, dtype),
        "index": jax.ShapeDtypeStruct((b,), jnp.int32),
        "label": jax.ShapeDtypeStruct((b,), jnp.int32),
        "mask": jax.ShapeDtypeStruct((b,), jnp.float32),
    }


def start_from(e: Experiment, state: TrainState) -> TrainState:
    """The state with the encoder of the export that `init_from` names.

    Raises:
      ValueError: the export is of another architecture.
    """
    given, params, stats, _ = read_encoder(e.config.init_from)
    for key in ("name", "width", "stem", "padding", "project_first", "channels"):
        ours, theirs = e.encoder.config[key], given.config[key]
        if ours != theirs:
            raise ValueError(
                f"init_from={e.config.init_from} has encoder.{key} {theirs!r}, the config "
                f"{ours!r}; make them equal."
            )

    def put(new: Any, old: Any) -> Any:
        return mesh.lay(np.asarray(new, old.dtype), old.sharding)

    new_params = _replace(state.params, ("encoder",), params, put)
    path = ("stats",) if e.config.method.name == "supervised" else ("stats", "encoder")
    extra = _replace(state.extra, path, stats, put)
    if "target" in extra:
        extra = _replace(extra, ("target", "params", "encoder"), params, put)
        extra = _replace(extra, ("target", "stats", "encoder"), stats, put)
    return dataclasses.replace(state, params=new_params, extra=extra)


def _replace(
    tree: Tree, path: tuple[str, ...], value: Tree, put: Callable[[Any, Any], Any]
) -> Tree:
    if not path:
        return jax.tree.map(put, value, tree)
    return {**tree, path[0]: _replace(tree[path[0]], path[1:], value, put)}


def build_damage(e: Experiment, seen: Any) -> Damage:
    """The count of unreadable images, with what to say of each."""

    def explain(index: int) -> str:
        return f"{e.source.describe(index)}: {why_damaged(e.source, index)}"

    return Damage(e.config.data.max_damaged * e.source.num_examples, explain, seen)


def steps_per_dispatch(e: Experiment) -> int:
    """Steps that one call of the device may take; 0: one, of a batch from the host."""
    if e.config.data.placement != "resident":
        return 0
    # A CPU's steps are long: one at a time, so that a signal to stop is heeded soon.
    automatic = 1 if e.mesh.devices.flat[0].platform == "cpu" else 50
    return e.config.data.steps_per_dispatch or automatic


def build_options(e: Experiment) -> Options:
    """When the loop logs, saves and evaluates."""
    c = e.config
    return Options(
        total_steps=e.total_steps,
        batch_size=c.batch_size,
        log_every=c.log_every,
        checkpoint_every=c.checkpoint_every,
        evaluate_every=c.evaluate_every * e.steps_per_epoch,
        collapse_threshold=0.0 if c.method.name == "supervised" else c.collapse.threshold,
        collapse_stop=c.collapse.stop,
        steps_per_dispatch=steps_per_dispatch(e),
        what=f"the train step ({c.method.name}, {c.encoder.name}, batch {c.batch_size})",
    )
