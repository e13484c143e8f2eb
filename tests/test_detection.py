"""Average precision against pycocotools' numbers and a plain loop over VOC's definition."""

import numpy as np
import pytest

from byol_jax.data.boxes import Boxes
from byol_jax.evals.detection import Found, average_precision, overlaps, scores
from byol_jax.evals.features import NothingToJudge

CLASSES = 3
NONE = Found(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0))


def drawn(seed, images=12):
    """([Found], [Boxes]) of drawn boxes: near misses, doubles, false ones, ties of scores.

    Whole numbers, which every implementation computes with alike.
    """
    random = np.random.RandomState(seed)
    found, truth = [], []
    for _ in range(images):
        n = random.randint(0, 6)
        corner, side = random.randint(0, 60, (n, 2)), random.randint(10, 50, (n, 2))
        boxes = np.concatenate([corner, corner + side], 1).astype(float)
        labels = random.randint(0, CLASSES, n)
        truth.append(Boxes(boxes, labels, random.rand(n) < 0.25))
        near = np.repeat(boxes, 3, 0) + random.randint(-5, 6, (3 * n, 4))
        m = random.randint(0, 4)
        corner, side = random.randint(0, 60, (m, 2)), random.randint(10, 50, (m, 2))
        false = np.concatenate([corner, corner + side], 1)
        boxes = np.concatenate([near, false]).astype(float)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        own = np.concatenate([np.repeat(labels, 3), random.randint(0, CLASSES, m)])
        own = np.where(random.rand(len(own)) < 0.1, (own + 1) % CLASSES, own)
        kept = random.rand(len(own)) < 0.6
        ranks = random.randint(0, 20, len(own)) / 20
        found.append(Found(boxes[kept], own[kept], ranks[kept]))
    return found, truth


def crowded():
    """One class, 130 boxes found in an image, of which COCO counts 100."""
    random = np.random.RandomState(5)
    found, truth = [], []
    for _ in range(2):
        corner = random.randint(0, 400, (40, 2))
        boxes = np.concatenate([corner, corner + random.randint(8, 40, (40, 2))], 1).astype(float)
        truth.append(Boxes(boxes, np.zeros(40, int), np.zeros(40, bool)))
        near = np.concatenate([boxes, boxes, boxes, boxes[:10]]) + random.randint(-3, 4, (130, 4))
        found.append(Found(near, np.zeros(130, int), random.permutation(130) / 130))
    return found, truth


# pycocotools 2.0.11 (PyPI), COCOeval of type bbox on these boxes: for each class the means of
# `eval["precision"][:, :, k, 0, 2]` at IoU 0.5, at 0.75, and over all ten. The area of difficult
# objects was given as 2e10, beyond its range: such are ignored (a crowd has another overlap).
OF_PYCOCOTOOLS = {
    "drawn(0)": (
        (0.482909005186, 0.038497017404, 0.171281279013),
        (0.488170023899, 0.223715228666, 0.262811580419),
        (0.537981529245, 0.033135313531, 0.148663474072),
    ),
    "drawn(1)": (
        (0.532019704433, 0.09551041311, 0.194217556238),
        (0.241224122412, 0.009900990099, 0.058871512151),
        (0.18882602546, 0.062452399086, 0.088866644906),
    ),
    "drawn(2)": (
        (0.623102310231, 0.126237623762, 0.241527779742),
        (0.591871076205, 0.067071223251, 0.242276306869),
        (0.611444379732, 0.041104110411, 0.23531007072),
    ),
    "crowded": ((0.748995285565, 0.202568457726, 0.332862858037),),
}


@pytest.mark.parametrize("name", OF_PYCOCOTOOLS)
def test_as_pycocotools(name):
    """Fails if difficult objects count, a box may be taken twice, 101 boxes count, or precision is
    not made to fall.

    On 200 draws of such boxes the two differed by at most 2e-15.
    """
    data = crowded() if name == "crowded" else drawn(int(name[6:-1]))
    want = np.array(OF_PYCOCOTOOLS[name])
    found = average_precision(*data, len(want))
    np.testing.assert_allclose(found[:, 0], want[:, 0], atol=1e-11)
    np.testing.assert_allclose(found[:, 5], want[:, 1], atol=1e-11)
    np.testing.assert_allclose(found.mean(1), want[:, 2], atol=1e-11)


