"""What is known about data sets, against their sources and against what is opened."""

import pytest

from byol_jax.data.facts import FACTS, facts_of
from byol_jax.data.opening import open_source


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("cifar10", "cifar10"),
        ("cifar10:3.0.2", "cifar10"),
        ("imagenette/160px-v2", "imagenette"),
        ("imagenette/160px-v2:1.0.0", "imagenette"),
        ("imagenet2012:5.1.0", "imagenet2012"),
    ],
)
def test_config_and_version_do_not_matter(name, family):
    """Fails if the name is cut at the wrong sign, or not at all."""
    assert facts_of(name) is FACTS[family]


@pytest.mark.parametrize("name", ["folder", "npz", "cifar", "cifar10_1", ""])
def test_other_data_are_not_known(name):
    """Fails if a part of a name is enough."""
    assert facts_of(name) is None


# name: (train, test, judged on, classes, channels, side); of the data sets' own pages.
PUBLISHED = {
    "imagenet2012": (1281167, 50000, "validation", 1000, 3, 0),
    "imagenette": (9469, 3925, "validation", 10, 3, 0),
    "cifar10": (50000, 10000, "test", 10, 3, 32),
    "cifar100": (50000, 10000, "test", 100, 3, 32),
    "digits": (1297, 500, "test", 10, 1, 8),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_numbers_are_the_published(name):
    """Fails if a number of a row changes, or a row has statistics of other channels."""
    f = FACTS[name]
    found = (f.train.examples, f.test.examples, f.test.name, f.classes, f.channels, f.side)
    assert found == PUBLISHED[name]
    assert len(f.mean) == len(f.std) == f.channels
    assert f.metric == "top1"
    assert set(FACTS) == set(PUBLISHED)


def test_digits_are_as_promised():
    """Fails if the table and what is opened part ways."""
    facts = FACTS["digits"]
    train, test = (open_source("digits", split=s) for s in ("train", "test"))
    assert (train.num_examples, test.num_examples) == (facts.train.examples, facts.test.examples)
    assert (train.classes, train.channels) == (facts.classes, facts.channels)
    assert train.images.shape[1:3] == (facts.side, facts.side)
    pixels = train.images / 255
    assert (pixels.mean(), pixels.std()) == pytest.approx((facts.mean[0], facts.std[0]), abs=5e-3)
