"""The description of an encoder in a file: rebuild it without the config, check its arrays."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from byol_jax.core import Encoder, Tree
from byol_jax.models import make_encoder, maker

USUAL_CROP = 0.875
"""Image size by shorter side where it is not known: ImageNet's custom, 224 of 256, timm's too."""
MAX_CHANNELS = 1024  # of images, so that a forged file cannot request all memory


@dataclasses.dataclass(frozen=True)
class EncoderInfo:
    """What is needed to rebuild an encoder and to feed it as in training.

    encoder: arguments of `models.make_encoder`. image_size: side of its training images, px. mean,
    std: per channel, for pixels in 0..1. resize: shorter side in px before the centre crop in
    evaluation; 0 if not known. step: optimizer steps trained. method: its name. source: name of the
    data it was trained on. antialias: whether evaluation resized with antialiasing, as timm's and
    torchvision's transforms do; false for exports of byol_jax 0.1.

    Raises:
      ValueError: a value is out of its range, or mean and std do not fit the channels.
    """

    encoder: dict[str, Any]
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int = 0
    step: int = 0
    method: str = ""
    source: str = ""
    antialias: bool = False

    def __post_init__(self) -> None:
        # JSON yields lists and NumPy its own numbers: both become plain tuples of floats.
        object.__setattr__(self, "mean", tuple(float(v) for v in self.mean))
        object.__setattr__(self, "std", tuple(float(v) for v in self.std))
        channels = self.encoder.get("channels", 3)
        if not len(self.mean) == len(self.std) == channels:
            raise ValueError(
                f"mean {self.mean} and std {self.std} do not fit an encoder of {channels} channels;"
                " give one number per channel."
            )
        if not all(math.isfinite(v) for v in self.mean):
            raise ValueError(f"mean is {self.mean}; expected finite numbers.")
        if not all(math.isfinite(v) and v > 0 for v in self.std):
            raise ValueError(f"std is {self.std}; expected finite numbers above 0.")
        if self.image_size < 1:
            raise ValueError(f"image_size is {self.image_size}; expected a side in px, at least 1.")
        if self.resize and self.resize < self.image_size:
            raise ValueError(
                f"resize is {self.resize}; expected 0 (not known) or at least image_size "
                f"{self.image_size}, which is cropped from it."
            )

    @property
    def shorter_side(self) -> int:
        """What the shorter side is resized to before the centre crop, px."""
        return self.resize or math.floor(self.image_size / USUAL_CROP)

    @property
    def transform(self) -> str:
        """From a Pillow image to what the encoder takes, in torchvision's words."""
        return (
            f"Resize({self.shorter_side}, BICUBIC, antialias=True), CenterCrop({self.image_size}), "
            f"ToTensor(), Normalize({list(self.mean)}, {list(self.std)})"
        )


def info_from_json(values: Any, where: str) -> EncoderInfo:
    """Turn a parsed JSON object into an `EncoderInfo`; the inverse of `dataclasses.asdict`.

    Args:
      values: what json.loads returned.
      where: the file it came from, for error messages.

    Raises:
      ValueError: it is not an object, a key is missing or unknown, or a value is out of range.
    """
    fields = {f.name: f for f in dataclasses.fields(EncoderInfo)}
    if not isinstance(values, dict) or not isinstance(values.get("encoder"), dict):
        raise ValueError(
            f"{where} does not describe an encoder: expected an object with `encoder`."
        )
    unknown = sorted(set(values) - set(fields))
    missing = sorted(
        n for n, f in fields.items() if f.default is dataclasses.MISSING and n not in values
    )
    if unknown or missing:
        raise ValueError(
            f"{where}: the description of the encoder has unknown keys {unknown}, missing keys "
            f"{missing}; it comes from another version of byol_jax."
        )
    for name, field in fields.items():
        kind = {"int": int, "str": str, "bool": bool}.get(str(field.type))
        if kind and type(values.get(name, kind())) is not kind:
            raise ValueError(
                f"{where}: {name} is {repr(values[name])[:80]}; expected {kind.__name__}."
            )
    try:
        return EncoderInfo(**values)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{where}: a value has the wrong type ({error}).") from error


