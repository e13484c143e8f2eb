"""Every operation against a NumPy version of its own, eagerly and inside tf.data."""

import colorsys
import math

import numpy as np
import pytest
import tensorflow as tf

from byol_jax.views import host, recipes, spec
from byol_jax.views.spec import ORDERS, UNIFORMS, EvalSpec, U, ViewSpec

RNG = np.random.default_rng(0)
FIRST = U["op_1"]  # number of draws before those of test_randaugment.py
PLAIN = dict.fromkeys(
    ("flip", "jitter", "brightness", "contrast", "saturation", "hue", "grey"), 0.0
) | {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def photo(height, width):
    """A smooth image in 0..1 with all kinds of colours, float32 [H, W, 3]."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = [np.sin(7 * x + 3 * y), np.cos(5 * y - 4 * x), np.sin(9 * x * y + 1)]
    return (0.5 + 0.5 * np.stack(waves, -1)).astype(np.float32)


def draws(n=1, **fixed):
    """Random numbers of n views; the unused ones are NaN, so that a use of them shows."""
    u = np.full((n, UNIFORMS), np.nan, np.float32)
    u[:, :FIRST] = RNG.random((n, FIRST), np.float32)
    for name, value in fixed.items():
        u[:, U[name]] = value
    return u


def both_ways(function, *arrays):
    """What `function` gives eagerly, checked to be what it gives inside tf.data."""
    eager = function(*[tf.constant(a) for a in arrays]).numpy()
    data = tf.data.Dataset.from_tensors(arrays).map(function)
    np.testing.assert_allclose(next(data.as_numpy_iterator()), eager, rtol=0, atol=1e-6)
    return eager


# The oracles: one image, plain loops where that is clearest.


def keys_weights(at, low, high):
    """Bicubic taps around `at` inside [low, high), as a dict."""
    weights = {}
    for tap in range(math.floor(at) - 1, math.floor(at) + 3):
        d = abs(at - tap)
        w = 1.5 * d**3 - 2.5 * d**2 + 1 if d <= 1 else -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
        if low <= tap < high:
            weights[tap] = w
    total = sum(weights.values())
    return {tap: w / total for tap, w in weights.items()}


def np_resize(image, window, size, grid=None):
    """Bicubic; `grid` rounds the phase down to that many parts of a pixel."""
    top, left, h, w = window
    mats = []
    for start, length, full in ((top, h, image.shape[0]), (left, w, image.shape[1])):
        m = np.zeros((size, full))
        for i in range(size):
            at = (i + 0.5) * length / size - 0.5
            if grid:
                at = math.floor(at) + np.rint((at - math.floor(at)) * grid) / grid
            for tap, weight in keys_weights(start + at, start, start + length).items():
                m[i, tap] = weight
        mats.append(m)
    return np.clip(np.einsum("ih,hwc,jw->ijc", mats[0], image, mats[1]), 0, 1)


def np_affine(image, v, u):
    height, width, channels = image.shape
    area = (v.area[0] + (v.area[1] - v.area[0]) * u[U["area"]]) * height * width
    lo, hi = math.log(v.aspect[0]), math.log(v.aspect[1])
    r = math.exp(lo + (hi - lo) * u[U["aspect"]])
    h, w = min(height, math.sqrt(area / r)), min(width, math.sqrt(area * r))
    t = math.radians(v.rotate) * (2 * u[U["rotate"]] - 1)
    dy = v.shift * (2 * u[U["shift_y"]] - 1) * height
    dx = v.shift * (2 * u[U["shift_x"]] - 1) * width
    top, left = u[U["top"]] * (height - h), u[U["left"]] * (width - w)
    out = np.zeros((v.size, v.size, channels))
    for i in range(v.size):
        for j in range(v.size):
            y, x = h * ((i + 0.5) / v.size - 0.5), w * ((j + 0.5) / v.size - 0.5)
            row = top + h / 2 + dy + math.sin(t) * x + math.cos(t) * y - 0.5
            col = left + w / 2 + dx + math.cos(t) * x - math.sin(t) * y - 0.5
            for a in (math.floor(row), math.floor(row) + 1):
                for b in (math.floor(col), math.floor(col) + 1):
                    if 0 <= a < height and 0 <= b < width:
                        out[i, j] += (1 - abs(row - a)) * (1 - abs(col - b)) * image[a, b]
    return out


def np_hsv(image, change):
    flat = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*p))) for p in image.reshape(-1, 3)]
    return np.array(flat).reshape(image.shape)


def np_jitter_op(k, image, v, u):
    half = {n: 2 * u[U[n]] - 1 for n in ("brightness", "contrast", "saturation", "hue")}
    if k == 0 and v.brightness_scales:
        image = image * (1 + v.brightness * half["brightness"])
    elif k == 0:
        image = image + v.brightness * half["brightness"]
    elif k == 1:
        mean = image.mean((0, 1))
        image = (image - mean) * (1 + v.contrast * half["contrast"]) + mean
    elif k == 2:
        f = 1 + v.saturation * half["saturation"]
        image = np_hsv(image, lambda h, s, x: (h, min(s * f, 1), x))
    else:
        image = np_hsv(image, lambda h, s, x: ((h + v.hue * half["hue"]) % 1, s, x))
    return np.clip(image, 0, 1)


def np_augment(image, v, u):
    image = image.astype(np.float64)
    if u[U["flip"]] < v.flip:
        image = image[:, ::-1]
    if u[U["jitter"]] < v.jitter:
        strengths = (v.brightness, v.contrast, v.saturation, v.hue)
        for k in ORDERS[int(24 * u[U["order"]])]:
            if strengths[k]:
                image = np_jitter_op(k, image, v, u)
    if u[U["grey"]] < v.grey:
        image = np.repeat((image @ [0.2989, 0.587, 0.114])[..., None], 3, 2)
    if u[U["blur"]] < v.blur:
        sigma = v.sigma[0] + (v.sigma[1] - v.sigma[0]) * u[U["sigma"]]
        reach = v.kernel // 2
        taps = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
        for axis in (0, 1):
            wide = np.apply_along_axis(np.convolve, axis, image, taps / taps.sum())
            image = np.take(wide, np.arange(reach, reach + image.shape[axis]), axis)
    if u[U["solarize"]] < v.solarize:
        image = np.where(image < 0.5, image, 1 - image)
    return (image - v.mean) / v.std


# Crops.


def test_window_follows_the_draws():
    """Fails if aspect divides the width, or the place cannot reach the far border."""
    v = ViewSpec(8, area=(0.25, 0.25), aspect=(2.0, 2.0))
    u = draws(3)
    u[:, U["top"]], u[:, U["left"]] = [0, 0.5, 1 - 2**-23], [0, 0.5, 1 - 2**-23]
    top, left, h, w = (t.numpy() for t in host.crop_window(v, u, 100, 120))
    # Area 3000 at 2:1 is 38.7 x 77.5.
    assert set(h) == {39}
    assert set(w) == {77}
    assert list(top) == [0, 31, 61]
    assert list(left) == [0, 22, 43]


def test_window_stays_inside_and_fills_the_range():
    """Fails if sides are not clipped, or the area is not uniform."""
    v = ViewSpec(8)
    top, left, h, w = (t.numpy() for t in host.crop_window(v, draws(20000), 200, 300))
    assert (top >= 0).all()
    assert (top + h <= 200).all()
    assert (left + w <= 300).all()
    area = h * w / 60000
    inside = (h < 200) & (w < 300)
    assert abs(area[inside].min() - 0.08) < 0.005
    # Half of the draws, and those that are clipped; 0.0035 is the standard deviation.
    assert 0.49 < np.mean(area < 0.54) < 0.55
    ratio = np.log(w / h)[inside & (area < 0.4)]
    assert abs(ratio.mean()) < 0.01
    assert 0.28 < np.abs(ratio).max() < 0.30
    one = host.crop_window(v, draws(50), 1, 1)
    assert [set(t.numpy()) for t in one] == [{0}, {0}, {1}, {1}]


@pytest.mark.parametrize("window", [(3, 5, 40, 30), (0, 0, 8, 9), (10, 20, 1, 1), (0, 0, 60, 70)])
def test_resize_is_bicubic(window):
    """Fails with bilinear, a = -0.75, corner-aligned pixels or antialiasing."""
    image = photo(60, 70)
    got = both_ways(lambda x: host.crop_resize(x, window, 24), image)
    np.testing.assert_allclose(got, np_resize(image, window, 24, grid=1024), atol=2e-5)
    # Against the exact kernel: its places are rounded to 1/1024 px.
    np.testing.assert_allclose(got, np_resize(image, window, 24), atol=1e-4)


def test_resize_takes_bytes():
    """Fails if uint8 is not scaled, or overshoot is not clipped."""
    image = RNG.integers(0, 2, (12, 12, 3), np.uint8) * 255
    got = both_ways(lambda x: host.crop_resize(x, (0, 0, 12, 12), 31), image)
    assert got.min() == 0
    assert got.max() == 1
    np.testing.assert_allclose(got, np_resize(image / 255, (0, 0, 12, 12), 31, 1024), atol=1e-5)


def test_batched_crop_is_the_exact_resize():
    """Fails if taps beside the window get a weight."""
    images = RNG.integers(0, 256, (6, 20, 24, 3), np.uint8)
    v, u = ViewSpec(16, area=(0.1, 1.0)), draws(6)
    got = both_ways(lambda x, u: host.crop_batch(x, v, u), images, u)
    for i in range(6):
        window = [int(t) for t in host.crop_window(v, u[i], 20, 24)]
        np.testing.assert_allclose(got[i], np_resize(images[i] / 255, window, 16), atol=1e-5)


def test_affine_turns_shifts_and_fills_with_zero():
    """Fails if the rotation changes sign, or height and width are swapped."""
    v = ViewSpec(9, area=(0.3, 1.0), rotate=40.0, shift=0.2)
    images, u = RNG.random((5, 12, 15, 3), np.float32), draws(5)
    got = both_ways(lambda x, u: host.crop_affine(x, v, u), images, u)
    for i in range(5):
        np.testing.assert_allclose(got[i], np_affine(images[i], v, u[i]), atol=1e-5)


# Colours and the rest.

ONE = [
    ({"flip": 1.0}, {}),
    ({"jitter": 1.0, "brightness": 0.4}, {"brightness": 0.9}),
    ({"jitter": 1.0, "brightness": 0.8, "brightness_scales": True}, {"brightness": 0.9}),
    ({"jitter": 1.0, "contrast": 0.8}, {"contrast": 0.95}),
    ({"jitter": 1.0, "saturation": 0.8}, {"saturation": 0.95}),
    ({"jitter": 1.0, "saturation": 0.8}, {"saturation": 0.05}),
    ({"jitter": 1.0, "hue": 0.3}, {"hue": 0.9}),
    ({"jitter": 1.0, "hue": 0.3}, {"hue": 0.1}),
    ({"grey": 1.0}, {}),
    ({"blur": 1.0, "kernel": 7}, {"sigma": 0.8}),
    ({"blur": 1.0, "kernel": 23}, {"sigma": 0.0}),
    ({"solarize": 1.0}, {}),
    ({"mean": spec.IMAGENET_MEAN, "std": spec.IMAGENET_STD}, {}),
]


@pytest.mark.parametrize(("change", "fixed"), ONE, ids=lambda v: "-".join(map(str, v)))
def test_one_operation(change, fixed):
    """Fails if this operation's formula, factor or clipping changes."""
    v, u = ViewSpec(16, **(PLAIN | change)), draws(2, **fixed)
    images = np.stack([photo(16, 18), RNG.random((16, 18, 3), np.float32)])
    # Greys, black and white: where saturation and hue divide by zero.
    images[0, :3, :, :] = np.linspace(0, 1, 18, dtype=np.float32)[:, None]
    got = both_ways(lambda x, u: host.augment(x, v, u), images, u)
    for i in range(2):
        np.testing.assert_allclose(got[i], np_augment(images[i], v, u[i]), atol=1e-5)


def test_all_operations_in_every_order():
    """Fails if two operations change places, or an order is read wrong."""
    v = recipes.byol(16, blur=0.5, solarize=0.5, grey=0.3)["views"][0]
    images = np.stack([photo(16, 16)] * 48)
    u = draws(48)
    u[:, U["order"]] = (np.arange(48) % 24 + 0.5) / 24
    got = both_ways(lambda x, u: host.augment(x, v, u), images, u)
    for i in range(48):
        np.testing.assert_allclose(got[i], np_augment(images[i], v, u[i]), atol=1e-4)


def test_rows_do_not_see_each_other():
    """One image alone takes tf.cond, many gather: fails if the two or their rows differ."""
    v = recipes.byol(12, blur=0.5, solarize=0.5)["views"][0]
    images, u = RNG.random((8, 12, 12, 3), np.float32), draws(8)
    together = host.augment(tf.constant(images), v, tf.constant(u)).numpy()
    alone = tf.data.Dataset.from_tensor_slices((images, u)).map(
        lambda x, u: host.augment(x[None], v, u[None])[0]
    )
    np.testing.assert_allclose(np.stack(list(alone.as_numpy_iterator())), together, atol=1e-6)


def test_one_channel():
    """Fails if the planes of a grey image are taken for colours."""
    v = recipes.digits(8)["views"][0]
    images, u = RNG.integers(0, 256, (4, 8, 8, 1), np.uint8), draws(4)
    got = both_ways(lambda x, u: host.augment(host.crop_batch(x, v, u), v, u), images, u)
    for i in range(4):
        want = np_augment(np_affine(images[i] / 255, v, u[i]), v, u[i])
        np.testing.assert_allclose(got[i], want, atol=1e-5)


def test_a_view_is_a_crop_and_then_the_rest():
    """Fails if the two do not fit together, for windows and for affine crops."""
    image, u = photo(40, 50), draws(1)[0]
    for v in (recipes.byol(16)["views"][0], recipes.byol(16, rotate=10.0)["views"][0]):
        if v.affine:
            crop = np_affine(image, v, u)
        else:
            window = [int(t) for t in host.crop_window(v, u, 40, 50)]
            crop = np_resize(image, window, 16, grid=1024)

        def view(x, u, v=v, affine=v.affine):
            if affine:
                return host.augment(host.crop_affine(x[None], v, u[None]), v, u[None])[0]
            crop = host.crop_resize(x, host.crop_window(v, u, 40, 50), v.size)
            return host.augment(crop[None], v, u[None])[0]

        got = both_ways(view, image, u)
        np.testing.assert_allclose(got, np_augment(crop, v, u), atol=5e-4)


# Draws.


def test_uniforms_are_a_function_of_seed_epoch_and_index():
    """Fails if one of the three does not count, or examples share numbers."""
    base = host.uniforms(3, 5, 7, 2).numpy()
    assert base.shape == (2, UNIFORMS)
    assert (base >= 0).all()
    assert (base < 1).all()
    np.testing.assert_array_equal(host.uniforms(3, 5, 7, 2), base)
    data = tf.data.Dataset.range(7, 9).map(
        lambda i: host.uniforms(3, tf.constant(5, tf.int64), i, 2)
    )
    inside = list(data.as_numpy_iterator())
    np.testing.assert_array_equal(inside[0], base)
    others = [host.uniforms(*a, 2).numpy() for a in ((4, 5, 7), (3, 6, 7), (3, 5, 8))]
    numbers = np.concatenate([o.ravel() for o in (base, *others)])
    assert len(np.unique(numbers)) == numbers.size


def test_numbers_of_old():
    """Old runs must resume. Fails if the generator, its key, its counter or UNIFORMS changes."""
    u = host.uniforms(7, 3, 2, 2).numpy()
    found = [u[0, U["area"]], u[0, UNIFORMS - 1], u[1, U["jitter"]]]
    assert found == pytest.approx([0.72422075, 0.11198425, 0.66077960], abs=1e-7)


def test_examples_have_numbers_for_as_many_views_as_promised():
    """Fails if the last view uses the next example's numbers, or more views are allowed."""
    most = host.MAX_VIEWS
    assert most == 2048
    this, following = (host.uniforms(3, 5, i, n).numpy() for i, n in ((7, most), (8, 4)))
    assert not (this[:, None] == following).all(2).any()
    with pytest.raises(ValueError, match="has 2049 views; expected at most 2048"):
        host.uniforms(3, 5, 7, most + 1)


def test_probabilities_and_ranges():
    """Fails if a draw of one operation decides another, or a probability is off by 0.03."""
    data = tf.data.Dataset.range(4000).map(
        lambda i: host.uniforms(0, tf.constant(0, tf.int64), i, 1)
    )
    u = next(data.batch(4000).as_numpy_iterator())[:, 0]
    ramp = np.tile(0.25 + photo(4, 6) / 2, (4000, 1, 1, 1))

    def rate(**change):
        v = ViewSpec(6, **(PLAIN | change))
        made = host.augment(tf.constant(ramp), v, tf.constant(u)).numpy()
        return made, np.mean(np.abs(made - ramp).max((1, 2, 3)) > 1e-6)

    for name in ("flip", "grey", "blur", "solarize"):
        assert abs(rate(**{name: 0.3})[1] - 0.3) < 0.03
    assert abs(rate(jitter=0.8, hue=0.2)[1] - 0.8) < 0.03
    made, _ = rate(jitter=1.0, brightness=0.2)
    added = made[:, 1, 1, 1] - ramp[0, 1, 1, 1]
    assert -0.2 <= added.min() < -0.195
    assert 0.195 < added.max() <= 0.2
    counts = np.bincount((24 * u[:, U["order"]]).astype(int), minlength=24)
    chi = ((counts - 4000 / 24) ** 2 / (4000 / 24)).sum()
    assert chi < 49.7  # 23 degrees of freedom, p = 0.001
    assert np.abs(np.corrcoef(u.T) - np.eye(UNIFORMS)).max() < 0.08


# Evaluation.


@pytest.mark.parametrize(("height", "width"), [(60, 90), (90, 61), (32, 32), (20, 20)])
def test_eval_view_is_the_centre(height, width):
    """Fails if the longer side is scaled, the crop is off centre, or mean and std are swapped."""
    v = EvalSpec(24, 32, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    image = photo(height, width)
    got = both_ways(lambda x: host.eval_view(x, v), image)
    side = round(min(height, width) * 24 / 32)
    window = ((height - side) // 2, (width - side) // 2, side, side)
    want = np_resize(image, window, 24, grid=1024)
    np.testing.assert_allclose(got, (want - v.mean) / v.std, atol=1e-4)
    if (height, width) == (32, 32):
        np.testing.assert_allclose(got, (image[4:28, 4:28] - v.mean) / v.std, atol=1e-5)


def test_eval_view_takes_bytes():
    """Fails if uint8 is not scaled to 0..1."""
    image = RNG.integers(0, 256, (8, 8, 1), np.uint8)
    got = host.eval_view(tf.constant(image), EvalSpec(8, 8, (0.0,), (1.0,))).numpy()
    np.testing.assert_allclose(got, image / 255, atol=1e-6)
