"""What a view is, and what a view recipe is. No TensorFlow, no JAX.

A view is a pure function of an image and `UNIFORMS` numbers in [0, 1). The host (`host.py`) and the
device (`device.py`) draw those numbers with their own stateless generators and apply the same
mathematics, so that equal numbers give equal views.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Any

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
DIGITS_MEAN, DIGITS_STD = (0.305,), (0.376,)

# The random numbers that a view uses, by name: U["area"] is the index of the one that draws the
# area. New names go to the end.
DRAWS = (
    "area", "aspect", "top", "left", "flip", "jitter", "order", "brightness", "contrast",
    "saturation", "hue", "grey", "blur", "sigma", "solarize", "rotate", "shift_y", "shift_x",
    "op_1", "level_1", "sign_1", "op_2", "level_2", "sign_2",
    "erase", "erase_area", "erase_aspect", "erase_top", "erase_left", "noise",
)  # fmt: skip
U = {name: i for i, name in enumerate(DRAWS)}

UNIFORMS = 32
"""Random numbers per view. Some are unused: an augmentation added later uses one of those, so that
the numbers of the existing augmentations, and hence old runs, do not change. One that needs many
numbers makes them from a single draw, as the noise of random erasing is (`MIX`)."""
assert len(DRAWS) <= UNIFORMS

# Shifts and factors of the rounds of a hash h of 32-bit numbers, x = (x ^ x >> shift) * factor,
# ended by x ^ x >> 16. Noise is made of it: number i of a view is h(h(s) ^ h(i)), s being a draw's
# 24 bits; its upper 23 bits, plus 1/2, over 2^23, are uniform: the quantile of a normal number.
MIX = ((16, 0x7FEB352D), (15, 0x846CA68B))

# The 24 orders of the four jitter operations; a draw u selects ORDERS[floor(24 u)].
# 0 brightness, 1 contrast, 2 saturation, 3 hue.
ORDERS = tuple(
    (a, b, c, d)
    for a in range(4)
    for b in range(4)
    for c in range(4)
    for d in range(4)
    if len({a, b, c, d}) == 4
)

FRAMES = "frames"
"""The group of views that are the frames of one clip: alone in its recipe, with common draws."""

OF_COLOUR = ("saturation", "hue", "grey")
"""Fields of a view that images of one channel must leave at 0."""

GREY = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in the grey value."""


