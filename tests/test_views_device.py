"""The device's views against the host's, and against the NumPy version of both."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
from conftest import compiled, first_devices
from scipy.stats import ks_2samp
from test_views_host import FIRST, PLAIN, np_affine, np_augment, np_resize, photo

from byol_jax.mesh import put_batch, replicated
from byol_jax.views import device, host
from byol_jax.views.recipes import RECIPES, multi_crop
from byol_jax.views.spec import ORDERS, UNIFORMS, U, ViewSpec

RNG = np.random.default_rng(1)
# Every different view of the recipes; those of multi_crop are byol's with other areas.
VIEWS = {
    f"{name} {i + 1}": (name, i)
    for name in ("byol", "simclr", "cifar", "digits", "crop_flip")
    for i in range(1 if name in ("simclr", "digits", "crop_flip") else 2)
}
TWO_SIZES = multi_crop(16, small=9, count=2, blur=0.5)
# One view per size: what compiles in less time.
ONE_EACH = {"views": TWO_SIZES["views"][1:], "local": TWO_SIZES["local"][:1]}


def run(function, *arrays):
    """A function of arrays as one program: one by one, its operations take longer to compile."""
    return compiled(jax.jit(function), *arrays)(*arrays)


def draws(n=1):
    """Random numbers of n views; the unused ones are NaN, so that a use of them shows."""
    u = np.full((n, UNIFORMS), np.nan, np.float32)
    u[:, :FIRST] = RNG.random((n, FIRST), np.float32)
    return u


def spec_of(name, size=24):
    recipe, i = VIEWS[name]
    return RECIPES[recipe](size)["views"][i]


def every_order(n=72):
    """Draws that go through the 24 orders of the jitter, with few rows left as they are."""
    u = draws(n)
    u[:, U["order"]] = (np.arange(n) % 24 + 0.5) / 24
    u[: 2 * n // 3, U["jitter"]] = 0
    return u


def images(n, side=30, channels=3):
    """Photographs of a kind, uint8, no two alike."""
    wide = (255 * photo(side + n, side + 2 * n)).astype(np.uint8)[..., :channels]
    return np.stack([wide[i : i + side, 2 * i : 2 * i + side] for i in range(n)])


@pytest.mark.parametrize("name", VIEWS)
def test_crops_are_the_hosts(name):
    """Fails if windows, weights, rotation or borders differ from the host's."""
    v = spec_of(name)
    u, some = draws(16), images(16, channels=v.channels)
    theirs = host.crop_batch(tf.constant(some), v, tf.constant(u)).numpy()
    ours = run(lambda x, u: device.crop_batch(x, v, u), some, u)
    assert ours.shape == (16, 24, 24, v.channels)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", VIEWS)
def test_augmentations_are_the_hosts(name):
    """Fails if an operation, an order or a selection differs from the host's."""
    v, u = spec_of(name), every_order()
    crops = images(len(u), 24, v.channels).astype(np.float32) / 255
    theirs = host.augment(tf.constant(crops), v, tf.constant(u)).numpy()
    ours = np.asarray(run(lambda x, u: device.augment(x, v, u), crops, u))
    scale = 1 / min(v.std)
    # Where two channels are equal to rounding, the hue is not defined: a few pixels.
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * scale)
    assert np.abs(ours - theirs).mean() < 1e-6 * scale


@pytest.mark.parametrize("name", VIEWS)
def test_augmentations_are_numpys(name, x64):
    """Fails if the five steps are not the four operations in the order drawn, in float64."""
    v, u = spec_of(name, 12), every_order().astype(np.float64)
    crops = images(len(u), 12, v.channels) / 255
    ours = np.asarray(run(lambda x, u: device.augment(x, v, u), crops, u))
    assert ours.dtype == np.float64
    for i in range(len(u)):
        np.testing.assert_allclose(ours[i], np_augment(crops[i], v, u[i]), rtol=0, atol=1e-9)


