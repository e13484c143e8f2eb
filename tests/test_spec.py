import dataclasses

import pytest

from byol_jax.views import spec
from byol_jax.views.spec import EvalSpec, ViewSpec


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", 0),
        ("area", (0.5, 0.2)),
        ("area", (0.0, 1.0)),
        ("area", (0.1, 1.5)),
        ("aspect", (2.0, 1.0)),
        ("sigma", (-1.0, 2.0)),
        ("flip", 1.1),
        ("jitter", -0.1),
        ("grey", 2.0),
        ("blur", 2.0),
        ("solarize", -1.0),
        ("brightness", 1.5),
        ("contrast", -0.1),
        ("saturation", 1.01),
        ("hue", 0.6),
        ("rotate", 181.0),
        ("shift", -0.1),
        ("kernel", 4),
        ("kernel", -1),
        ("mean", (0.5, 0.5)),
        ("std", (0.5,)),
        ("std", (0.5, 0.0, 0.5)),
    ],
)
def test_bad_field_is_named(field, value):
    """Fails if the check of any of these fields is taken out of ViewSpec."""
    with pytest.raises(ValueError, match=rf"ViewSpec.{field} is .*; expected"):
        ViewSpec(**({"size": 32} | {field: value}))


@pytest.mark.parametrize("field", ["saturation", "hue", "grey"])
def test_one_channel_has_no_colours(field):
    """Fails if the colour operations are not refused for one channel."""
    plain = {"saturation": 0.0, "hue": 0.0, "grey": 0.0, "mean": (0.5,), "std": (0.5,)}
    assert ViewSpec(8, **plain).channels == 1
    with pytest.raises(ValueError, match=f"{field} is 0.1; expected 0.0 for images of one channel"):
        ViewSpec(8, **{**plain, field: 0.1})


def test_eval_spec_refuses_a_crop_beyond_the_image():
    """Fails if resize < size passes."""
    assert EvalSpec(224, 256).channels == 3
    with pytest.raises(ValueError, match=r"resize is 200; expected at least size \(224\)"):
        EvalSpec(224, 200)


def test_orders_are_all_of_them():
    """Fails if an order is missing or comes twice."""
    assert len(set(spec.ORDERS)) == 24
    assert all(sorted(o) == [0, 1, 2, 3] for o in spec.ORDERS)
    assert spec.UNIFORMS == len(set(spec.DRAWS)) == len(spec.U)


def test_byol_is_the_papers():
    """Values of Grill et al. 2020, table 6. Fails if any differs."""
    first, second = spec.byol(224)
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
    first, second = spec.simclr(224)
    assert first == second
    jitter = (first.brightness, first.contrast, first.saturation, first.hue)
    assert jitter == pytest.approx((0.8, 0.8, 0.8, 0.2))
    assert first.brightness_scales
    assert (first.blur, first.mean, first.std) == (0.5, (0, 0, 0), (1, 1, 1))
    half = spec.simclr(32, strength=0.5)[0]
    assert (half.brightness, half.hue) == pytest.approx((0.4, 0.1))


def test_small_recipes():
    """Fails if cifar blurs, digits flips, or crop_flip jitters."""
    cifar = spec.cifar(32)
    assert [v.solarize for v in cifar] == [0.0, 0.2]
    assert not any(v.blur for v in cifar)
    scan = spec.digits(8)[0]
    assert (scan.flip, scan.rotate, scan.area, scan.channels) == (0.0, 17.0, (0.35, 1.0), 1)
    assert scan.affine
    (only,) = spec.crop_flip(224)
    assert (only.flip, only.jitter, only.grey, only.blur, only.solarize) == (0.5, 0, 0, 0, 0)


@pytest.mark.parametrize("name", spec.RECIPES)
def test_overrides_reach_every_view(name):
    """Fails if a recipe drops its overrides, or applies them to one view."""
    views = spec.RECIPES[name](16, area=[0.5, 0.9], flip=0.25)
    assert all((v.area, v.flip, v.size) == ((0.5, 0.9), 0.25, 16) for v in views)
    assert all(dataclasses.is_dataclass(v) for v in views)
    with pytest.raises(ValueError, match="no field 'solarise': did you mean solarize"):
        spec.RECIPES[name](16, solarise=0.1)
    with pytest.raises(ValueError, match="flip is 3"):
        spec.RECIPES[name](16, flip=3.0)
