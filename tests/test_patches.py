"""Principal components and nearest patches of maps, and the protocol that shows them."""

import json

import jax
import numpy as np
import pytest
from conftest import compiled
from matplotlib.image import imread
from sklearn.decomposition import PCA
from test_elsewhere import exported, to_judge
from test_results import one_device  # noqa: F401

from byol_jax.convert.native import save_encoder
from byol_jax.evals import patches as module
from byol_jax.evals.patches import as_colours, chance, components, nearest, same_class
from byol_jax.evaluate import evaluate, table

VIT = {"name": "vit_tiny", "dim": 16, "depth": 2, "heads": 2, "patch": 4, "image_size": 8}


@pytest.mark.parametrize("shape", [(40, 7), (12, 30)])
def test_components_are_scikit_learns(shape):
    """Fails if features are not centred, components are in another order, or signs arbitrary."""
    random = np.random.RandomState(0)
    x = (random.randn(*shape) * np.linspace(1, 3, shape[1]) + 5).astype(np.float32)
    scores, share = components(x)
    model = PCA(3, svd_solver="full").fit(x.astype(np.float64))
    expected = model.transform(x.astype(np.float64))
    signs = np.sign((scores * expected).sum(0))
    np.testing.assert_allclose(scores * signs, expected, atol=1e-6)
    assert share == pytest.approx(100 * model.explained_variance_ratio_.sum())
    assert (scores.max(0) == np.abs(scores).max(0)).all()


def test_components_of_little():
    """Fails if features that are all alike, or of two numbers, end in NaN or an error."""
    scores, share = components(np.ones((5, 4), np.float32))
    assert (np.abs(scores).max(), share, as_colours(scores).tolist()) == (0, 100, [[0.5] * 3] * 5)
    scores, share = components(np.random.RandomState(0).randn(9, 2))
    assert scores.shape == (9, 3)
    assert share == pytest.approx(100)
    colours = as_colours(np.column_stack([np.arange(101.0), np.arange(101.0), np.zeros(101)]))
    np.testing.assert_allclose(colours[[0, 2, 50, 98, 100], 0], [0, 0, 0.5, 1, 1])


@pytest.mark.parametrize("most", [1, 100, 10**6])
def test_nearest_patches_equal_the_loop(monkeypatch, most):
    """Fails if a patch finds its own image or an image twice, parts are joined wrongly, or a
    product is taken for a cosine.
    """
    monkeypatch.setattr(module, "AT_ONCE", most)
    random = np.random.RandomState(0)
    x = random.randn(6, 5, 4).astype(np.float32)
    x *= random.uniform(0.1, 9, (6, 5, 1))
    asking = np.array([0, 29, 7, 8, 13])
    expected = []
    for at in asking:
        own, best = x[at // 5, at % 5], []
        for image in set(range(6)) - {at // 5}:
            cosines = [own @ y / np.linalg.norm(own) / np.linalg.norm(y) for y in x[image]]
            best.append((max(cosines), 5 * image + int(np.argmax(cosines))))
        expected.append([position for _, position in sorted(best, reverse=True)[:3]])
    np.testing.assert_array_equal(nearest(x, asking, 3), expected)
    labels = np.repeat([0, 1, 1, 0, -1, 2], 5)
    found = np.array([15, 16, 8, 22, 6])
    assert same_class(found, np.array([0, 5, 10, 11, 24]), labels) == pytest.approx(200 / 3)
    assert np.isnan(same_class(found[3:4], np.array([11]), labels))
    pairs = [(a == b) for i, a in enumerate(labels[::5]) for j, b in enumerate(labels[::5])
             if i != j and min(a, b) >= 0]  # fmt: skip
    assert chance(labels[::5]) == pytest.approx(100 * np.mean(pairs))


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """An export of a transformer for images of 8 px, and its parts."""
    return exported(tmp_path_factory.mktemp("vit") / "export", save_encoder, maps=1, **VIT)


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """A file of images of 16 px without labels."""
    x = np.random.RandomState(0).randint(0, 255, (12, 16, 16, 3)).astype(np.uint8)
    path = tmp_path_factory.mktemp("noise") / "x.npz"
    np.savez(path, x_train=x[:4], x_test=x[4:])
    return path, x[4:]


@pytest.mark.usefixtures("quick")
def test_patches_by_command(tmp_path, vit, noise):
    """Fails if labels are needed, the size is not the one asked for, or a picture is missing."""
    folder, (encoder, params, stats) = vit
    path, images = noise
    config = to_judge(path, patches_size=16, patches_images=6)
    result = evaluate(None, "patches", config, tmp_path, encoder=folder)
    assert json.loads((tmp_path / "patches.json").read_text()) == result
    assert (result["test_images"], result["side"], result["positions"]) == (6, 16, [4, 4])
    assert list(result["rows"]) == ["raw pixels", "untrained encoder", "simclr"]
    taken = np.sort(np.random.RandomState(0).permutation(8)[:6])
    x = ((images[taken, None] / np.float32(255) - 0.4) / 0.2).astype(np.float32)
    last = compiled(jax.jit(encoder.apply, static_argnums=3), params, stats, x, False)
    features = np.asarray(last(params, stats, x)[0].maps[-1]).reshape(-1, 16)
    model = PCA(3).fit(features)
    share = 100 * model.explained_variance_ratio_.sum()
    assert result["rows"]["simclr"] == {"variance_3": pytest.approx(share, rel=1e-3)}
    assert "variance_3" in table("patches", result)
    # Rows of the first: image, PCA twice, attention twice and of 2 heads; of the other: the patch
    # that asks, and 4 for either encoder.
    drawn = [imread(tmp_path / f"{name}.png") for name in ("patches", "nearest_patches")]
    assert [x.shape[:2] for x in drawn] == [(945, 840), (1215, 840)]
    assert all(x[:, :2].min() == 1 for x in drawn)  # titles are not cut off


def test_a_size_that_patches_do_not_cover_is_refused(tmp_path, vit, noise):
    """Fails if it is an error of a reshape, or a part of the result is written."""
    config = to_judge(noise[0], patches_size=10)
    with pytest.raises(ValueError, match=r"^eval\.patches_size is 10, which cannot be divided"):
        evaluate(None, "patches", config, tmp_path / "out", encoder=vit[0])
    assert list((tmp_path / "out").iterdir()) == []
