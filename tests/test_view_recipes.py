"""The recipes against the papers' numbers."""

import dataclasses

import jax
import numpy as np
import pytest

from byol_jax.views import host, recipes
from byol_jax.views.device import make_views
from byol_jax.views.spec import (
    DIGITS_MEAN,
    DIGITS_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    UNIFORMS,
    ViewSpec,
    check_recipe,
)

MEAN_STD = (IMAGENET_MEAN, IMAGENET_STD)


def test_byol_is_the_papers():
    """Values of Grill et al. 2020, table 6. Fails if any differs."""
    first, second = recipes.byol(224)["views"]
    for view in (first, second):
        assert view.area == (0.08, 1.0)
        assert view.aspect == (3 / 4, 4 / 3)
        assert (view.flip, view.jitter, view.grey) == (0.5, 0.8, 0.2)
        assert (view.brightness, view.contrast, view.saturation, view.hue) == (0.4, 0.4, 0.2, 0.1)
        assert (view.sigma, view.kernel, view.brightness_scales) == ((0.1, 2.0), 23, False)
        assert not view.affine
    assert (first.blur, first.solarize, second.blur, second.solarize) == (1.0, 0.0, 0.1, 0.2)


def test_simclr_is_the_papers():
    """Values of Chen et al. 2020, appendix A. Fails if any differs, or strength is ignored."""
    first, second = recipes.simclr(224)["views"]
    assert first == second
    jitter = (first.brightness, first.contrast, first.saturation, first.hue)
    assert jitter == pytest.approx((0.8, 0.8, 0.8, 0.2))
    assert first.brightness_scales
    assert (first.blur, first.mean, first.std) == (0.5, (0, 0, 0), (1, 1, 1))
    half = recipes.simclr(32, strength=0.5)["views"][0]
    assert (half.brightness, half.hue) == pytest.approx((0.4, 0.1))


def test_small_recipes():
    """Fails if cifar blurs, digits flips, or crop_flip jitters."""
    cifar = recipes.cifar(32)["views"]
    assert [v.solarize for v in cifar] == [0.0, 0.2]
    assert not any(v.blur for v in cifar)
    scan = recipes.digits(8)["views"][0]
    assert (scan.flip, scan.rotate, scan.area, scan.channels) == (0.0, 17.0, (0.35, 1.0), 1)
    assert scan.affine
    (only,) = recipes.crop_flip(224)["views"]
    assert (only.flip, only.jitter, only.grey, only.blur, only.solarize) == (0.5, 0, 0, 0, 0)


def test_moco_v1_and_v2_are_the_authors():
    """Values of facebookresearch/moco:main_moco.py. Fails if any differs, or they are swapped."""
    (v1,), (v2,) = (set(recipe(224)["views"]) for recipe in (recipes.moco_v1, recipes.moco_v2))
    for view in (v1, v2):
        assert (view.area, view.aspect, view.flip) == ((0.2, 1.0), (3 / 4, 4 / 3), 0.5)
        assert (view.brightness, view.contrast, view.saturation) == (0.4, 0.4, 0.4)
        assert (view.brightness_scales, view.grey, view.solarize) == (True, 0.2, 0.0)
    assert (v1.jitter, v1.hue, v1.blur) == (1.0, 0.4, 0.0)
    assert (v2.jitter, v2.hue, v2.blur, v2.sigma) == (0.8, 0.1, 0.5, (0.1, 2.0))
    assert [len(recipe(224)["views"]) for recipe in (recipes.moco_v1, recipes.moco_v2)] == [2, 2]


def test_multi_crop_is_byol_and_small_views():
    """Fails if sizes, areas or blur kernels of the two groups are mixed up, or byol's are lost."""
    recipe = recipes.multi_crop(224, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), small=96, count=6)
    assert list(recipe) == ["views", "local"]
    want = recipes.byol(224, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), area=(0.25, 1.0))
    assert recipe["views"] == want["views"]
    (local,) = set(recipe["local"])
    assert len(recipe["local"]) == 6
    small = recipes.byol(96, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), area=(0.05, 0.25))["views"][0]
    assert local == small
    assert (local.kernel, recipe["views"][0].kernel) == (9, 23)