@dataclasses.dataclass(frozen=True)
class ViewSpec:
    """One view, in the order in which its operations are applied.

    Crop: area fraction U(area), aspect ratio r (width / height) log-uniform in `aspect`, drawn once
    (not repeated until it fits): sides rounded and clipped to the image, position uniform
    (top = floor(u (H - h + 1))); resized to `size` by bicubic interpolation (Keys, a = -0.5,
    half-pixel centres, no antialiasing, weights renormalised at the border of the window), clipped
    to [0, 1].
    With `rotate` or `shift` set (small scans), crop, rotation and shift are instead one affine
    resampling, bilinear, zero outside: the window has real sides h = min(H, sqrt(a H W / r)) and
    w = min(W, sqrt(a H W r)) at top = u (H - h), left = u (W - w); it is rotated by t about its
    centre and shifted by (d_y H, d_x W). Output pixel (i, j), with y = h ((i + 0.5) / size - 0.5)
    and x = w ((j + 0.5) / size - 0.5), reads the image at
        row    = top  + h / 2 + d_y H + sin(t) x + cos(t) y - 0.5
        column = left + w / 2 + d_x W + cos(t) x - sin(t) y - 0.5.
    Then flip (left to right), `rand_layers` operations of RandAugment (`randaugment.py`: 0 to 2),
    colour jitter (brightness, contrast, saturation and hue in random
    order, each clipped to [0, 1]), grey, blur, solarize (x < 0.5 ? x : 1 - x), and
    (x - mean) / std. Finally, with probability `erase`, a rectangle is replaced by normal noise:
    of the share U(erase_area) of the image and an aspect ratio (height / width) log-uniform in
    `erase_aspect`, its sides rounded and at most one pixel shorter than the image's, its position
    uniform. A draw u from a range is low + (high - low) u, from a half width s it is
    s (2 u - 1), and for a probability p it is "u < p".

    size: side in px. area, aspect, sigma (px): (low, high). flip, jitter, grey, blur, solarize:
    probabilities. brightness, contrast, saturation, hue: strengths, half widths of uniform draws:
    brightness is added, or multiplied as 1 +- b with `brightness_scales`; contrast scales 1 +- c
    about the mean of each channel; saturation (times 1 +- s) and hue (plus h turns) act in HSV.
    kernel: taps of the blur, odd; zeros beyond the border, as in the originals.
    rotate: half width in degrees. shift: half width as a fraction of the side.
    rand_level, rand_std: mean and standard deviation of the level of an operation of RandAugment,
    which is clipped to 0..10. rand_prob: probability of each; a draw u does operation
    floor(15 u / p), and none from 15 on.

    Reference: timm:data/transforms_factory.py (transforms_imagenet_train) for the order of
    RandAugment and erasing, data/random_erasing.py (mode "pixel"). NOTE: timm draws a rectangle
    that does not fit again, up to ten times; here its side is cut, which happens to 1 in 200.
    """

    size: int
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.4
    brightness_scales: bool = False
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    grey: float = 0.2
    blur: float = 0.0
    sigma: tuple[float, float] = (0.1, 2.0)
    kernel: int = 23
    solarize: float = 0.0
    rotate: float = 0.0
    shift: float = 0.0
    rand_layers: int = 0
    rand_level: float = 9.0
    rand_std: float = 0.5
    rand_prob: float = 0.5
    erase: float = 0.0
    erase_area: tuple[float, float] = (0.02, 1 / 3)
    erase_aspect: tuple[float, float] = (0.3, 1 / 0.3)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        _check_common(self)
        for name in ("area", "aspect", "sigma", "erase_area", "erase_aspect"):
            pair = getattr(self, name)
            if len(pair) != 2 or not 0 < pair[0] <= pair[1]:
                _refuse(self, name, "(low, high) with 0 < low <= high")
        for name in ("area", "erase_area"):
            if getattr(self, name)[1] > 1:
                _refuse(self, name, "fractions of the image, at most 1.0")
        if self.rand_layers not in (0, 1, 2):
            _refuse(self, "rand_layers", "0, 1 or 2 operations")
        if not 0 < self.rand_prob <= 1:
            _refuse(self, "rand_prob", "a probability above 0.0, to 1.0; for none, rand_layers 0")
        for name in ("flip", "jitter", "grey", "blur", "solarize", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                _refuse(self, name, "a probability, 0.0 to 1.0")
        for name, most in _MOST.items():
            if not 0 <= getattr(self, name) <= most:
                _refuse(self, name, f"a half width, 0.0 to {most}")
        if self.kernel < 1 or self.kernel % 2 == 0:
            _refuse(self, "kernel", "an odd number of taps")
        for name in OF_COLOUR:
            if self.channels == 1 and getattr(self, name):
                _refuse(self, name, "0.0 for images of one channel")

    @property
    def affine(self) -> bool:
        """Whether crop, rotation and shift are one affine resampling."""
        return bool(self.rotate or self.shift)

    @property
    def channels(self) -> int:
        """Image channels, 1 or 3."""
        return len(self.mean)


# Fields of a view that other config keys set.
_OTHER_KEYS = {
    "size": "image_size (the local views of multi_crop: multi_crop.small)",
    "mean": "views.mean",
    "std": "views.std",
}

OVERRIDES: dict[str, Any] = {
    f.name: f.default for f in dataclasses.fields(ViewSpec) if f.name not in _OTHER_KEYS
}
"""What `views.overrides` may set, field: default. The default's type is that of the values."""


def check_override(name: str) -> None:
    """Refuse a name that `views.overrides` cannot set.

    Raises:
      ValueError: another key sets it, or no view has such a field; names the right one.
    """
    key = f"views.overrides.{name[:80]}"
    if name in _OTHER_KEYS:
        raise ValueError(f"{key} cannot be set: it is set by {_OTHER_KEYS[name]}.")
    if name not in OVERRIDES:
        close = difflib.get_close_matches(name, OVERRIDES, 1, 0.5)
        fields = f"a view has the fields {', '.join(OVERRIDES)}"
        hint = f"did you mean views.overrides.{close[0]}?" if close else f"{fields}."
        raise ValueError(f"Unknown config key {key}: {hint}")


def typed_override(name: str, value: Any) -> Any:
    """A value of an override in the type of its field: lists as tuples, whole numbers as floats.

    Args:
      name: a field of `OVERRIDES`.
      value: from a config.

    Raises:
      ValueError: there is no such field, or the value is of another type.
    """
    check_override(name)
    default = OVERRIDES[name]

    def is_number(x: Any) -> bool:
        return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)

    if isinstance(default, tuple):
        if isinstance(value, tuple | list) and len(value) == 2 and all(map(is_number, value)):
            return tuple(map(float, value))
        expected = "two numbers, (low, high)"
    elif isinstance(default, float):
        if is_number(value):
            return float(value)
        expected = "a number"
    else:
        if type(value) is type(default):
            return value
        expected = "true or false" if isinstance(default, bool) else "a whole number"
    shown = repr(value)[:80]
    raise ValueError(f"views.overrides.{name} is {shown}; expected {expected}, e.g. {default}.")


def check_overrides(given: Mapping[str, Any]) -> None:
    """Refuse overrides that no view can have, before anything is opened.

    Args:
      given: field of `OVERRIDES` -> value.

    Raises:
      ValueError: there is no such field, or its value is of another type or not allowed.
    """
    for name, value in given.items():
        typed = typed_override(name, value)
        try:
            ViewSpec(1, **{name: typed})
        except ValueError as e:
            raise ValueError(str(e).replace("ViewSpec.", "views.overrides.", 1)) from e


