"""Images with several labels: VOC's form, one class against the rest, 11-point mAP."""

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression

from byol_jax.data.opening import open_source
from byol_jax.data.source import Source
from byol_jax.data.voc import read_objects
from byol_jax.evals.features import Extracted, NothingToJudge
from byol_jax.evals.multilabel import ap11, choose_each, judge_each, one_vs_rest
from byol_jax.experiment.transfer import _held


def loop_ap(scores, marks):
    """VOCevalcls.m, line by line, in percent."""
    pairs = sorted(((s, m) for s, m in zip(scores, marks, strict=True) if m >= 0), reverse=True)
    total, right, curve = sum(m == 1 for _, m in pairs), 0, []
    for i, (_, mark) in enumerate(pairs):
        right += mark == 1
        curve.append((right / total, right / (i + 1)))
    ap = 0.0
    for t in range(11):
        ap += max([p for r, p in curve if r >= t / 10 - 1e-9], default=0) / 11
    return 100 * ap


def test_average_precision_by_hand_and_by_a_loop():
    """Fails if difficult objects count as negatives, a recall of 3/10 is missed by rounding, the
    first of the 11 points is always granted, or equal scores are in an order of their own.
    """
    # Ranked: difficult, no, yes, no, yes, yes; precisions 1/2, 1/2, 3/5 at recalls 1/3, 2/3, 1.
    marks = np.array([-1, 0, 1, 0, 1, 1])
    assert ap11(np.arange(6)[::-1] / 10, marks) == pytest.approx(60)
    # Ten of each in turns, the positives first: precision r / (2 r - 1) at recall r / 10.
    turns = np.tile([1, 0], 10)
    expected = [1, *(r / (2 * r - 1) for r in range(1, 11))]
    assert ap11(-np.arange(20.0), turns) == pytest.approx(100 * np.mean(expected))
    random = np.random.RandomState(0)
    for n in (5, 40, 200):
        marks = random.choice([-1, 0, 1], n, p=[0.2, 0.5, 0.3])
        marks[0] = 1
        scores = random.permutation(n) + 0.5 * marks
        assert ap11(scores, marks) == pytest.approx(loop_ap(scores, marks))
    marks = np.array([1, 0, 0, -1, 0])
    for broken in (np.zeros(5), np.full(5, np.nan)):
        assert ap11(broken, marks) == pytest.approx(25)
    assert np.isnan(ap11(np.zeros(3), np.array([0, -1, 0])))


def examples(n, seed):
    """Features, and marks of three classes that overlap and occur together."""
    random = np.random.RandomState(seed)
    h = (random.randn(n, 5) * np.geomspace(0.3, 3, 5) + 1).astype(np.float32)
    z = h @ np.random.RandomState(9).randn(5, 3) + random.randn(n, 3)
    marks = (z > np.median(z, 0)).astype(np.int8)
    marks[random.rand(n, 3) < 0.15] = -1
    return h, marks


def objective(w, b, h, positive, penalty):
    z = (h.astype(np.float64) @ w + b) * (2 * positive - 1)
    return (np.logaddexp(0, -z).sum() + penalty / 2 * (w**2).sum()) / len(h)


@pytest.mark.usefixtures("quick")
def test_each_class_has_scikit_learns_optimum_and_the_penalty_is_chosen_by_map():
    """Fails if the penalty is twice or half of what it says, a difficult example counts, the bias
    is penalised, or the penalty is chosen on examples that were trained on.
    """
    h, marks = examples(90, 0)
    fit, last = one_vs_rest(h, marks), None
    for penalty in (1e4, 3.0, 1e-2, 1e-4):
        last, total = fit(penalty, last.linear if last else None), 0.0
        assert last.converged
        for k in range(3):
            some = marks[:, k] >= 0
            x, y = h[some], marks[some, k] == 1
            model = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=20000)
            model.fit(x.astype(np.float64), y)
            best = objective(model.coef_[0], model.intercept_[0], x, y, penalty)
            own = np.float64(last.linear.kernel[:, k]), np.float64(last.linear.bias[k])
            np.testing.assert_allclose(objective(*own, x, y, penalty), best, rtol=1e-5)
            total += best / 3
        np.testing.assert_allclose(last.value, total, rtol=1e-5)
    held = np.arange(90) % 3 == 0
    chosen = choose_each(h, marks, held=held, count=4)
    fit, last, found = one_vs_rest(h[~held], marks[~held]), None, []
    for penalty in np.geomspace(1e5, 1e-6, 4):
        last = fit(penalty, last.linear if last else None)
        scores = h[held] @ last.linear.kernel + last.linear.bias
        found.append(np.mean([loop_ap(s, m) for s, m in zip(scores.T, marks[held].T, strict=True)]))
    assert chosen.accuracy == pytest.approx(max(found))
    assert chosen.fit.penalty == pytest.approx(np.geomspace(1e5, 1e-6, 4)[np.argmax(found)])
    assert judge_each(chosen.fit.linear, h, marks).mean() > 80
    with pytest.raises(NothingToJudge, match=r"30 of 90 training images are held out.*val\.txt"):
        choose_each(h, np.ones_like(marks), held=held)


