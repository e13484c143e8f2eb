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


class TransferSet(NamedTuple):
    """One of the twelve data sets that features are transferred to.

    title: in tables. tfds: its name and config there; "" if it has none at full size, or none that
    is read: images with several labels are read from a folder of VOC's form. train: images
    of the parts that are trained on, the validation part included. test: of the part that is judged
    on. classes: number of classes. metric: "top1", "per_class" (mean of the classes' accuracies) or
    "map11" (11-point mean average precision, of images with several labels). validation: the
    official part to choose the penalty by, "" if there is none. split: SHA-256 of its training and
    test images (`contents.look_at_split`), where the set could be had; "" elsewhere.
    """

    title: str
    tfds: str
    train: int
    test: int
    classes: int
    metric: str
    validation: str = ""
    split: str = ""


# Splits that could be had, and no others: they are computed, from public copies of the sets.
_CIFAR10 = "89a0f4898899c387957227f7c07649279d0a133e6d34a6cc1943895e96143931"
_FLOWERS = "6101c7b74667990d2c3a4c9889f3965d238d29bb94e258ac385ea0d30d229316"  # by setid.mat
# NOTE: not the papers' split, whose lists are not published: the train.txt (5,784) and test.txt
# (2,893) of MachineLearning2020/Homework2-Caltech101, without BACKGROUND_Google.
_CALTECH = "94e00d6d2e11a1973b588f3db10375236decf8dc154847820081e60050f62314"

# Kornblith et al. 2019, table 1.
TRANSFER = {
    "food101": TransferSet("Food-101", "food101", 75_750, 25_250, 101, "top1"),
    "cifar10": TransferSet("CIFAR-10", "cifar10", 50_000, 10_000, 10, "top1", split=_CIFAR10),
    "cifar100": TransferSet("CIFAR-100", "cifar100", 50_000, 10_000, 100, "top1"),
    "birdsnap": TransferSet("Birdsnap", "", 47_386, 2_443, 500, "top1"),
    "sun397": TransferSet("SUN397", "sun397/standard-part1-120k", 19_850, 19_850, 397, "top1"),
    "cars196": TransferSet("Cars", "cars196", 8_144, 8_041, 196, "top1"),
    "aircraft": TransferSet("Aircraft", "", 6_667, 3_333, 100, "per_class", "val"),
    "voc2007": TransferSet("VOC2007", "", 5_011, 4_952, 20, "map11", "validation"),
    "dtd": TransferSet("DTD", "dtd", 3_760, 1_880, 47, "top1", "validation"),
    "pets": TransferSet("Pets", "oxford_iiit_pet", 3_680, 3_669, 37, "per_class"),
    "caltech101": TransferSet(
        "Caltech-101", "caltech101", 3_060, 6_085, 102, "per_class", split=_CALTECH
    ),
    "flowers102": TransferSet(
        "Flowers", "oxford_flowers102", 2_040, 6_149, 102, "per_class", "validation", _FLOWERS
    ),
}
