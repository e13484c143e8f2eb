"""What a view is: one frozen dataclass a view, recipes as tuples of them. No TensorFlow, no JAX.

A view is a pure function of an image and `UNIFORMS` numbers in [0, 1). The host (`host.py`) and the
device (`device.py`) draw those numbers with their own stateless generators and apply the same
mathematics, so that equal numbers give equal views.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable
from typing import Any

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
DIGITS_MEAN, DIGITS_STD = (0.305,), (0.376,)

# The numbers a view consumes, by name: U["area"] is the column of the vector that draws the area.
DRAWS = (
    "area", "aspect", "top", "left", "flip", "jitter", "order", "brightness", "contrast",
    "saturation", "hue", "grey", "blur", "sigma", "solarize", "rotate", "shift_y", "shift_x",
)  # fmt: skip
U = {name: i for i, name in enumerate(DRAWS)}
UNIFORMS = len(DRAWS)

# The 24 orders of the four jitter operations; a draw u takes ORDERS[floor(24 u)].
# 0 brightness, 1 contrast, 2 saturation, 3 hue.
ORDERS = tuple(
    (a, b, c, d)
    for a in range(4)
    for b in range(4)
    for c in range(4)
    for d in range(4)
    if len({a, b, c, d}) == 4
)

GREY = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in grey."""


