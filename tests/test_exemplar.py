"""Exemplars: seeds stay where they are, copies are moved and recoloured as they should be."""

import colorsys
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import compiled
from pretext_oracles import crops

from byol_jax.views.tasks.exemplar import copied, exemplar, recoloured, seed_corners

KEY = jax.random.key(0)
STILL = {
    "shift": 0.0,
    "scale": (1.0, 1.0),
    "rotate": 0.0,
    "contrast": 1.0,
    "power": 1.0,
    "hue": 0.0,
}


def photographs(count=64, size=24):
    from sklearn.datasets import load_sample_images

    return crops(load_sample_images().images, count, size)


def test_seeds_are_windows_where_the_edges_are():
    """Fails if a seed moves between epochs or batches, or lies where nothing is: the oracle finds
    each window in its image, by trying all of them.
    """
    images, index = photographs(), np.arange(64)
    corners = jax.jit(functools.partial(seed_corners, patch=10))
    corner = np.asarray(corners(images, index))
    order = np.random.RandomState(0).permutation(64)
    np.testing.assert_array_equal(corners(images[order], index[order]), corner[order])
    blank = images.copy()
    blank[:, :, 12:] = 0.5  # edges in the left half only
    left = np.asarray(corners(blank, index))[:, 1]
    assert (left <= 12).all()
    assert (corner[:, 1] > 12).any()
    alike = np.asarray(corners(images[[0] * 64], index))
    assert len({tuple(place) for place in alike.tolist()}) > 16, "drawn for each image"
    views = copied(
        jnp.asarray(images), jnp.asarray(corner), jnp.full((64, 16), 0.5), 10, 0, (1, 1), 0
    )
    for view, image, (y, x) in zip(np.asarray(views), images, corner, strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(image, (10, 10), (0, 1))
        far = np.abs(np.moveaxis(windows, 2, -1) - view).max((2, 3, 4))
        assert far[y, x] < 1e-5


def test_copies_are_moved_as_they_should():
    """Fails if a copy is moved, scaled or turned by more or less than it may be: an image whose
    colours are its coordinates tells where each pixel was taken.
    """
    y, x = np.mgrid[:60, :60].astype(np.float32)
    images = jnp.asarray(np.tile(np.stack([y, x, 0 * x], -1)[None], (500, 1, 1, 1)))
    u = jax.random.uniform(KEY, (500, 16))
    corner = jnp.full((500, 2), 20, jnp.int32)
    at = np.asarray(copied(images, corner, u, 20, 0.2, (0.7, 1.4), 20.0), np.float64)[..., :2]
    centre = at.mean((1, 2)) - 29.5
    assert np.abs(centre).max(0).min() > 3.9
    assert np.abs(centre).max() < 4.01
    down, right = at[:, -1, 0] - at[:, 0, 0], at[:, 0, -1] - at[:, 0, 0]
    size = np.hypot(*down.T) / 19
    np.testing.assert_allclose(size, np.hypot(*right.T) / 19, rtol=1e-3)
    turn = np.degrees(np.arctan2(down[:, 1], down[:, 0]))
    np.testing.assert_allclose(np.degrees(np.arctan2(-right[:, 0], right[:, 1])), turn, atol=0.1)
    for found, low, high in ((size, 0.7, 1.4), (turn, -20, 20)):
        assert low - 0.01 < found.min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < found.max() < high + 0.01
    assert abs(np.corrcoef(size, turn)[0, 1]) < 0.2


def test_colours_are_those_of_loops():
    """Fails if contrast, saturation, value or hue are changed otherwise: by colorsys, per pixel."""
    images = photographs(4, 4)
    u = np.random.RandomState(1).rand(4, 10)
    mean = (0.5, 0.4, 0.3)
    found = recoloured(jnp.asarray(images), jnp.asarray(u, jnp.float32), 2.0, 4.0, 0.1, mean)
    basis = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
    np.testing.assert_allclose(basis @ basis.T, np.eye(3), atol=1e-12)
    for i, row in enumerate(u):
        for at in np.ndindex(4, 4):
            parts = basis @ (images[i][at] - mean) * 2 ** (2 * row[:3] - 1)
            h, s, v = colorsys.rgb_to_hsv(*np.clip(basis.T @ parts + mean, 0, 1))
            s, v = (
                np.clip(
                    (0.7 + 0.7 * row[k + 1]) * w**4 ** (2 * row[k] - 1) + 0.2 * row[k + 2] - 0.1,
                    0,
                    1,
                )
                for w, k in ((s, 4), (v, 7))
            )
            want = colorsys.hsv_to_rgb((h + 0.2 * row[3] - 0.1) % 1, s, v)
            np.testing.assert_allclose(found[i][at], want, atol=2e-4)


def test_classes_are_the_index():
    """Fails if a target is not the number of the image that is shown, a row without a seed or a
    damaged one counts, or what belongs to a row stays behind.
    """
    images, index = photographs(8), np.array([3, 9, 0, 12, 5, 1, 30, 4])
    batch = {
        "views": jnp.asarray(images[:, None]),
        "index": jnp.asarray(index, jnp.int32),
        "label": jnp.asarray(index % 3),
        "mask": jnp.asarray([1, 1, 1, 1, 0, 1, 1, 1], jnp.float32),
    }

    def done(quiz, batch):
        return compiled(jax.jit(quiz.task), batch, KEY)(batch, KEY)

    made = done(exemplar(6, 40, patch=24, **STILL), batch)
    target = np.asarray(made["target"][:, 0])
    assert set(target) == {3, 0, 1, 4}
    assert (np.asarray(made["mask"]) == 1).all()
    np.testing.assert_array_equal(made["label"], target % 3)
    for view, k in zip(np.asarray(made["views"][:, 0]), target, strict=True):
        # Factor and offset of saturation and value stay: lightness still tells the image.
        likeness = [np.corrcoef(view.max(-1).ravel(), x.max(-1).ravel())[0, 1] for x in images]
        assert index[int(np.argmax(likeness))] == k
    whole = done(exemplar(40, 40, patch=10), batch)
    np.testing.assert_array_equal(whole["target"][:, 0], index)
    np.testing.assert_array_equal(whole["mask"], batch["mask"])
    none = done(exemplar(2, 40, patch=10), {**batch, "index": batch["index"] + 9})
    assert not np.asarray(none["mask"]).any()
    with pytest.raises(ValueError, match="seeds is 41; expected 2 to the 40 images"):
        exemplar(41, 40)
    with pytest.raises(ValueError, match="patch is 25 px; expected at most image_size, 24 px"):
        exemplar(4, 4, patch=25).task(batch, KEY)
    with pytest.raises(ValueError, match=r"1 channel\(s\) have no colours"):
        exemplar(4, 4).task({"views": jnp.zeros((4, 1, 8, 8, 1))}, KEY)
