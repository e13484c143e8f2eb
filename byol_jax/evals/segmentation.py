"""How well classes of pixels are found: one confusion matrix over all images.

Shape key: K classes.
"""

from __future__ import annotations

import numpy as np

from byol_jax.evals.features import NothingToJudge


def confusion(found: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """How many pixels of each class (rows) were taken for each class (columns).

    Args:
      found: class of each pixel, 0 to K - 1, any shape.
      truth: the same shape; -1: void, does not count.
      classes: K.

    Returns:
      int64 [K, K].
    """
    known = truth >= 0
    pairs = truth[known].astype(np.int64) * classes + found[known].astype(np.int64)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def intersection_over_union(confusion_KK: np.ndarray) -> np.ndarray:
    """Per class, of its true and its found pixels [K]; NaN of a class that has neither."""
    both = np.diag(confusion_KK).astype(np.float64)
    either = confusion_KK.sum(0) + confusion_KK.sum(1) - both
    return np.divide(both, either, out=np.full(len(both), np.nan), where=either > 0)


def scores(confusion_KK: np.ndarray) -> dict[str, float]:
    """The figures of a confusion matrix.

    Args:
      confusion_KK: of `confusion`, summed over all images.

    Returns:
      {"miou": mean intersection over union, of the classes that occur or are found; "pixels": share
      of pixels that are right; "classes": mean over the classes that occur of the share of their
      pixels that are right}, in percent.

    Raises:
      NothingToJudge: no pixel counts.
    """
    of_class = confusion_KK.sum(1)
    if not of_class.sum():
        raise NothingToJudge("Every pixel of the masks is void: there is nothing to judge by.")
    right = np.diag(confusion_KK)
    occurs = of_class > 0
    return {
        "miou": 100 * float(np.nanmean(intersection_over_union(confusion_KK))),
        "pixels": 100 * float(right.sum() / of_class.sum()),
        "classes": 100 * float((right[occurs] / of_class[occurs]).mean()),
    }
