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


def test_draws_have_fixed_positions():
    """Fails if a draw changes its position or the vector its length: old runs' views would change.

    New names are added at the end of this list.
    """
    assert spec.UNIFORMS == 32
    assert list(spec.U.items()) == [
        ("area", 0), ("aspect", 1), ("top", 2), ("left", 3), ("flip", 4), ("jitter", 5),
        ("order", 6), ("brightness", 7), ("contrast", 8), ("saturation", 9), ("hue", 10),
        ("grey", 11), ("blur", 12), ("sigma", 13), ("solarize", 14), ("rotate", 15),
        ("shift_y", 16), ("shift_x", 17), ("op_1", 18), ("level_1", 19), ("sign_1", 20),
        ("op_2", 21), ("level_2", 22), ("sign_2", 23), ("erase", 24), ("erase_area", 25),
        ("erase_aspect", 26), ("erase_top", 27), ("erase_left", 28), ("noise", 29),
    ]  # fmt: skip


LARGE, SMALL = ViewSpec(16), ViewSpec(8)
GREY = ViewSpec(8, saturation=0.0, hue=0.0, grey=0.0, mean=(0.5,), std=(0.5,))


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({}, r"view groups none; expected 'views' first"),
        ({"local": (SMALL,)}, r"view groups 'local'; expected 'views' first"),
        ({"local": (SMALL,), "views": (LARGE,)}, "'local', 'views'; expected 'views' first"),
        ({"views": ()}, r"group 'views' have the sizes none; expected one or more"),
        ({"views": (LARGE, SMALL)}, r"group 'views' have the sizes 16, 8; expected .* of one size"),
        ({"views": (LARGE,), "local": ()}, r"group 'local' have the sizes none"),
        ({"views": (LARGE,), "mask": (SMALL,)}, r"named 'mask', like another entry of a batch"),
        ({"views": (LARGE,), "image": (SMALL,)}, r"named 'image', like another entry of a batch"),
        ({"views": (LARGE,), "count": (SMALL,)}, r"named 'count', like another entry of a batch"),
        ({"views": (LARGE,), "local": (GREY,)}, r"1 and 3 channels"),
    ],
)
def test_what_is_no_recipe_is_refused(recipe, message):
    """Fails if any of the checks of `check_recipe` is taken out."""
    with pytest.raises(ValueError, match=message):
        spec.check_recipe(recipe)


def test_groups_take_consecutive_slices():
    """Fails if groups share draws, leave some out, or come in another order."""
    recipe = {"views": (LARGE,) * 2, "local": (SMALL,) * 3, "tiny": (ViewSpec(4),)}
    spec.check_recipe(recipe)
    slices = {"views": slice(0, 2), "local": slice(2, 5), "tiny": slice(5, 6)}
    assert spec.group_slices(recipe) == slices
    assert spec.total_views(recipe) == 6
