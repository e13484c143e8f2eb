"""Retrieval, and maps pooled to a number of values, against loops."""

import numpy as np
import pytest

from byol_jax.evals import retrieval as module
from byol_jax.evals.features import NothingToJudge
from byol_jax.evals.pooling import pooled
from byol_jax.evals.retrieval import retrieval


def loops(h, y):
    """(recalls at 1, 5, 10, mAP, the three nearest of each), one image at a time."""
    unit = h.astype(np.float64) / np.linalg.norm(h, axis=1, keepdims=True)
    recalls, precisions, nearest = [], [], []
    for i in range(len(h)):
        others = [j for j in range(len(h)) if j != i and y[j] >= 0]
        order = sorted(others, key=lambda j: -(unit[i] @ unit[j]))
        nearest.append(order[:3] if y[i] >= 0 else [-1] * 3)
        right = [y[j] == y[i] for j in order]
        if y[i] < 0 or not any(right):
            continue
        recalls.append([any(right[:k]) for k in (1, 5, 10)])
        hits = [n for n, ok in enumerate(right, 1) if ok]
        precisions.append(np.mean([found / n for found, n in enumerate(hits, 1)]))
    return (*(100 * np.mean(recalls, 0)), 100 * np.mean(precisions), nearest)


@pytest.mark.parametrize("chunk", [16, 64])
def test_retrieval_equals_the_loop(monkeypatch, chunk):
    """Fails if an image finds itself, an image without a label or of a class of one counts, chunks
    are joined wrongly, or precision is not at the ranks of the right ones.
    """
    monkeypatch.setattr(module, "CHUNK", chunk)
    random = np.random.RandomState(0)
    y = random.randint(0, 6, 45)
    h = (0.8 * random.randn(6, 4)[y] + random.randn(45, 4)).astype(np.float32)
    y[3], y[7], y[20] = 9, -1, -1
    *recalls, precision, nearest = loops(h, y)
    found, order = retrieval(h, y, shown=3)
    assert list(found) == ["recall_1", "recall_5", "recall_10", "map"]
    np.testing.assert_allclose(list(found.values()), [*recalls, precision], rtol=1e-5)
    np.testing.assert_array_equal(order, nearest)
    assert found["recall_1"] < 90


def test_broken_features_are_no_better_than_chance():
    """Fails if NaN makes an image the nearest of itself, or the result NaN."""
    y = np.arange(40) % 2
    found, _ = retrieval(np.full((40, 3), np.nan, np.float32), y)
    assert 40 < found["recall_1"] < 60
    few, order = retrieval(np.eye(3, dtype=np.float32), np.zeros(3, int), shown=4)
    assert few["map"] == 100
    assert (order[:, 2:] == -1).all()


def test_nothing_to_retrieve_is_refused():
    """Fails if a mean over nothing is reported."""
    for y in (np.arange(4), np.full(4, -1)):
        with pytest.raises(NothingToJudge, match="nothing to retrieve"):
            retrieval(np.eye(4, dtype=np.float32), y)


@pytest.mark.parametrize(
    ("side", "channels", "numbers", "expected"),
    [(7, 4, 0, 1), (7, 4, 36, 3), (5, 4, 9000, 5), (8, 2, 32, 4)],
)
def test_pooling_equals_the_loop(side, channels, numbers, expected):
    """Fails if ranges that overlap are cut elsewhere than torch's, or the axes are mixed."""
    x = np.random.RandomState(0).randn(2, 1, side, side, channels).astype(np.float32)
    want = np.zeros((2, 1, expected, expected, channels))
    for i in range(expected):
        for j in range(expected):
            rows, columns = (
                slice(k * side // expected, int(np.ceil((k + 1) * side / expected))) for k in (i, j)
            )
            want[:, :, i, j] = x[:, :, rows, columns].mean((2, 3))
    np.testing.assert_allclose(pooled(x, numbers), want.reshape(2, 1, -1), rtol=1e-5, atol=1e-6)


def test_the_papers_sizes_of_a_resnet():
    """Fails if the stages of a ResNet-50 keep another number of values than about 9,000."""
    stages = ((112, 64), (56, 256), (28, 512), (14, 1024), (7, 2048))
    sides = [round((9000 / c) ** 0.5) for _, c in stages]
    found = [pooled(np.zeros((1, 1, s, s, c), np.float32), 9000).shape[-1] for s, c in stages]
    assert sides == [12, 6, 4, 3, 2]
    assert found == [9216, 9216, 8192, 9216, 8192]
