"""Weighted nearest neighbours against a loop, and the accuracy they are judged by."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import first_devices

from byol_jax.evals import knn as knn_module
from byol_jax.evals.features import extract, pixels, topk_accuracy
from byol_jax.evals.knn import knn, neighbours

CLASSES = 7


def clouds(n, seed, dim=5):
    """Features of overlapping classes, and their labels."""
    random = np.random.RandomState(seed)
    labels = random.randint(0, CLASSES, n)
    centres = np.random.RandomState(99).randn(CLASSES, dim)
    return (centres[labels] + 0.8 * random.randn(n, dim)).astype(np.float32), labels


def knn_loops(train_h, train_y, test_h, test_y, k, t):
    """Votes of exp(cosine / t) from the k nearest, one test row at a time: (top-1, top-5)."""
    unit = [
        h.astype(np.float64) / np.linalg.norm(h, axis=1, keepdims=True) for h in (train_h, test_h)
    ]
    hits1 = hits5 = 0
    for x, y in zip(unit[1], test_y, strict=True):
        cosines = [float(x @ other) for other in unit[0]]
        nearest = sorted(range(len(cosines)), key=lambda i: -cosines[i])[:k]
        votes = [0.0] * CLASSES
        for i in nearest:
            votes[train_y[i]] += math.exp(cosines[i] / t)
        order = sorted(range(CLASSES), key=lambda c: -votes[c])
        hits1 += order[0] == y
        hits5 += y in order[:5] and votes[y] > 0
    return 100 * hits1 / len(test_y), 100 * hits5 / len(test_y)


@pytest.mark.parametrize(("k", "t"), [(1, 0.07), (12, 0.07), (12, 10.0)])
def test_knn_equals_the_loop(monkeypatch, k, t):
    """Fails if votes are not weighted, features not normalised, or chunks are joined wrongly."""
    monkeypatch.setattr(knn_module, "CHUNK", 16)
    train, test = clouds(150, 0), clouds(50, 1)
    scale = np.random.RandomState(2).rand(150, 1).astype(np.float32) + 0.1
    found = knn(train[0] * scale, train[1], *test, classes=CLASSES, k=k, temperature=t)
    top1, top5 = knn_loops(*train, *test, k, t)
    assert found == {"top1": pytest.approx(top1), "top5": pytest.approx(top5), "k": k}
    assert 30 < top1 < 100  # neither chance nor perfect: mistakes would show


def test_the_temperature_matters():
    """Fails if every neighbour's vote counts the same."""
    train, test = clouds(150, 0), clouds(200, 1)
    cold, warm = (
        knn(*train, *test, classes=CLASSES, k=15, temperature=t)["top1"] for t in (0.02, 10.0)
    )
    assert cold != warm


def test_a_very_low_temperature_is_the_nearest_neighbour():
    """Fails if exp(1 / t) overflows: all would tie at infinity."""
    train, test = clouds(150, 0), clouds(50, 1)
    low = knn(*train, *test, classes=CLASSES, k=15, temperature=0.001)
    assert low["top1"] == knn(*train, *test, classes=CLASSES, k=1)["top1"]


@pytest.mark.parametrize(
    ("k", "n", "expected"),
    [(200, 10_000, 200), (200, 1500, 30), (200, 500, 20), (200, 9, 1), (1, 50, 1)],
)
def test_k_shrinks_for_small_sets(k, n, expected):
    """Fails if k is more than 2% of a training set, 20 or a tenth of a small one, or 0."""
    assert neighbours(k, n) == expected


def test_unlabelled_rows_neither_vote_nor_count():
    """Fails if label -1 votes for the last class, takes a neighbour's place, or is tested."""
    train, test = clouds(150, 0), clouds(50, 1)
    expected = knn(*train, *test, classes=CLASSES, k=12)
    more_h = np.concatenate([test[0], train[0]])  # nearer than any: the test rows themselves
    more_y = np.concatenate([np.full(50, -1), train[1]])
    again_h, again_y = (
        np.concatenate([test[0], test[0]]),
        np.concatenate([test[1], np.full(50, -1)]),
    )
    assert knn(more_h, more_y, again_h, again_y, classes=CLASSES, k=12) == expected


def test_topk_by_hand():
    """Fails if ranks are off by one, or ties are given away."""
    scores = np.zeros((4, 6))
    scores[0, 2] = 1.0  # right at once
    scores[1] = [5, 4, 3, 2, 1, 0]  # its class comes fifth
    scores[2] = [5, 4, 3, 2, 1, 0]  # its class comes sixth
    labels = np.array([2, 4, 5, 0])  # the last: all equal, which is no answer
    assert topk_accuracy(scores, labels) == {"top1": 25.0, "top5": 50.0}
    assert "top5" not in topk_accuracy(scores[:, :5], np.array([2, 4, 0, 0]))


@pytest.mark.parametrize(
    "scores", [np.full((4, 7), np.nan), np.zeros((4, 7)), np.full((4, 7), np.inf)]
)
def test_constant_or_broken_scores_are_wrong(scores):
    """Fails if NaN compares its way to 100 %."""
    assert topk_accuracy(scores, np.arange(4)) == {"top1": 0.0, "top5": 0.0}


def batches():
    """Two batches of 8, with padding (index -1) and an unreadable image (index 6)."""
    images = np.arange(16, dtype=np.float32).reshape(2, 8, 1, 1, 1, 1)
    index = np.arange(16, dtype=np.int32).reshape(2, 8)
    mask = np.ones((2, 8), np.float32)
    mask[0, 6] = 0
    mask[1, 5:], index[1, 5:] = 0, -1
    label = (index % 3).astype(np.int32)
    for i in (0, 1):
        yield {"views": images[i], "index": index[i], "mask": mask[i], "label": label[i]}


def test_extract_keeps_order_and_leaves_masked_rows_out():
    """Fails if padding is evaluated, rows are shuffled, or the damaged are not counted."""
    found = extract(
        lambda w, x: {"h": w * x[..., 0, 0, 0].astype(jnp.float32)[..., None]},
        jnp.full((1, 1, 1), 2.0),
        batches(),
        first_devices(8),
    )
    kept = np.array([0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12])
    np.testing.assert_array_equal(found.outputs["h"][:, 0], 2 * kept)
    np.testing.assert_array_equal(found.labels, kept % 3)
    np.testing.assert_array_equal(found.damaged, [6])
    np.testing.assert_array_equal(pixels(batches()).outputs["h"][:, 0], kept)
    with pytest.raises(ValueError, match="no images"):
        extract(lambda w, x: {"h": x}, 0, [], first_devices(1))