def build_encoder(config: Mapping[str, Any], where: str = "encoder") -> Encoder:
    """`make_encoder(**config)`, with ValueErrors for unknown keys and wrong types.

    Args:
      config: arguments of `models.make_encoder`, from a file.
      where: the file they came from, for error messages.

    Raises:
      ValueError: a key is unknown, or a value has the wrong type or is out of range.
    """
    known = {
        **inspect.signature(maker(str(config.get("name", "")))).parameters,
        "lightness": inspect.signature(make_encoder).parameters["lightness"],
    }
    unknown = sorted(set(config) - set(known))
    if unknown:
        raise ValueError(
            f"{where}: unknown encoder keys {unknown}; this version of byol_jax knows "
            f"{', '.join(known)}. Load it with the version that wrote it."
        )
    for key, value in config.items():
        kind = str if key == "name" else type(known[key].default)
        allowed = {float: (int, float), tuple: (tuple, list)}.get(kind, (kind,))
        if type(value) not in allowed:
            raise ValueError(
                f"{where}: encoder.{key} is {repr(value)[:80]}; expected a {kind.__name__}."
            )
    if not 1 <= config.get("channels", 3) <= MAX_CHANNELS:
        raise ValueError(
            f"{where}: encoder.channels is {config['channels']}; expected 1 to {MAX_CHANNELS}."
        )
    if any(not isinstance(part, tuple | list) for part in config.get("lightness", ())) or any(
        type(v) not in (int, float) for part in config.get("lightness", ()) for v in part
    ):
        raise ValueError(
            f"{where}: encoder.lightness is {repr(config['lightness'])[:80]}; expected two lists "
            "of numbers."
        )
    return make_encoder(**config)


def check_arrays(encoder: Encoder, params: Tree, stats: Tree, where: str) -> None:
    """Refuse arrays that are not exactly the encoder's, by name, shape and type.

    Args:
      encoder: defines which arrays are expected (by `jax.eval_shape` of its init).
      params: nested dicts of arrays, host or device.
      stats: batch-norm statistics, likewise.
      where: what is being checked, for error messages.

    Raises:
      ValueError: lists up to 40 missing, extra, misshaped, non-float32 and non-finite arrays.
    """
    have = flatten({"params": params, "stats": stats})
    faults = misfits(encoder, have)
    for name, array in sorted(have.items()):
        if array.dtype == np.float32 and not np.isfinite(np.asarray(array)).all():
            faults.append(f"{name} has values that are not finite")
    refuse_misfits(encoder, faults, where)


def misfits(encoder: Encoder, have: Mapping[str, Any]) -> list[str]:
    """Differences in name, shape or type between an encoder's arrays and those of a flat dict."""
    want = flatten(dict(zip(("params", "stats"), expected_shapes(encoder), strict=True)))
    faults = [f"missing {name}" for name in sorted(want.keys() - have.keys())]
    faults += [f"extra {name}" for name in sorted(have.keys() - want.keys())]
    for name in sorted(want.keys() & have.keys()):
        array = have[name]
        if array.shape != want[name].shape:
            faults.append(f"{name} has shape {array.shape}, expected {want[name].shape}")
        elif array.dtype != np.float32:
            faults.append(f"{name} is {array.dtype}, expected float32")
    return faults


def expected_shapes(encoder: Encoder) -> tuple[Tree, Tree]:
    """Shapes and types of an encoder's parameters and statistics."""
    image = jax.ShapeDtypeStruct((1, 1, 64, 64, encoder.channels), jnp.float32)
    return jax.eval_shape(encoder.init, jax.random.key(0), image)


def refuse_misfits(encoder: Encoder, faults: list[str], where: str) -> None:
    """Raise a ValueError that lists up to 40 faults; do nothing if there are none."""
    if faults:
        shown = faults[:40] + ([f"and {len(faults) - 40} more"] if len(faults) > 40 else [])
        raise ValueError(
            f"{where} does not fit encoder {encoder.config['name']!r}: {'; '.join(shown)}."
        )


def flatten(tree: Tree) -> dict[str, Any]:
    """Nested dicts as {"a/b/c": array}."""
    return traverse_util.flatten_dict(tree, sep="/")
