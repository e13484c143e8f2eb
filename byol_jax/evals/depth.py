"""How well depths are found: averages over all pixels, and over images.

Shape key: N images, H W pixels.
"""

from __future__ import annotations

import numpy as np

from byol_jax.evals.features import NothingToJudge

LEAST = 1e-3  # m; found depths below it are taken as this


def sums(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """What the figures of one image are made of.

    Args:
      found: depths in metres.
      truth: the same shape, in metres; 0 where not known.

    Returns:
      float64 [6]: the number of known pixels, and the sums over them of the indicators of
      max(found / truth, truth / found) < 1.25, 1.25^2, 1.25^3, of (found - truth)^2 and of
      |found - truth| / truth.
    """
    known = truth > 0
    t, f = truth[known].astype(np.float64), found[known].astype(np.float64)
    f = np.maximum(f, LEAST)
    ratio = np.maximum(f / t, t / f)
    hits = [(ratio < 1.25**i).sum() for i in (1, 2, 3)]
    return np.array([len(t), *hits, ((f - t) ** 2).sum(), (np.abs(f - t) / t).sum()], np.float64)


def scores(sums_N6: np.ndarray) -> tuple[dict[str, float], dict[str, float]]:
    """The figures over all pixels, and the means of the images' own figures.

    Args:
      sums_N6: of `sums`, one row per image; images without a known pixel do not count.

    Returns:
      (per pixel, per image), each {"delta1", "delta2", "delta3": percent of the pixels within 1.25,
      1.25^2, 1.25^3; "rms": metres; "rel": mean absolute relative error}.

    Raises:
      NothingToJudge: no pixel counts.

    Reference: Eigen et al. 2014; Laina et al. 2016.
    """
    sums_N6 = sums_N6[sums_N6[:, 0] > 0]
    if not len(sums_N6):
        raise NothingToJudge("No depth is known (0 everywhere): there is nothing to judge by.")
    return _figures(sums_N6.sum(0, keepdims=True)), _figures(sums_N6)


def _figures(sums_N6: np.ndarray) -> dict[str, float]:
    means = sums_N6[:, 1:] / sums_N6[:, :1]
    means[:, 3] = np.sqrt(means[:, 3])
    names = ("delta1", "delta2", "delta3", "rms", "rel")
    factors = (100, 100, 100, 1, 1)
    return {n: f * float(v) for n, f, v in zip(names, factors, means.mean(0), strict=True)}