@pytest.mark.parametrize("scales", [False, True])
@pytest.mark.parametrize("left_out", ["brightness", "contrast", "saturation", "hue"])
def test_a_jitter_of_three_operations(left_out, scales, x64):
    """Fails if an operation without strength still changes the image or its order."""
    strengths = dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.4)
    fields = PLAIN | strengths | {"jitter": 1.0, left_out: 0.0, "brightness_scales": scales}
    v = ViewSpec(9, **fields)
    u = every_order(24).astype(np.float64)
    crops = images(24, 9) / 255
    ours = np.asarray(run(lambda x, u: device.augment(x, v, u), crops, u))
    for i in range(24):
        np.testing.assert_allclose(ours[i], np_augment(crops[i], v, u[i]), rtol=0, atol=1e-9)


def test_crops_are_numpys(x64):
    """Fails if host and device share a mistake."""
    v, turned = ViewSpec(11, **PLAIN), ViewSpec(11, rotate=30.0, shift=0.2, **PLAIN)
    u, some = draws(6).astype(np.float64), images(6, 17)
    straight, affine = run(
        lambda x, u: [device.crop_batch(x, view, u) for view in (v, turned)], some, u
    )
    for i in range(6):
        window = [t.numpy() for t in host.crop_window(v, tf.constant(u[i], tf.float32), 17, 17)]
        np.testing.assert_allclose(straight[i], np_resize(some[i] / 255, window, 11), atol=1e-9)
        np.testing.assert_allclose(affine[i], np_affine(some[i] / 255, turned, u[i]), atol=1e-9)


def batch_of(**images):
    rows = len(next(iter(images.values())))
    return {**images, "mask": np.ones(rows, np.float32)}


def test_rows_views_and_steps_draw_their_own_numbers():
    """Fails if two rows, two views or two steps share their randomness."""
    u = device.uniforms(jax.random.key(0), 64, 2)
    assert u.shape == (64, 2, UNIFORMS)
    assert u.dtype == jnp.float32
    assert len(np.unique(u)) > 0.999 * u.size
    assert float(u.min()) >= 0
    assert float(u.max()) < 1
    assert np.isin(device.uniforms(jax.random.key(1), 64, 2), u).mean() < 0.01
    # Rows of the same image become different views.
    batch = batch_of(image=np.repeat(images(1), 8, axis=0))
    views = device.make_views(RECIPES["cifar"](24), cropped=False)
    flat = np.asarray(run(views, batch, jax.random.key(0))["views"]).reshape(16, -1)
    assert len({row.tobytes() for row in flat}) == 16


@pytest.mark.parametrize("cropped", [False, True])
def test_groups_of_crops_and_of_whole_images(cropped):
    """Fails if a crop is cut again, or a view has another's crop, numbers, group or place.

    The draws are those of the host's views in the test below: consecutive slices by group.
    """
    key, some = jax.random.key(3), images(5)
    u = np.asarray(device.uniforms(key, 5, 4))
    crops = {"views": np.stack([images(5, 16), images(5, 16)[::-1]], axis=1)}
    crops["local"] = np.stack([images(5, 9), images(5, 9)[::-1]], axis=1)
    batch = batch_of(**(crops if cropped else {"image": some})) | {"index": np.arange(5)}
    out = run(device.make_views(TWO_SIZES, cropped=cropped), batch, key)
    assert set(out) == {"views", "local", "mask", "index"}
    first = 0
    for name, side, count in (("views", 16, 2), ("local", 9, 2)):
        assert out[name].shape == (5, count, side, side, 3)
        assert out[name].dtype == jnp.float32
        for i, spec in enumerate(TWO_SIZES[name]):
            draws = tf.constant(u[:, first + i])
            x = crops[name][:, i] / np.float32(255)
            crop = tf.constant(x) if cropped else host.crop_batch(tf.constant(some), spec, draws)
            alone = host.augment(crop, spec, draws)
            np.testing.assert_allclose(out[name][:, i], alone, rtol=0, atol=5e-4)
        first += count


