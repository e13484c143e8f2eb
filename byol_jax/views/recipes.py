"""View recipes by name: the views that each paper trains on."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable
from typing import Any

from byol_jax.views.spec import (
    CIFAR_MEAN,
    CIFAR_STD,
    DIGITS_MEAN,
    DIGITS_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Recipe,
    ViewSpec,
)

Statistics = tuple[float, ...]  # one value per channel


def byol(
    size: int,
    /,
    mean: Statistics = IMAGENET_MEAN,
    std: Statistics = IMAGENET_STD,
    **overrides: Any,
) -> Recipe:
    """BYOL's two views: the first is always blurred, the second rarely, but sometimes solarized.

    Args:
      size: side, px.
      mean: of each channel, of images in 0..1.
      std: of each channel.
      **overrides: fields of `ViewSpec`, for both views.

    Returns:
      {"views": (first, second)}.

    Reference:
      Grill et al. 2020, appendix B, table 6.
    """
    first, second = {"blur": 1.0}, {"blur": 0.1, "solarize": 0.2}
    return {"views": _group((first, second), overrides, size, mean, std)}


def simclr(
    size: int,
    /,
    mean: Statistics = (0.0, 0.0, 0.0),
    std: Statistics = (1.0, 1.0, 1.0),
    strength: float = 1.0,
    **overrides: Any,
) -> Recipe:
    """SimCLR's two views, both drawn the same way: strong jitter, frequent blur, no normalisation.

    Args:
      size: side, px.
      mean: of each channel; the original does not normalise.
      std: of each channel.
      strength: of the jitter; 1.0 for ImageNet, 0.5 for CIFAR-10.
      **overrides: fields of `ViewSpec`, for both views.

    Returns:
      {"views": (view, view)}.

    Reference:
      Chen et al. 2020, appendix A; google-research/simclr:data_util.py.
    """
    view = {
        "brightness": 0.8 * strength,
        "brightness_scales": True,
        "contrast": 0.8 * strength,
        "saturation": 0.8 * strength,
        "hue": 0.2 * strength,
        "blur": 0.5,
    }
    return {"views": _group((view, view), overrides, size, mean, std)}


def cifar(
    size: int = 32,
    /,
    mean: Statistics = CIFAR_MEAN,
    std: Statistics = CIFAR_STD,
    **overrides: Any,
) -> Recipe:
    """BYOL's views for CIFAR: no blur, and the second is sometimes solarized.

    Args:
      size: side, px.
      mean: of each channel, of images in 0..1.
      std: of each channel.
      **overrides: fields of `ViewSpec`, for both views.

    Returns:
      {"views": (first, second)}.

    Reference:
      vturrisi/solo-learn:scripts/pretrain/cifar/augmentations/asymmetric.yaml.
    """
    return {"views": _group(({}, {"solarize": 0.2}), overrides, size, mean, std)}


def moco_v1(
    size: int,
    /,
    mean: Statistics = IMAGENET_MEAN,
    std: Statistics = IMAGENET_STD,
    **overrides: Any,
) -> Recipe:
    """MoCo v1's two views, those of instance discrimination: always jittered, strongly in hue.

    Args:
      size: side, px.
      mean: of each channel, of images in 0..1.
      std: of each channel.
      **overrides: fields of `ViewSpec`, for both views.

    Returns:
      {"views": (view, view)}.

    Reference:
      He et al. 2020, section 3.3; facebookresearch/moco:main_moco.py.
    """
    # NOTE: the original turns images grey before the jitter; here it comes after it, as everywhere.
    view = {"area": (0.2, 1.0), "jitter": 1.0, **_jitter(0.4, 0.4)}
    return {"views": _group((view, view), overrides, size, mean, std)}


def moco_v2(
    size: int,
    /,
    mean: Statistics = IMAGENET_MEAN,
    std: Statistics = IMAGENET_STD,
    **overrides: Any,
) -> Recipe:
    """MoCo v2's two views, SimSiam's too: milder jitter than SimCLR's, blurred half of the time.

    Args:
      size: side, px.
      mean: of each channel, of images in 0..1.
      std: of each channel.
      **overrides: fields of `ViewSpec`, for both views.

    Returns:
      {"views": (view, view)}.

    Reference:
      Chen et al. 2020 (MoCo v2), section 2; facebookresearch/moco:main_moco.py (--aug-plus).
    """
    view = {"area": (0.2, 1.0), "jitter": 0.8, **_jitter(0.4, 0.1), "blur": 0.5}
    return {"views": _group((view, view), overrides, size, mean, std)}


def digits(
    size: int = 8,
    /,
    mean: Statistics = DIGITS_MEAN,
    std: Statistics = DIGITS_STD,
    **overrides: Any,
) -> Recipe:
    """Two equal views for small grey scans: crop, rotation, brightness, contrast; no flip.

    Args:
      size: side, px.
      mean: of the channel, of images in 0..1.
      std: of the channel.
      **overrides: fields of `ViewSpec`, for both views.

    Returns:
      {"views": (view, view)}.
    """
    view = {
        "area": (0.35, 1.0),
        "flip": 0.0,
        "saturation": 0.0,
        "hue": 0.0,
        "grey": 0.0,
        "rotate": 17.0,
    }
    return {"views": _group((view, view), overrides, size, mean, std)}


def crop_flip(
    size: int,
    /,
    mean: Statistics = IMAGENET_MEAN,
    std: Statistics = IMAGENET_STD,
    **overrides: Any,
) -> Recipe:
    """One view for supervised training: crop and flip, nothing else.

    Args:
      size: side, px.
      mean: of each channel, of images in 0..1.
      std: of each channel.
      **overrides: fields of `ViewSpec`.

    Returns:
      {"views": (view,)}.
    """
    view = dict.fromkeys(("jitter", "saturation", "hue", "grey"), 0.0)
    return {"views": _group((view,), overrides, size, mean, std)}


def multi_crop(
    size: int,
    /,
    mean: Statistics = IMAGENET_MEAN,
    std: Statistics = IMAGENET_STD,
    small: int = 96,
    count: int = 6,
    colours: str = "byol",
    large_area: tuple[float, float] = (0.25, 1.0),
    small_area: tuple[float, float] = (0.05, 0.25),
    small_blur: float = 1.0,
    **overrides: Any,
) -> Recipe:
    """Two views of large parts of the image, plus small views of small parts.

    DINO's are BYOL's with other areas and a local blur of 0.5; SwAV's are SimCLR's, all alike.

    Args:
      size: side of the two large views, px.
      mean: of each channel, of images in 0..1.
      std: of each channel.
      small: side of the small views, px, below `size`.
      count: how many small views.
      colours: "byol" or "simclr": the recipe of the large views. The small ones have the colours of
        its first.
      large_area, small_area: (low, high), fractions of the image.
      small_blur: probability of a blur of the small views.
      **overrides: fields of `ViewSpec`, for every view of both groups.

    Returns:
      {"views": (first, second), "local": `count` equal views}.

    Raises:
      ValueError: the small views are not smaller, or there are none; or the colours are unknown.

    Reference:
      Caron et al. 2020 (SwAV), section 3.2; the default areas are those of Caron et al. 2021
      (DINO). facebookresearch/swav:src/multicropdataset.py; facebookresearch/dino:main_dino.py.
    """
    if not 0 < small < size:
        raise ValueError(f"small is {small} px; expected 1 to {size - 1}, below the size {size}.")
    if count < 1:
        raise ValueError(f"count is {count}; expected at least one small view.")
    if colours not in ("byol", "simclr"):
        raise ValueError(f"colours is {colours!r}; expected 'byol' or 'simclr'.")
    like = {"byol": byol, "simclr": simclr}[colours]
    near = {"area": small_area, "blur": small_blur, **overrides}
    local = like(small, mean, std, **near)["views"][:1]
    return {**like(size, mean, std, **{"area": large_area, **overrides}), "local": local * count}


def npid(
    size: int,
    /,
    mean: Statistics = IMAGENET_MEAN,
    std: Statistics = IMAGENET_STD,
    **overrides: Any,
) -> Recipe:
    """Instance discrimination's one view: crop from a fifth of the image, always strong jitter.

    Args:
      size: side, px.
      mean: of each channel, of images in 0..1.
      std: of each channel.
      **overrides: fields of `ViewSpec`; for CIFAR the authors set `flip` to 0.

    Returns:
      {"views": (view,)}.

    Reference:
      Wu et al. 2018; zhirongw/lemniscate.pytorch:cifar.py and main.py.
    """
    # NOTE: main.py turns images grey before the jitter; here it comes after it, as in cifar.py.
    colours = dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.4)
    view = {"area": (0.2, 1.0), "jitter": 1.0, **colours, "brightness_scales": True}
    return {"views": _group((view,), overrides, size, mean, std)}


def one_branch(recipe: Recipe) -> Recipe:
    """A recipe with the first view as it is, and the others the whole image.

    Args:
      recipe: of the one group "views", of two views or more. Of images that are not square "the
        whole" is a window with a square's shape and the image's area, cut off at the border.

    Raises:
      ValueError: it has one view, or other groups.

    Reference:
      Chen et al. 2020, section 3.1. NOTE: there both views start from one random crop, because
      the images are of different sizes.
    """
    views = recipe["views"]
    if len(recipe) > 1 or len(views) < 2:
        groups = " and ".join(f"{len(specs)} {name!r}" for name, specs in recipe.items())
        raise ValueError(
            f"views.one_branch is true, but the recipe has {groups}; expected two 'views' alone."
        )
    off: dict[str, Any] = dict.fromkeys(("flip", "jitter", "saturation", "hue", "grey"), 0.0)
    whole = {"area": (1.0, 1.0), "aspect": (1.0, 1.0), **off}
    first = views[0]
    plain = ViewSpec(first.size, mean=first.mean, std=first.std, **whole)
    return {"views": (first, *((plain,) * (len(views) - 1)))}


RECIPES: dict[str, Callable[..., Recipe]] = {
    "byol": byol,
    "simclr": simclr,
    "cifar": cifar,
    "digits": digits,
    "crop_flip": crop_flip,
    "multi_crop": multi_crop,
    "moco_v1": moco_v1,
    "moco_v2": moco_v2,
    "npid": npid,
}


def _jitter(strength: float, hue: float) -> dict[str, Any]:
    """torchvision's ColorJitter of one strength, which scales the brightness."""
    colours = dict.fromkeys(("brightness", "contrast", "saturation"), strength)
    return {**colours, "hue": hue, "brightness_scales": True}


def _group(
    views: tuple[dict[str, Any], ...],
    overrides: dict[str, Any],
    size: int,
    mean: Statistics,
    std: Statistics,
) -> tuple[ViewSpec, ...]:
    """Views of one size from the fields of each, with `overrides` applied to all of them."""
    fields = [f.name for f in dataclasses.fields(ViewSpec) if f.name != "size"]
    for name in overrides:
        if name == "size":
            raise ValueError(
                f"size is overridden with {overrides[name]!r}, which would give all view groups "
                "one size; set image_size instead."
            )
        if name not in fields:
            close = difflib.get_close_matches(name, fields, 1, 0.5)
            hint = f"did you mean {close[0]}?" if close else "it has " + ", ".join(fields) + "."
            raise ValueError(f"A view has no field {name!r}: {hint}")
    common = {"mean": mean, "std": std, "kernel": _blur_taps(size)}
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in overrides.items()}
    return tuple(ViewSpec(size, **{**common, **view, **given}) for view in views)


def _blur_taps(size: int) -> int:
    # A tenth of the side, odd: 23 at 224 px, as in the papers.
    return max(3, 2 * math.ceil(size / 20) - 1)
