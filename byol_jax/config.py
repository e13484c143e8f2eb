"""The configuration: every key with its default and unit, and the file it is kept in.

Values are never None and floats are written 1.0, so that every key can be overridden on the command
line. Only `build` reads values out of it.
"""

from __future__ import annotations

import difflib
import json
import math
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from byol_jax.untrusted import read_json

# Keys that may differ when a run is resumed: they change no number that is trained.
MAY_CHANGE = (
    "log_every",
    "checkpoint_every",
    "keep",
    "keep_every",
    "evaluate_every",
    "hang_seconds",
    "rollbacks",
    "data.dir",
    "data.max_damaged",
    "data.threads",
    "mesh.fsdp",
    "collapse.",
    "eval.",
)


def default_config() -> ConfigDict:
    """All keys with their defaults: BYOL on ImageNet with ResNet-50, 300 epochs."""
    c = ConfigDict()
    c.seed = 0
    c.batch_size = 4096  # global, over all devices and processes
    c.epochs = 300
    c.image_size = 224  # px
    c.init_from = ""  # folder of an exported encoder to start from
    c.log_every = 50  # steps
    c.checkpoint_every = 1000  # steps
    c.keep = 3  # newest checkpoints kept
    c.keep_every = 0  # steps; checkpoints at its multiples are kept for good; 0: none
    c.evaluate_every = 0  # epochs between kNN evaluations during training; 0: at the end only

    c.rollbacks = 0  # times to go back to the last checkpoint, and on without that stretch of the
    # data, where a step is not finite (or collapsed, with collapse.stop); 0: stop the run
    c.hang_seconds = 1800.0  # without a sign of life, until the process ends itself; 0.0: never

    c.data = ConfigDict()
    c.data.name = "imagenet2012"  # digits, folder, npz, or any tfds name
    c.data.dir = ""  # tfds data_dir, the folder of images, or the .npz file
    c.data.placement = "stream"  # stream; resident: decoded, in the devices' memory
    c.data.resident_size = 0  # px, side of squares that encoded images are decoded to; 0: eval's
    c.data.steps_per_dispatch = 0  # resident: steps a call of the device; 0: automatic
    c.data.max_damaged = 0.02  # of the data set; beyond it the run stops
    c.data.train_examples = 0  # 0: ask the data; any other number must be theirs
    c.data.threads = 0  # of the input pipeline; 0: automatic

    c.mesh = ConfigDict()
    c.mesh.fsdp = 1  # devices that share one copy of parameters, target and optimizer's state

    c.views = ConfigDict()
    c.views.recipe = "byol"  # byol, simclr, cifar, digits, crop_flip
    c.views.placement = "host"  # host (tf.data), device (in the train step)
    c.views.mean = ()  # per channel, of images in 0..1; (): those of the data set
    c.views.std = ()
    c.views.overrides = ConfigDict()  # fields of views.spec.ViewSpec, for every view

    c.encoder = ConfigDict()
    c.encoder.name = "resnet50"  # tiny, resnet18|34|50|101|152|200
    c.encoder.width = 1.0
    c.encoder.stem = "imagenet"  # imagenet, cifar
    c.encoder.padding = "torch"  # torch, same
    c.encoder.zero_init_last = False
    c.encoder.project_first = False
    c.encoder.drop_path = 0.0
    c.encoder.remat = False
    c.encoder.space_to_depth = False  # imagenet stem on blocks of 2x2 pixels: the same results
    c.encoder.dtype = "bfloat16"  # of the computation: bfloat16, float32, float64

    c.method = ConfigDict()
    c.method.name = "byol"  # byol, simclr, supervised
    c.method.hidden = 4096  # width of the hidden layers of projector and predictor
    c.method.out = 256  # width of the embedding
    c.method.predictor = True  # byol
    c.method.target = True  # byol: a target network
    c.method.tau = 0.99  # byol: of the target at step 0
    c.method.tau_schedule = "cosine"  # cosine (to 1 at the end), constant (1.0: a fixed target)
    c.method.beta = 0.0  # byol: weight of the negatives
    c.method.temperature = 0.1  # simclr; byol with beta > 0
    c.method.stop_gradient = True  # byol without a target network
    c.method.bn = "per_view"  # per_view, joint: what batch-norm statistics are taken over
    c.method.head = "v1"  # simclr: v1 (2 layers), v2 (3 layers)
    c.method.probe = True  # an online linear probe where there are labels

    c.optimizer = ConfigDict()
    c.optimizer.name = "lars"  # lars, sgd, adamw
    c.optimizer.lr = 0.3  # at batch 256
    c.optimizer.lr_scaling = "linear"  # linear (B / 256), sqrt (sqrt(B)), none
    c.optimizer.warmup_epochs = 10.0
    c.optimizer.weight_decay = 1e-6
    c.optimizer.momentum = 0.9  # lars, sgd; b1 of adamw
    c.optimizer.nesterov = False  # lars, sgd
    c.optimizer.eta = 1e-3  # lars
    c.optimizer.lr_inside = False  # lars: lr inside the momentum buffer (SimCLR)
    c.optimizer.accumulate = 1  # micro-batches a step

    c.collapse = ConfigDict()
    c.collapse.threshold = 0.1  # warn when features spread less than this share of 1/sqrt(d)
    c.collapse.stop = False  # stop then

    c.eval = ConfigDict()
    c.eval.batch_size = 256
    c.eval.resize = 0  # px of the shorter side before the centre crop; 0: 8/7 of image_size from 64
    c.eval.train_examples = 0  # at most so many training images for kNN and few-shot; 0: all
    c.eval.knn_k = 200  # neighbours; at most 2% of the training images (20 of a small set)
    c.eval.knn_temperature = 0.07
    c.eval.epochs = 80  # linear, finetune
    # linear: swept, at batch 1024. The papers' five, and larger ones, which cost nothing more and
    # give small features (an untrained encoder's) their chance.
    c.eval.lrs = (100.0, 30.0, 10.0, 3.0, 1.0, 0.4, 0.3, 0.2, 0.1, 0.05)
    c.eval.finetune_lrs = (0.4, 0.1, 0.03)  # finetune: swept, at batch 1024
    c.eval.train_batch = 1024  # linear, finetune
    c.eval.validation = 0.1  # share of the training set on which the learning rate is picked
    c.eval.label_fraction = 0.1  # finetune: share of the labels used
    c.eval.shots = (1, 5, 10)  # fewshot: labels a class
    c.eval.draws = 10  # fewshot: random draws of the labelled images
    c.eval.fewshot_c = 100.0  # fewshot: inverse regularisation of the logistic regression
    return c


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """The config as {"group.key": value}, tuples as lists, in the order of its keys."""
    flat: dict[str, Any] = {}
    for key in sorted(config):
        value = config[key]
        if isinstance(value, ConfigDict | dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def nearest(key: str, keys: Any) -> str:
    """A hint that names the most similar of `keys`, or the keys there are."""
    # Compare whole keys first, then last parts: optimizer.leraning_rate, batchsize.
    close = difflib.get_close_matches(key, list(keys), 1, 0.5)
    if not close:
        tail = key.rsplit(".", 1)[-1]
        tails = {k.rsplit(".", 1)[-1]: k for k in keys}
        close = [tails[m] for m in difflib.get_close_matches(tail, list(tails), 1, 0.5)]
    return f"did you mean {close[0]}?" if close else "the keys are listed in byol_jax/config.py."


def check_keys(config: ConfigDict) -> None:
    """Refuse a config whose keys are not those of `default_config`.

    Raises:
      ValueError: a key is unknown (with the nearest right one) or missing.
    """
    known, given = set(flatten(default_config())), set(flatten(config))
    unknown = sorted(k for k in given - known if not k.startswith("views.overrides."))
    if unknown:
        raise ValueError(f"Unknown config key {unknown[0]}: {nearest(unknown[0], known)}")
    missing = sorted(known - given)
    if missing:
        raise ValueError(f"The config lacks the key {missing[0]}; start from default_config().")


def difference(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Lines "key: old -> new" for keys that differ and may not change on resume."""
    missing = object()
    lines = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key, missing), new.get(key, missing)
        fixed = not any(key == k or (k.endswith(".") and key.startswith(k)) for k in MAY_CHANGE)
        if before != after and fixed:
            shown = ["(none)" if v is missing else repr(v) for v in (before, after)]
            lines.append(f"  {key}: {shown[0]} -> {shown[1]}")
    return lines


def save_config(config: ConfigDict, path: Path) -> None:
    """Write the resolved config as JSON, whole or not at all.

    Raises:
      ValueError: a number is not finite: the file could not be read back.
    """
    for key, value in flatten(config).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{key} is {value}; expected a finite number.")
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n")
    temporary.replace(path)


def load_config(path: Path) -> ConfigDict:
    """Read a config back from JSON.

    Raises:
      ValueError: there is no such file, it is no JSON, or its keys are not ours.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist; expected the folder of a run made by train.")
    try:
        values = read_json(path)
    except (OSError, ValueError) as e:
        raise ValueError(f"{path} is no JSON ({e}); restore it or start a new run.") from e
    if not isinstance(values, dict):
        raise ValueError(
            f"{path} is no config but {type(values).__name__}; restore it or start a new run."
        )
    config = default_config()  # keys that are newer than the run keep their defaults
    known = flatten(config)
    for key, value in flatten(values).items():
        override = key.removeprefix("views.overrides.") if key not in known else ""
        if key not in known and (
            override == key or not override.isidentifier() or override[0] == "_"
        ):
            raise ValueError(
                f"{path}: {key[:80]} cannot be {repr(value)[:80]}; unknown config key {key[:80]}: "
                f"{nearest(key, known)}"
            )
        if not _fits(known.get(key), value):
            kind = type(known[key]).__name__ if key in known else "number, text or list of them"
            raise ValueError(f"{path}: {key} cannot be {repr(value)[:80]}; expected a {kind}.")
        try:
            _set(config, key, _tuples(value))
        except (TypeError, KeyError, ValueError, AttributeError) as e:
            raise ValueError(f"{path}: {key} cannot be {repr(value)[:80]} ({e}).") from e
    check_keys(config)
    return config


def _fits(default: Any, value: Any) -> bool:
    """Whether a value from JSON is of its default's kind; None: of any that an override may be."""
    if isinstance(value, list):
        return (default is None or isinstance(default, list)) and all(_fits(None, x) for x in value)
    if isinstance(value, str) and len(value) > 4096:  # no path is longer; errors show values
        return False
    if default is None:
        return type(value) in (bool, int, float, str)
    return type(value) in ((int, float) if isinstance(default, float) else (type(default),))


def _set(config: ConfigDict, key: str, value: Any) -> None:
    *groups, name = key.split(".")
    for group in groups:
        if group not in config:
            config[group] = ConfigDict()
        config = config[group]
    config[name] = value


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
