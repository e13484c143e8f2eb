"""What is known about common data sets without opening them."""

from __future__ import annotations

from typing import NamedTuple

from byol_jax.views import spec


class Split(NamedTuple):
    """One part of a data set: its name in tfds, and its number of examples."""

    name: str
    examples: int


class DataFacts(NamedTuple):
    """One data set.

    train, test: the parts to train and to evaluate on; `test` is one whose labels are public.
    classes: number of classes. channels: of the images.
    side: of the images, px, if all have one size (they are then held in memory as arrays); else 0.
    mean, std: per channel, of images in 0..1. metric: the one in which results are reported.
    """

    train: Split
    test: Split
    classes: int
    channels: int
    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    metric: str


FACTS = {
    "imagenet2012": DataFacts(
        train=Split("train", 1_281_167),
        test=Split("validation", 50_000),
        classes=1000,
        channels=3,
        side=0,
        mean=spec.IMAGENET_MEAN,
        std=spec.IMAGENET_STD,
        metric="top1",
    ),
    "imagenette": DataFacts(
        train=Split("train", 9_469),
        test=Split("validation", 3_925),
        classes=10,
        channels=3,
        side=0,
        mean=spec.IMAGENET_MEAN,
        std=spec.IMAGENET_STD,
        metric="top1",
    ),
    "cifar10": DataFacts(
        train=Split("train", 50_000),
        test=Split("test", 10_000),
        classes=10,
        channels=3,
        side=32,
        mean=spec.CIFAR_MEAN,
        std=spec.CIFAR_STD,
        metric="top1",
    ),
    "cifar100": DataFacts(
        train=Split("train", 50_000),
        test=Split("test", 10_000),
        classes=100,
        channels=3,
        side=32,
        # NOTE: those of CIFAR-10, which solo-learn uses for both.
        mean=spec.CIFAR_MEAN,
        std=spec.CIFAR_STD,
        metric="top1",
    ),
    # scikit-learn's scans; the split is this project's.
    "digits": DataFacts(
        train=Split("train", 1_297),
        test=Split("test", 500),
        classes=10,
        channels=1,
        side=8,
        mean=spec.DIGITS_MEAN,
        std=spec.DIGITS_STD,
        metric="top1",
    ),
}


def facts_of(name: str) -> DataFacts | None:
    """What is known about a data set, in any version and config; None if nothing is.

    Args:
      name: as in tfds: "cifar10", "cifar10:3.0.2", "imagenette/160px-v2".
    """
    return FACTS.get(name.split(":")[0].split("/")[0])