@dataclasses.dataclass(frozen=True)
class EvalSpec:
    """The view that an encoder is evaluated on: the centre of the image.

    With `antialias`, the pixels of torchvision's Resize and CenterCrop of a Pillow image: the
    shorter side is resized to `resize` px and the longer one in proportion (rounded down), bicubic
    (Keys, a = -0.5), the filter stretched by what the image shrinks by, columns before rows and
    rounded to bytes in between; then the central square of `size` px, margins rounded to even.
    Without, the central square of round(shorter side * size / resize) px, at floor((side - square)
    / 2) along both sides, is resized to `size` as a crop of `ViewSpec` is: the same to within a
    pixel, but fine detail is aliased. Then (x - mean) / std. An image that already has the right
    size keeps its pixels.

    Reference: torchvision:transforms.Resize(antialias=True), CenterCrop; without antialiasing,
    google-deepmind/deepmind-research:byol/utils/dataset.py (_decode_and_center_crop).
    """

    size: int
    resize: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    antialias: bool = False

    def __post_init__(self) -> None:
        _check_common(self)
        if self.resize < self.size:
            _refuse(self, "resize", f"at least size ({self.size})")

    @property
    def channels(self) -> int:
        """Image channels, 1 or 3."""
        return len(self.mean)


# Above these a factor would become negative, or the hue would exceed a full turn.
_MOST = {
    "brightness": 1.0,
    "contrast": 1.0,
    "saturation": 1.0,
    "hue": 0.5,
    "rotate": 180.0,
    "shift": 1.0,
    "rand_level": 10.0,
    "rand_std": 10.0,
}


def _refuse(spec: ViewSpec | EvalSpec, name: str, expected: str) -> None:
    value = getattr(spec, name)
    raise ValueError(f"{type(spec).__name__}.{name} is {value!r}; expected {expected}.")


def _check_common(spec: ViewSpec | EvalSpec) -> None:
    if spec.size < 1:
        _refuse(spec, "size", "a side of at least 1 px")
    if len(spec.mean) not in (1, 3):
        _refuse(spec, "mean", "one value per channel, for 1 or 3 channels")
    if len(spec.std) != len(spec.mean) or min(spec.std) <= 0:
        _refuse(spec, "std", f"{len(spec.mean)} values above 0, as many as mean has")


Recipe = Mapping[str, tuple[ViewSpec, ...]]
"""Groups of views by name. Each group becomes one array of the batch under that name, so all views
of a group have one size. "views" comes first; multi-crop adds "local"."""

# Other keys of a batch.
_RESERVED = (
    "image",
    "images",
    "row",
    "index",
    "label",
    "mask",
    "target",
    "count",
    "ok",
    "u",
    "sound",
)


def check_recipe(recipe: Recipe) -> None:
    """Refuse a recipe that cannot become a batch.

    Raises:
      ValueError: there is no group "views" or it is not first (but for "frames" alone), a group is
        empty or has several sizes or the name of another entry of a batch, or the views differ in
        channels.
    """
    names = ", ".join(repr(name) for name in recipe) or "none"
    if next(iter(recipe), None) != "views" and set(recipe) != {FRAMES}:
        raise ValueError(
            f"The recipe has the view groups {names}; expected 'views' first, or {FRAMES!r} alone."
        )
    for name, specs in recipe.items():
        if name in _RESERVED:
            raise ValueError(
                f"A view group is named {name!r}, like another entry of a batch; rename it."
            )
        if not specs or len({spec.size for spec in specs}) != 1:
            sizes = ", ".join(str(spec.size) for spec in specs) or "none"
            raise ValueError(
                f"The views of group {name!r} have the sizes {sizes}; expected one or more views "
                "of one size. Views of another size form a group of their own."
            )
    if len({spec.channels for specs in recipe.values() for spec in specs}) != 1:
        raise ValueError("The views have 1 and 3 channels; expected the same number in all.")


def draws_of(recipe: Recipe) -> tuple[int, ...]:
    """For each view of a recipe, counted over all groups, whose draws it uses.

    Its own; but the frames of a clip are cropped and changed alike, with the draws of the first.
    """
    own = range(total_views(recipe))
    return tuple(0 if FRAMES in recipe else i for i in own)


def group_slices(recipe: Recipe) -> dict[str, slice]:
    """Which views, counted over all groups in the recipe's order, belong to each group.

    Random numbers are drawn for all views of a recipe at once, [..., total views, UNIFORMS], and
    each group uses its slice of them.
    """
    slices, start = {}, 0
    for name, specs in recipe.items():
        slices[name] = slice(start, start + len(specs))
        start += len(specs)
    return slices


def total_views(recipe: Recipe) -> int:
    """Number of views over all groups."""
    return sum(len(specs) for specs in recipe.values())