def test_multi_crop_as_swav_and_dino_have_it():
    """Fails if the small views have other colours than the large ones, or the second one's."""
    swav = {"colours": "simclr", "large_area": (0.14, 1.0), "small_area": (0.05, 0.14)}
    swav = recipes.multi_crop(224, count=6, small_blur=0.5, **swav)
    large, small = (recipes.simclr(s, *MEAN_STD)["views"][0] for s in (224, 96))
    assert swav == {
        "views": (dataclasses.replace(large, area=(0.14, 1.0)),) * 2,
        "local": (dataclasses.replace(small, area=(0.05, 0.14)),) * 6,
    }
    dino = recipes.multi_crop(224, count=8, large_area=(0.4, 1), small_area=(0.05, 0.4))
    assert [(v.area, v.blur, v.solarize) for v in dino["views"]] == [
        ((0.4, 1), 1.0, 0.0),
        ((0.4, 1), 0.1, 0.2),
    ]
    assert {(v.area, v.blur, v.solarize) for v in dino["local"]} == {((0.05, 0.4), 1.0, 0.0)}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"colours": "cifar"}, "colours is 'cifar'; expected 'byol' or 'simclr'"),
        ({"small": 32}, r"small is 32 px; expected 1 to 31, below the size 32"),
        ({"small": 0}, r"small is 0 px; expected 1 to 31"),
        ({"count": 0}, r"count is 0; expected at least one small view"),
    ],
)
def test_multi_crop_refuses(fields, message):
    """Fails if small views that are not small, or no small views, pass."""
    with pytest.raises(ValueError, match=message):
        recipes.multi_crop(32, **{"small": 16, **fields})


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_overrides_reach_every_view(name):
    """Fails if a recipe drops its overrides, applies them to one view or group, or takes a size."""
    small = {"small": 8} if name == "multi_crop" else {}
    recipe = recipes.RECIPES[name](16, area=[0.5, 0.9], flip=0.25, kernel=5, **small)
    check_recipe(recipe)
    assert {v.size for v in recipe["views"]} == {16}
    views = [v for group in recipe.values() for v in group]
    assert all((v.area, v.flip, v.kernel) == ((0.5, 0.9), 0.25, 5) for v in views)
    assert all(isinstance(v, ViewSpec) for v in views)
    with pytest.raises(ValueError, match="no field 'solarise': did you mean solarize"):
        recipes.RECIPES[name](16, solarise=0.1, **small)
    with pytest.raises(ValueError, match="flip is 3"):
        recipes.RECIPES[name](16, flip=3.0, **small)
    with pytest.raises(ValueError, match=r"size is overridden with 4, .* set image_size instead"):
        recipes.RECIPES[name](16, **{"size": 4}, **small)


def test_one_channel_by_overrides():
    """Fails if a recipe's colours are refused before the overrides take them out."""
    grey = {"mean": (0.5,), "std": (0.5,), "saturation": 0.0, "hue": 0.0, "grey": 0.0}
    assert [v.channels for v in recipes.byol(16, **grey)["views"]] == [1, 1]
    with pytest.raises(ValueError, match=r"saturation is 0.2; expected 0.0 for images of one"):
        recipes.byol(16, (0.5,), (0.5,))


def test_one_branch_leaves_the_others_the_whole_image():
    """Fails if the second view is changed at all, or the first is not what it was.

    (Leave the flip of the second at its default.)
    """
    images = np.random.RandomState(0).randint(0, 256, (6, 8, 8, 1)).astype(np.uint8)
    both = recipes.digits(8)
    one = recipes.one_branch(both)
    key = jax.random.key(1)
    found = make_views(one, cropped=False)({"image": images}, key)["views"]
    before = make_views(both, cropped=False)({"image": images}, key)["views"]
    plain = (images / 255.0 - DIGITS_MEAN[0]) / DIGITS_STD[0]
    np.testing.assert_allclose(found[:, 1], plain, atol=1e-5)
    np.testing.assert_array_equal(found[:, 0], before[:, 0])
    assert np.abs(found[:, 0] - plain).max() > 0.5
    draws = np.random.RandomState(1).rand(6, UNIFORMS).astype(np.float32)
    second = one["views"][1]
    made = host.augment(host.crop_batch(images, second, draws), second, draws)
    np.testing.assert_allclose(made, plain, atol=1e-5)


@pytest.mark.parametrize("recipe", [recipes.crop_flip(8), recipes.multi_crop(8, small=4)])
def test_one_branch_needs_two_views_alone(recipe):
    with pytest.raises(ValueError, match="expected two 'views' alone"):
        recipes.one_branch(recipe)