def test_images_in_device_memory_become_groups():
    """Fails if a row is looked up wrongly, or the looked-up images and rows stay in the batch."""
    key, some = jax.random.key(4), images(7)
    row = np.array([6, 0, 3, 3], np.int32)
    look_up = device.look_up(some.shape[1:])
    views = device.make_views(ONE_EACH, cropped=False)
    batch = {"images": some.reshape(7, -1), "row": row, "mask": np.ones(4, np.float32)}
    found = run(lambda batch, key: views(look_up(batch), key), batch, key)
    given = run(views, batch_of(image=some[row]), key)
    assert set(found) == set(given) == {"views", "local", "mask"}
    for name in ONE_EACH:
        np.testing.assert_allclose(found[name], given[name], rtol=0, atol=1e-6)


def test_what_is_no_recipe_is_refused_at_once():
    """Fails if the recipe is not looked at before anything is traced."""
    with pytest.raises(ValueError, match="view groups 'local'; expected 'views' first"):
        device.make_views({"local": TWO_SIZES["local"]}, cropped=False)


def test_one_device_draws_what_four_do(x64):
    """Fails if randomness goes by the device, or an operation mixes rows."""
    views = jax.jit(device.make_views(ONE_EACH, cropped=False, dtype=jnp.float64))
    made = []
    for n in (1, 4):
        mesh = first_devices(n)
        key = jax.device_put(jax.random.key(5), replicated(mesh))
        batch = put_batch(batch_of(image=images(8)), mesh)
        made.append(jax.device_get(compiled(views, batch, key)(batch, key)))
    for name in ONE_EACH:
        np.testing.assert_allclose(made[0][name], made[1][name], rtol=0, atol=1e-12)


@functools.cache
def drawn_by_the_host(n):
    """Draws of two views of n examples, float32 [n, 2, UNIFORMS]."""
    data = tf.data.Dataset.range(n).map(lambda i: host.uniforms(0, tf.zeros([], tf.int64), i, 2))
    return next(iter(data.batch(n)))


@pytest.mark.parametrize("name", ["byol", "simclr", "cifar", "digits"])
def test_distributions_agree(name):
    """Fails if a probability, a range or a generator differs between host and device."""
    recipe, n = RECIPES[name](16), 1500
    specs = recipe["views"]
    some = np.repeat(images(1, 20, specs[0].channels), n, axis=0)
    views = device.make_views(recipe, cropped=False)
    ours = run(views, batch_of(image=some), jax.random.key(0))
    u = drawn_by_the_host(n)
    for v, spec in enumerate(specs):
        crops = host.crop_batch(tf.constant(some), spec, u[:, v])
        theirs = host.augment(crops, spec, u[:, v]).numpy()
        pair = [np.asarray(x, np.float64) for x in (ours["views"][:, v], theirs)]
        for what in (
            lambda x: x.mean((1, 2))[:, 0],  # brightness, grey, solarize
            lambda x: x.std((1, 2, 3)),  # contrast, blur
            lambda x: np.abs(np.diff(x, axis=1)).mean((1, 2, 3)),  # crop, blur
            lambda x: x[:, :, :8].mean((1, 2, 3)) - x[:, :, 8:].mean((1, 2, 3)),  # flip
            lambda x: (x.max(3) - x.min(3)).mean((1, 2)),  # saturation, grey
        ):
            assert ks_2samp(what(pair[0]), what(pair[1])).pvalue > 1e-3


def test_a_jitter_is_three_colour_operations_and_no_branch():
    """Fails if every order is computed, or a conditional runs all its branches."""
    views = device.make_views(RECIPES["byol"](16), cropped=True)
    batch = batch_of(views=np.zeros((4, 2, 16, 16, 3), np.uint8))
    text = str(jax.make_jaxpr(views)(batch, jax.random.key(0)))
    assert "cond" not in text
    assert "while" not in text
    assert len(ORDERS) == 24
    assert text.count(" floor") == 2 * 3  # one per turn of the hue, for two views
