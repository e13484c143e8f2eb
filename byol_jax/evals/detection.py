"""How well objects are found: average precision as COCO and as VOC 2007 define it.

Two boxes overlap by the share of their common area in the area that either covers (IoU). Found
boxes are taken by falling score; one is right if it overlaps a true box of its class, which no
earlier one has taken, by at least a threshold. Difficult objects do not count: not as missed, and
neither does what finds them as right or wrong.

Shape key: N true boxes, M found boxes, K classes, T thresholds.

Reference: cocodataset/cocoapi:PythonAPI/pycocotools/cocoeval.py; VOC 2007's devkit, VOCevaldet.m.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from byol_jax.data.boxes import Boxes
from byol_jax.evals.features import NothingToJudge
from byol_jax.evals.multilabel import eleven_points

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""COCO's overlaps: 0.5, 0.55, ..., 0.95."""
MOST = 100
"""Boxes of a class in an image that count, those of the highest scores, as in COCO."""
_RECALLS = np.linspace(0, 1, 101)


class Found(NamedTuple):
    """What was found in an image.

    boxes: [M, 4], left, top, right, bottom, px. labels: [M], 0 to K - 1. scores: [M].
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


class _Ranked(NamedTuple):
    """All found boxes of a class by falling score: right and counting, [M] bool; and N to find."""

    right: np.ndarray
    counts: np.ndarray
    true: int


def overlaps(a_N4: np.ndarray, b_M4: np.ndarray) -> np.ndarray:
    """Intersection over union of each pair of boxes, [N, M]; 0 where both are empty."""
    a, b = (np.asarray(x, np.float64).reshape(-1, 4) for x in (a_N4, b_M4))
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.clip(high - low, 0, None).prod(-1)
    areas = [np.clip(x[:, 2:] - x[:, :2], 0, None).prod(-1) for x in (a, b)]
    either = areas[0][:, None] + areas[1][None] - both
    return np.divide(both, either, out=np.zeros_like(both), where=either > 0)


def _coco_match(iou_MN: np.ndarray, difficult_N: np.ndarray, at: float) -> tuple[list, list]:
    """(right, counts) of the found boxes of an image, by falling score.

    A box takes the true box that it overlaps most, of those that are free; a difficult one only if
    no other is left.
    """
    taken = np.zeros(len(difficult_N), bool)
    right, counts = [], []
    for row in iou_MN:
        best = None
        for group in (~difficult_N, difficult_N):
            free = np.flatnonzero(group & ~taken & (row >= min(at, 1 - 1e-10)))
            if len(free):
                # The last of equals, as COCO's loop finds it.
                best = free[::-1][row[free[::-1]].argmax()]
                taken[best] = True
                break
        right.append(best is not None)
        counts.append(best is None or not difficult_N[best])
    return right, counts


def _voc_match(iou_MN: np.ndarray, difficult_N: np.ndarray, at: float) -> tuple[list, list]:
    """The same by VOC's rule: a box stands for the true box that it overlaps most, taken or not.

    A second box for the same object is wrong; any number of them for a difficult one do not count.
    """
    taken = np.zeros(len(difficult_N), bool)
    right, counts = [], []
    for row in iou_MN:
        best = int(row.argmax()) if len(row) else -1
        hit = best >= 0 and row[best] >= at
        right.append(bool(hit and not taken[best]))
        counts.append(not (hit and difficult_N[best]))
        if hit:
            taken[best] = True
    return right, counts


def _ranked(
    found: Sequence[Found],
    truth: Sequence[Boxes],
    label: int,
    at: Sequence[float],
    match: Callable[[np.ndarray, np.ndarray, float], tuple[list, list]],
    most: int | None,
) -> list[_Ranked]:
    """The found boxes of a class in all images, in one order, for each threshold."""
    scores: list[np.ndarray] = []
    matched: list[list[tuple[list, list]]] = [[] for _ in at]
    true = 0
    for f, t in zip(found, truth, strict=True):
        own, real = f.labels == label, t.labels == label
        true += int((real & ~t.difficult).sum())
        if not own.any():
            continue
        order = np.argsort(-f.scores[own], kind="stable")[:most]
        scores.append(f.scores[own][order])
        iou_MN = overlaps(f.boxes[own][order], t.boxes[real])
        for here, threshold in zip(matched, at, strict=True):
            here.append(match(iou_MN, t.difficult[real], threshold))
    order = np.argsort(-np.concatenate([*scores, np.zeros(0)]), kind="stable")
    ranked = []
    for here in matched:
        right, counts = (np.array([x for m in here for x in m[i]], bool)[order] for i in (0, 1))
        ranked.append(_Ranked(right, counts, true))
    return ranked


def _curve(ranked: _Ranked) -> tuple[np.ndarray, np.ndarray]:
    """(how many are found, precision) after each box that counts."""
    right = ranked.right[ranked.counts]
    hits = right.cumsum()
    return hits, hits / np.arange(1, len(right) + 1)


def _coco_area(ranked: _Ranked) -> float:
    """Precision, not rising with recall, at recalls 0, 0.01, ..., 1: the mean."""
    hits, precision = _curve(ranked)
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(hits / ranked.true, _RECALLS, side="left")
    return float(np.append(falling, 0.0)[np.minimum(places, len(falling))].mean())


def _voc_area(ranked: _Ranked) -> float:
    return eleven_points(*_curve(ranked), ranked.true)


def average_precision(
    found: Sequence[Found],
    truth: Sequence[Boxes],
    classes: int,
    thresholds: Sequence[float] = tuple(THRESHOLDS),
    *,
    voc: bool = False,
) -> np.ndarray:
    """Average precision by class and threshold.

    Args:
      found: of each image.
      truth: of the same images.
      classes: K.
      thresholds: on the overlap.
      voc: the 11 points and the matching of VOC 2007, all boxes counting; else COCO's 101 points
        and matching, on the `MOST` best boxes of a class in an image.

    Returns:
      [K, T], 0 to 1; NaN of a class without an object that is not difficult.

    Raises:
      ValueError: a true box is empty, or a number is not finite.
    """
    _check(found, truth)
    match, area = (_voc_match, _voc_area) if voc else (_coco_match, _coco_area)
    out = np.full((classes, len(thresholds)), np.nan)
    for label in range(classes):
        ranked = _ranked(found, truth, label, thresholds, match, None if voc else MOST)
        if ranked[0].true:
            out[label] = [area(r) for r in ranked]
    return out


def _check(found: Sequence[Found], truth: Sequence[Boxes]) -> None:
    for i, (f, t) in enumerate(zip(found, truth, strict=True)):
        empty = ~(t.boxes[:, 2:] > t.boxes[:, :2]).all(1)
        if empty.any():
            raise ValueError(
                f"A true box of image {i} is {t.boxes[empty][0].tolist()}; expected left < right "
                "and top < bottom: leave it out."
            )
        if not (np.isfinite(f.boxes).all() and np.isfinite(f.scores).all()):
            raise ValueError(f"A found box of image {i} or its score is not finite.")


def scores(found: Sequence[Found], truth: Sequence[Boxes], classes: int) -> dict[str, np.ndarray]:
    """The figures that papers give, by class.

    Args:
      found: of each image.
      truth: of the same images.
      classes: K.

    Returns:
      {name: [K]}, in percent, NaN of a class without an object: `ap50`, `ap75` and `ap` (the mean
      over `THRESHOLDS`) as COCO's, `voc_ap50`, `voc_ap75` and `voc_ap` with VOC's 11 points.

    Raises:
      NothingToJudge: no object counts.
    """
    figures: dict[str, np.ndarray] = {}
    for prefix, voc in (("", False), ("voc_", True)):
        ap_KT = 100 * average_precision(found, truth, classes, voc=voc)
        if np.isnan(ap_KT).all():
            raise NothingToJudge("The test images have no object that counts.")
        columns = {"ap50": ap_KT[:, 0], "ap75": ap_KT[:, 5], "ap": ap_KT.mean(1)}
        figures |= {prefix + name: column for name, column in columns.items()}
    return figures