def of_devkit(found, truth, label, at):
    """VOCevaldet.m and the 11 points, as a loop, in whole pixels counted from 1."""
    boxes = []
    for i, f in enumerate(found):
        for box, own, score in zip(f.boxes, f.labels, f.scores, strict=True):
            if own == label:
                boxes.append((score, i, [box[0] + 1, box[1] + 1, box[2], box[3]]))
    boxes.sort(key=lambda b: -b[0])  # stable
    objects = {}
    for i, t in enumerate(truth):
        objects[i] = [
            {"box": [b[0] + 1, b[1] + 1, b[2], b[3]], "difficult": d, "detected": False}
            for b, own, d in zip(t.boxes, t.labels, t.difficult, strict=True)
            if own == label
        ]
    positives = sum(not o["difficult"] for own in objects.values() for o in own)
    tp, fp, points = 0, 0, []
    for _, i, bb in boxes:
        most, best = 0.0, None
        for o in objects[i]:
            gt = o["box"]
            iw = min(bb[2], gt[2]) - max(bb[0], gt[0]) + 1
            ih = min(bb[3], gt[3]) - max(bb[1], gt[1]) + 1
            if iw > 0 and ih > 0:
                areas = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (bb, gt)]
                overlap = iw * ih / (sum(areas) - iw * ih)
                if overlap > most:
                    most, best = overlap, o
        if best is not None and most >= at:
            if best["difficult"]:
                continue
            if best["detected"]:
                fp += 1
            else:
                best["detected"] = True
                tp += 1
        else:
            fp += 1
        points.append((tp, tp / (tp + fp)))
    total = 0.0
    for tenths in range(11):
        total += max((p for hits, p in points if 10 * hits >= tenths * positives), default=0.0)
    return total / 11


@pytest.mark.parametrize("seed", range(5))
def test_as_vocs_devkit(seed):
    """Fails if a box looks for a free object as COCO's do, or one on a difficult object counts."""
    found, truth = drawn(seed)
    at = (0.5, 0.75)
    ours = average_precision(found, truth, CLASSES, at, voc=True)
    want = [[of_devkit(found, truth, label, t) for t in at] for label in range(CLASSES)]
    np.testing.assert_allclose(ours, want, rtol=0, atol=1e-12)
    # The two rules differ on such boxes: else this test would not tell which is used.
    assert np.abs(ours - average_precision(found, truth, CLASSES, at)).max() > 0.01


def test_eleven_points_by_hand():
    """Fails if 0.3 of all is less than 0.1 * 3, or the first term is granted.

    Ten objects. Three are found first: precision 1 at recalls 0, 0.1, 0.2, 0.3. Of no box that is
    right nothing is left.
    """
    boxes = np.array([[20.0 * i, 0, 20 * i + 10, 10] for i in range(10)])
    truth = [Boxes(boxes, np.zeros(10, int), np.zeros(10, bool))]
    order = np.linspace(1, 0.5, 3)
    found = [Found(boxes[:3], np.zeros(3, int), order)]
    assert average_precision(found, truth, 1, (0.5,), voc=True).item() == pytest.approx(4 / 11)
    missed = [Found(boxes[:3] + 300, np.zeros(3, int), order)]
    assert average_precision(missed, truth, 1, (0.5,), voc=True).item() == 0
    # COCO: 1 at recalls 0, 0.01, ..., 0.3.
    assert average_precision(found, truth, 1, (0.5,)).item() == pytest.approx(31 / 101)


def test_figures():
    """Fails if a class without objects counts as 0, thresholds are mixed up, or all is empty."""
    found, truth = drawn(0)
    by_class = scores(found, truth, CLASSES + 1)
    assert np.isnan([v[-1] for v in by_class.values()]).all()
    want = np.array(OF_PYCOCOTOOLS["drawn(0)"]) * 100
    np.testing.assert_allclose(by_class["ap50"][:-1], want[:, 0], atol=1e-9)
    np.testing.assert_allclose(by_class["ap75"][:-1], want[:, 1], atol=1e-9)
    np.testing.assert_allclose(by_class["ap"][:-1], want[:, 2], atol=1e-9)
    at75 = [100 * of_devkit(found, truth, k, 0.75) for k in range(CLASSES)]
    np.testing.assert_allclose(by_class["voc_ap75"][:-1], at75, atol=1e-9)
    nothing = scores([NONE] * len(truth), truth, CLASSES)
    assert all((v == 0).all() for v in nothing.values())
    perfect = [Found(t.boxes, t.labels, np.ones(len(t.labels))) for t in truth]
    assert all(np.allclose(v, 100) for v in scores(perfect, truth, CLASSES).values())
    hard = [t._replace(difficult=np.ones(len(t.labels), bool)) for t in truth]
    with pytest.raises(NothingToJudge, match="no object that counts"):
        scores(found, hard, CLASSES)


def test_what_is_no_box_is_refused():
    """Fails if an empty true box passes, which nothing can find, or a score that is NaN."""
    found, truth = drawn(0)
    flat = Boxes(np.array([[5.0, 5, 5, 9]]), np.zeros(1, int), np.zeros(1, bool))
    with pytest.raises(ValueError, match=r"true box of image 1 is \[5.0, 5.0, 5.0, 9.0\]"):
        average_precision([NONE] * 2, [truth[0], flat], CLASSES)
    broken = Found(np.array([[0.0, 0, 1, 1]]), np.zeros(1, int), np.array([np.nan]))
    with pytest.raises(ValueError, match="not finite"):
        average_precision([broken], truth[:1], CLASSES)
    assert overlaps(flat.boxes, flat.boxes).tolist() == [[0.0]]
    assert len(found) == len(truth)
