"""Images corrupted as in ImageNet-C, Tiny-ImageNet-C and CIFAR-10-C.

NOTE: theirs are rounded to 8 bits afterwards, and those of the first two stored as JPEGs of quality
85; these are neither, so that nothing but the corruption is measured.

Reference: Hendrycks and Dietterich 2019; hendrycks/robustness:ImageNet-C/create_c
  (make_cifar_c.py, make_tinyimagenet_c.py, make_imagenet_c.py) for what they do and how much.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from byol_jax.data.order import generator
from byol_jax.views.spec import EvalSpec

SEVERITIES = 5
_NOISE = 2  # what the random numbers of an image are for; the attributes have 0 and 1

# side in px up to which they hold -> corruption -> its strength at severity 1 to 5.
STRENGTHS: dict[float, dict[str, tuple[float, ...]]] = {
    32: {
        "noise": (0.04, 0.06, 0.08, 0.09, 0.10),
        "blur": (0.4, 0.6, 0.7, 0.8, 1),
        "jpeg": (80, 65, 58, 50, 40),
        "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
        "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    },
    64: {
        "noise": (0.04, 0.08, 0.12, 0.15, 0.18),
        "blur": (0.5, 0.75, 1, 1.25, 1.5),
        "jpeg": (65, 58, 50, 40, 25),
        "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
        "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
    },
    np.inf: {
        "noise": (0.08, 0.12, 0.18, 0.26, 0.38),
        "blur": (1, 2, 3, 4, 6),
        "jpeg": (25, 18, 15, 10, 7),
        "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
        "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
    },
}


def strengths(side: int) -> dict[str, tuple[float, ...]]:
    """How much each corruption changes images of `side` px, at severity 1 to 5."""
    return next(found for most, found in STRENGTHS.items() if side <= most)


def _noise(image: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    """Gaussian noise of this standard deviation; the same draws at every severity."""
    return image + strength * random.standard_normal(image.shape, np.float32)


def _blur(image: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    """A Gaussian of this standard deviation in px, up to four of them; borders repeated."""
    del random
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(image, (strength, strength, 0), mode="nearest")


def _jpeg(image: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    """Written as a JPEG of this quality, colours at half the resolution, and read again."""
    del random
    from PIL import Image

    levels = np.round(255 * image).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels if levels.shape[2] == 3 else levels[..., 0]).save(
        file, "JPEG", quality=int(strength)
    )
    return np.asarray(Image.open(file), np.float32).reshape(image.shape) / 255


def _brightness(image: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    """V of HSV raised by this much: hue and saturation stay, so that all channels scale alike."""
    del random
    value = image.max(-1, keepdims=True)
    raised = np.minimum(value + strength, 1)
    return np.where(value > 0, image * (raised / np.where(value > 0, value, 1)), raised)


def _contrast(image: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    """The distance from each channel's mean times this factor."""
    del random
    mean = image.mean((0, 1), keepdims=True)
    return (image - mean) * strength + mean


CORRUPTIONS: dict[str, Callable[[np.ndarray, float, np.random.Generator], np.ndarray]] = {
    "noise": _noise,
    "blur": _blur,
    "jpeg": _jpeg,
    "brightness": _brightness,
    "contrast": _contrast,
}
"""(image [H, W, C] float32 in 0..1, strength, random numbers) -> the image, not clipped yet."""


def corrupted(
    batches: Iterable[Mapping[str, np.ndarray]], spec: EvalSpec, name: str, severity: int, seed: int
) -> Iterator[dict[str, np.ndarray]]:
    """Centre crops, corrupted.

    Args:
      batches: views [B, 1, H, W, C], normalised; index, mask.
      spec: what they are normalised with; its size decides the strength.
      name: one of `CORRUPTIONS`.
      severity: 1 to 5.
      seed: of the noise, which is a function of (seed, index).
    """
    mean, std = (np.asarray(x, np.float32) for x in (spec.mean, spec.std))
    change, strength = CORRUPTIONS[name], strengths(spec.size)[name][severity - 1]
    for batch in batches:
        views = np.array(batch["views"])
        for row in np.flatnonzero(np.asarray(batch["mask"]) > 0):
            random = generator(seed, 0, _NOISE, int(batch["index"][row]))
            image = np.clip(views[row, 0] * std + mean, 0, 1)
            views[row, 0] = (np.clip(change(image, strength, random), 0, 1) - mean) / std
        yield {**batch, "views": views}