@dataclasses.dataclass(frozen=True)
class ViewSpec:
    """One view, in the order in which its operations are applied.

    Crop: area fraction U(area), aspect ratio r (width / height) log-uniform in `aspect`, one shot:
    sides rounded, clipped to the image, place uniform (top = floor(u (H - h + 1))); resized to
    `size` by bicubic interpolation (Keys, a = -0.5, half-pixel centres, no antialiasing, weights
    renormalised at the border of the window), clipped to [0, 1].
    With `rotate` or `shift` set (small scans), crop, rotation and shift are instead one affine
    resampling, bilinear, zero outside: the window has real sides h = min(H, sqrt(a H W / r)) and
    w = min(W, sqrt(a H W r)) at top = u (H - h), left = u (W - w); it is turned by t about its
    centre and moved by (d_y H, d_x W). Output pixel (i, j), with y = h ((i + 0.5) / size - 0.5)
    and x = w ((j + 0.5) / size - 0.5), reads the image at
        row    = top  + h / 2 + d_y H + sin(t) x + cos(t) y - 0.5
        column = left + w / 2 + d_x W + cos(t) x - sin(t) y - 0.5.
    Then flip (left to right), colour jitter (brightness, contrast, saturation and hue in random
    order, each clipped to [0, 1]), grey, blur, solarize (x < 0.5 ? x : 1 - x), and last
    (x - mean) / std. A draw u of a range is low + (high - low) u, of a half width s is s (2 u - 1),
    of a probability p is "u < p".

    size: side in px. area, aspect, sigma (px): (low, high). flip, jitter, grey, blur, solarize:
    probabilities. brightness, contrast, saturation, hue: strengths, half widths of uniform draws:
    brightness is added, or multiplied as 1 +- b with `brightness_scales`; contrast scales 1 +- c
    about the mean of each channel; saturation (times 1 +- s) and hue (plus h turns) act in HSV.
    kernel: taps of the blur, odd; beyond the border it sees zeros, as the originals do.
    rotate: half width in degrees. shift: half width as a fraction of the side.
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
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        _check_common(self)
        for name in ("area", "aspect", "sigma"):
            pair = getattr(self, name)
            if len(pair) != 2 or not 0 < pair[0] <= pair[1]:
                _refuse(self, name, "(low, high) with 0 < low <= high")
        if self.area[1] > 1:
            _refuse(self, "area", "fractions of the image, at most 1.0")
        for name in ("flip", "jitter", "grey", "blur", "solarize"):
            if not 0 <= getattr(self, name) <= 1:
                _refuse(self, name, "a probability, 0.0 to 1.0")
        for name, most in _MOST.items():
            if not 0 <= getattr(self, name) <= most:
                _refuse(self, name, f"a half width, 0.0 to {most}")
        if self.kernel < 1 or self.kernel % 2 == 0:
            _refuse(self, "kernel", "an odd number of taps")
        for name in ("saturation", "hue", "grey"):
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


@dataclasses.dataclass(frozen=True)
class EvalSpec:
    """The view an encoder is judged on: the centre of the image.

    The central square of round(shorter side * size / resize) px, at floor((side - square) / 2) of
    either side, is resized to `size` as a crop of `ViewSpec` is, then (x - mean) / std. Pixels of
    an image that has the right size already are kept. It is the "resize, then centre crop" of the
    field to within a pixel, at the cost of one crop.

    Reference: google-deepmind/deepmind-research:byol/utils/dataset.py (_decode_and_center_crop).
    """

    size: int
    resize: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        _check_common(self)
        if self.resize < self.size:
            _refuse(self, "resize", f"at least size ({self.size})")

    @property
    def channels(self) -> int:
        """Image channels, 1 or 3."""
        return len(self.mean)


# Beyond these a factor would turn negative, or the hue would pass a full turn.
_MOST = {
    "brightness": 1.0,
    "contrast": 1.0,
    "saturation": 1.0,
    "hue": 0.5,
    "rotate": 180.0,
    "shift": 1.0,
}


def _refuse(spec: ViewSpec | EvalSpec, name: str, expected: str) -> None:
    value = getattr(spec, name)
    raise ValueError(f"{type(spec).__name__}.{name} is {value!r}; expected {expected}.")


def _check_common(spec: ViewSpec | EvalSpec) -> None:
    if spec.size < 1:
        _refuse(spec, "size", "a side of at least 1 px")
    if len(spec.mean) not in (1, 3):
        _refuse(spec, "mean", "one value a channel, for 1 or 3 channels")
    if len(spec.std) != len(spec.mean) or min(spec.std) <= 0:
        _refuse(spec, "std", f"{len(spec.mean)} values above 0, as many as mean has")


def _with(views: tuple[ViewSpec, ...], overrides: dict[str, Any]) -> tuple[ViewSpec, ...]:
    fields = [f.name for f in dataclasses.fields(ViewSpec)]
    for name in overrides:
        if name not in fields:
            close = difflib.get_close_matches(name, fields, 1, 0.5)
            hint = f"did you mean {close[0]}?" if close else "it has " + ", ".join(fields) + "."
            raise ValueError(f"A view has no field {name!r}: {hint}")
    values: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in overrides.items()
    }
    return tuple(dataclasses.replace(view, **values) for view in views)


def _taps(size: int) -> int:
    # A tenth of the side, odd: 23 at 224, as the originals.
    return max(3, 2 * math.ceil(size / 20) - 1)


def byol(
    size: int,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
    **overrides: Any,
) -> tuple[ViewSpec, ...]:
    """BYOL's two views: the first always blurred, the second rarely, but at times solarized.

    Args:
      size: side, px.
      mean: of each channel of images in 0..1.
      std: of each channel.
      **overrides: fields of `ViewSpec`, for both views.

    Returns:
      (first, second).

    Reference:
      Grill et al. 2020, appendix B, table 6.
    """
    first = ViewSpec(size, blur=1.0, kernel=_taps(size), mean=mean, std=std)
    second = dataclasses.replace(first, blur=0.1, solarize=0.2)
    return _with((first, second), overrides)


def simclr(
    size: int,
    mean: tuple[float, ...] = (0.0, 0.0, 0.0),
    std: tuple[float, ...] = (1.0, 1.0, 1.0),
    strength: float = 1.0,
    **overrides: Any,
) -> tuple[ViewSpec, ...]:
    """SimCLR's two views, alike: strong jitter, blur half the time, no normalisation.

    Args:
      size: side, px.
      mean: of each channel; the originals do not normalise.
      std: of each channel.
      strength: of the jitter; 1.0 for ImageNet, 0.5 for CIFAR-10.
      **overrides: fields of `ViewSpec`, for both views.

    Returns:
      Two equal views.

    Reference:
      Chen et al. 2020, appendix A; google-research/simclr:data_util.py.
    """
    s = strength
    view = ViewSpec(
        size,
        brightness=0.8 * s,
        brightness_scales=True,
        contrast=0.8 * s,
        saturation=0.8 * s,
        hue=0.2 * s,
        blur=0.5,
        kernel=_taps(size),
        mean=mean,
        std=std,
    )
    return _with((view, view), overrides)


def cifar(
    size: int = 32,
    mean: tuple[float, ...] = CIFAR_MEAN,
    std: tuple[float, ...] = CIFAR_STD,
    **overrides: Any,
) -> tuple[ViewSpec, ...]:
    """BYOL's views for CIFAR: no blur, the second solarized at times.

    Args:
      size: side, px.
      mean: of each channel of images in 0..1.
      std: of each channel.
      **overrides: fields of `ViewSpec`, for both views.

    Returns:
      (first, second).

    Reference:
      vturrisi/solo-learn:scripts/pretrain/cifar/augmentations/asymmetric.yaml.
    """
    first = ViewSpec(size, mean=mean, std=std)
    return _with((first, dataclasses.replace(first, solarize=0.2)), overrides)


def digits(
    size: int = 8,
    mean: tuple[float, ...] = DIGITS_MEAN,
    std: tuple[float, ...] = DIGITS_STD,
    **overrides: Any,
) -> tuple[ViewSpec, ...]:
    """Two views alike for small grey scans: crop, rotation, brightness and contrast; no flip.

    Args:
      size: side, px.
      mean: of the channel, of images in 0..1.
      std: of the channel.
      **overrides: fields of `ViewSpec`, for both views.

    Returns:
      Two equal views.
    """
    view = ViewSpec(
        size,
        area=(0.35, 1.0),
        flip=0.0,
        saturation=0.0,
        hue=0.0,
        grey=0.0,
        rotate=17.0,
        kernel=_taps(size),
        mean=mean,
        std=std,
    )
    return _with((view, view), overrides)


def crop_flip(
    size: int,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
    **overrides: Any,
) -> tuple[ViewSpec, ...]:
    """One view for supervised training: crop and flip, nothing else.

    Args:
      size: side, px.
      mean: of each channel of images in 0..1.
      std: of each channel.
      **overrides: fields of `ViewSpec`.

    Returns:
      One view.
    """
    view = ViewSpec(size, jitter=0.0, saturation=0.0, hue=0.0, grey=0.0, mean=mean, std=std)
    return _with((view,), overrides)


RECIPES: dict[str, Callable[..., tuple[ViewSpec, ...]]] = {
    "byol": byol,
    "simclr": simclr,
    "cifar": cifar,
    "digits": digits,
    "crop_flip": crop_flip,
}
