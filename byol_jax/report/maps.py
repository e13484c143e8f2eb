"""Charts of embeddings: maps of h and z, the confusion matrix, colours of two crops."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from byol_jax.report.charts import Chart, chart, plain_text

NEIGHBOURS = 30.0  # t-SNE's perplexity; fewer of few images
NAMED = 20  # classes that a legend can hold
BINS = 32


def maps(name: str, h: np.ndarray, z: np.ndarray | None, labels: np.ndarray, names: Any) -> Chart:
    """PCA and t-SNE of h [N, D], and of z [N, D'] beside it, coloured by class.

    Args:
      name: of the file.
      h, z: l2-normalised here, as kNN compares them; rows that are not finite are left out.
      labels: [N].
      names: of the classes.
    """
    found = []
    for title, x in (("h, the features", h), ("z, the projections", z)):
        if x is not None:
            good = np.isfinite(x).all(1)
            found.append((title, labels[good], *_planes(x[good].astype(np.float64))))

    def draw(figure: Any, colours: Sequence[str]) -> None:
        from matplotlib import colormaps

        del colours
        axes = figure.subplots(2, len(found), squeeze=False)
        palette = colormaps["tab10" if len(names) <= 10 else "tab20" if len(names) <= 20 else "hsv"]
        share = 1 / (10 if len(names) <= 10 else NAMED if len(names) <= NAMED else len(names))
        for column, (title, classes, *planes) in enumerate(found):
            for ax, how, plane in zip(axes[:, column], ("PCA", "t-SNE"), planes, strict=True):
                ax.scatter(*plane.T, s=7, c=palette((classes + 0.5) * share), linewidths=0)
                ax.set(xticks=[], yticks=[], title=f"{how} of {title}")
                ax.grid(visible=False)
        if len(names) <= NAMED:
            from matplotlib.lines import Line2D

            dots = [
                Line2D(
                    [],
                    [],
                    marker="o",
                    linestyle="",
                    label=plain_text(n),
                    color=palette((i + 0.5) * share),
                )
                for i, n in enumerate(names)
            ]
            figure.legend(handles=dots, loc="outside lower center", ncols=5, fontsize=8)

    words = "PCA above and t-SNE below, a point per test image, coloured by class"
    return chart(name, "Maps of the embeddings", words, (3.4 * len(found), 6.6), draw)


def _planes(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first two principal components [N, 2] of normalised rows, and their t-SNE [N, 2]."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    x = x - x.mean(0) if len(x) else x
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    pca = np.zeros((len(x), 2))
    pca[:, : min(2, len(s))] = (u * s)[:, :2]
    if len(x) < 4 or s[0] < 1e-6:  # too few, or all the same
        return pca, np.zeros_like(pca)
    perplexity = min(NEIGHBOURS, (len(x) - 1) / 3)
    start = 1e-4 * pca / pca[:, 0].std()
    # One thread: on cores that others use too, OpenMP's threads spend ten times as long waiting.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of collapsed embeddings
        model = TSNE(init=start, perplexity=perplexity, random_state=0)
        return pca, model.fit_transform((u * s)[:, :50])


def confusion_counts(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """How many images [K, K] of each class (row) were taken for each class (column).

    Args:
      labels: [N]; -1 does not count.
      predicted: [N], 0 to K - 1.
      classes: K.
    """
    known = labels >= 0
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels[known], predicted[known]), 1)
    return counts


def confusion(name: str, counts: np.ndarray, names: Sequence[str]) -> Chart:
    """The confusion matrix [K, K] as shares of each class's images."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    few = len(counts) <= NAMED

    def draw(figure: Any, colours: Sequence[str]) -> None:
        del colours
        ax = figure.subplots()
        picture = ax.imshow(100 * shares, "Blues", vmin=0, vmax=100)
        ax.set(xlabel="taken for", ylabel="class")
        if few:
            ticks = np.arange(len(counts))
            ax.set_xticks(ticks, [plain_text(n) for n in names], rotation=90 if _long(names) else 0)
            ax.set_yticks(ticks, [plain_text(n) for n in names])
            for (i, j), count in np.ndenumerate(counts):
                ink = "white" if shares[i, j] > 0.5 else "#1f2328"
                if count:
                    ax.text(j, i, str(count), ha="center", va="center", fontsize=8, color=ink)
        figure.colorbar(picture, ax=ax, shrink=0.8, label="% of the class")

    side = 5.2 if len(counts) <= 12 else 7.0
    words = "how many test images of each class (rows) kNN takes for each class (columns)"
    return chart(name, "Confusion matrix of kNN", words, (side, side * 0.85), draw)


def _long(names: Sequence[str]) -> bool:
    return max((len(n) for n in names), default=0) > 3


class Overlap(NamedTuple):
    """Mean overlap of the histograms of two crops, in percent, of the same and of other images."""

    same: float
    other: float


def histograms(crops: np.ndarray) -> np.ndarray:
    """Histograms of the values of crops [..., S, S, C] in 0..1, all channels together.

    Returns:
      [..., BINS], each of sum 1.
    """
    flat = crops.reshape(*crops.shape[:-3], -1)
    bins = np.minimum((flat * BINS).astype(np.int32), BINS - 1)
    return np.stack([(bins == b).mean(-1) for b in range(BINS)], -1)


def overlap(pairs: np.ndarray) -> Overlap:
    """How much of their histograms the two crops of images [N, 2, BINS] share, N at least 2."""
    common = np.minimum(pairs[:, None, 0], pairs[None, :, 1]).sum(-1)
    n = len(pairs)
    same = np.trace(common) / n
    return Overlap(100 * same, 100 * (common.sum() - np.trace(common)) / max(n * (n - 1), 1))


def crop_colours(name: str, plain: np.ndarray, changed: np.ndarray, shown: int = 3) -> Chart:
    """Two crops of some images, and the histograms of both, before and after their colours changed.

    Args:
      name: of the file.
      plain, changed: [N, 2, S, S, C] in 0..1: cropped; and as the method sees them.

    Reference: Chen et al. 2020 (SimCLR), figure 6.
    """
    shown = min(shown, len(plain))
    centres = (np.arange(BINS) + 0.5) / BINS

    def draw(figure: Any, colours: Sequence[str]) -> None:
        axes = figure.subplots(shown, 6, squeeze=False)
        for i, line in enumerate(axes):
            for start, crops in ((0, plain[i]), (3, changed[i])):
                both = histograms(crops)
                for v in range(2):
                    picture = crops[v].squeeze(-1) if crops.shape[-1] == 1 else crops[v]
                    line[start + v].imshow(picture, "gray", vmin=0, vmax=1)
                    line[start + v].spines[:].set_visible(False)
                    line[start + 2].plot(centres, both[v], color=colours[v], linewidth=1.2)
            for ax in line:
                ax.set(xticks=[], yticks=[])
        for column, title in enumerate(("crop 1", "crop 2", "cropped") * 2):
            last = "as trained" if column == 5 else title
            axes[0, column].set_title(last, fontsize=9)

    words = "two crops of images with the histograms of their values, cropped only and as trained"
    return chart(name, "Colours of two crops", words, (6.8, 1.2 * shown + 0.3), draw)