def annotation(objects):
    parts = "".join(
        f"<object><name>{name}</name><part><name>head</name></part>"
        f"<difficult>{int(difficult)}</difficult></object>"
        for name, difficult in objects
    )
    return f"<annotation><size><width>8</width></size>{parts}</annotation>"


def voc(folder, train=12, test=8):
    """A folder of VOC's form: a bright image has a sun, a reddish one a rose, every third both."""
    random = np.random.RandomState(0)
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    marks = []
    for i in range(train + test):
        sun, rose = i % 2 == 0, i % 3 == 0
        pixels = random.randint(0, 80, (8, 8, 3)) + 100 * sun + [60 * rose, 0, 0]
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"JPEGImages/{i:03}.jpg")
        objects = [("sun", False)] * sun + [("rose", False), ("rose", True)] * rose
        if i % 5 == 1 and not sun:
            objects.append(("sun", True))
        marks.append([int(rose), 1 if sun else -int(("sun", True) in objects)])
        (folder / f"Annotations/{i:03}.xml").write_text(annotation(objects))
    names = [f"{i:03}" for i in range(train + test)]
    main = folder / "ImageSets/Main"
    for part, ids in (("trainval", names[:train]), ("test", names[train:]), ("val", names[:6])):
        (main / f"{part}.txt").write_text("".join(f"{n}\n" for n in ids))
    return np.array(marks)


def test_vocs_form_is_read_from_annotations_and_from_lists(tmp_path):
    """Fails if "difficult" is lost, a part of an object is one, 0 and -1 of lists are mixed up, or
    what is wrong is not told.
    """
    marks = voc(tmp_path)
    sources = [open_source("voc", str(tmp_path), part) for part in ("train", "test")]
    np.testing.assert_array_equal(np.concatenate([s.marks for s in sources]), marks)
    assert sources[0].class_names == ("rose", "sun")
    assert (sources[0].held.sum(), sources[1].held, sources[0].classes) == (6, None, 0)
    assert list(sources[0].take(np.array([3, 7])).marks[:, 1]) == list(marks[[3, 7], 1])
    main = tmp_path / "ImageSets/Main"
    for part, rows in (("trainval", range(12)), ("test", range(12, 20))):
        for k, name in enumerate(("rose", "sun")):
            said = {1: " 1", 0: "-1", -1: " 0"}
            lines = [f"{i:03} {said[marks[i, k]]}\n" for i in rows]
            (main / f"{name}_{part}.txt").write_text("".join(lines))
        (main / f"{part}.txt").unlink()
    (tmp_path / "Annotations/000.xml").unlink()
    for part, before in zip(("train", "test"), sources, strict=True):
        found = open_source("voc", str(tmp_path), part)
        np.testing.assert_array_equal(found.marks, before.marks)
        assert list(found.paths) == list(before.paths)
    (main / "sun_test.txt").write_text("012 2\n")
    with pytest.raises(ValueError, match="has the line '012 2'; expected an image and -1, 0 or 1"):
        open_source("voc", str(tmp_path), "test")
    for file in main.glob("*_*.txt"):
        file.unlink()
    with pytest.raises(ValueError, match=r"no image in test\.txt and no lists CLASS_test\.txt"):
        open_source("voc", str(tmp_path), "test")
    (main / "trainval.txt").write_text("../x\n")
    with pytest.raises(ValueError, match=r"names the image '\.\./x'; expected the name of a file"):
        open_source("voc", str(tmp_path), "train")
    (main / "trainval.txt").write_text("000\n")
    with pytest.raises(ValueError, match=r"000\.xml cannot be read .*expected an annotation"):
        open_source("voc", str(tmp_path), "train")
    with pytest.raises(ValueError, match=r"is not a folder of VOC's form; expected data\.dir"):
        open_source("voc", str(main), "train")
    typed = "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>"
    for text, why in ((typed, "document type"), ("<a><object/></a>", "no name"), ("<a>", "no XML")):
        for encoding in ("utf-8", "utf-16"):
            with pytest.raises(ValueError, match=why):
                read_objects(text.encode(encoding))


def test_the_validation_part_is_the_official_one_or_a_share():
    """Fails if an image that cannot be read moves the others."""
    marks = np.zeros((3, 1), np.int8)
    source = Source("x", 3, 3, marks=marks, held=np.array([True, False, True]))
    read = Extracted({}, np.zeros(2), np.zeros(0), rows=np.array([1, 2]))
    assert list(_held(source, read, 0.5, 0)) == [False, True]
    assert _held(Source("x", 3, 3, marks=marks), read, 0.5, 0).sum() == 1
