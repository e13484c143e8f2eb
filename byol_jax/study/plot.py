"""The picture of a study: one line per row, or a matrix, with the published figures beside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from byol_jax.report.charts import Chart, chart, plain_text
from byol_jax.study.figures import Figures, spread
from byol_jax.study.plan import Study


def plot(study: Study, figures: Figures) -> Chart | None:
    """Mean, range and every seed of the shown column; None if there is no figure yet.

    Args:
      study: of which the rows, or cells, are drawn in order.
      figures: what was read.
    """
    if not any(study.shown in columns for columns in figures.rows.values()):
        return None
    published = any(row.published is not None for row in study.rows)
    words = f"{study.name}: {study.shown}" + (", beside what was published" if published else "")
    if all(row.cell for row in study.rows):
        return _matrix(study, figures, published, words)
    height = 1.1 + 0.32 * len(study.rows)

    def draw(figure: Any, colours: Sequence[str]) -> None:
        axes = figure.subplots(1, 1 + published, sharey=True, squeeze=False)[0]
        y = np.arange(len(study.rows))
        for i, row in enumerate(study.rows):
            values = list(figures.rows[row.name].get(study.shown, {}).values())
            if not values:
                axes[0].text(0.02, i, "no figure", transform=axes[0].get_yaxis_transform(),
                             va="center", fontsize=8)  # fmt: skip
                continue
            found = spread(values)
            axes[0].plot([found.low, found.high], [i, i], color=colours[0], linewidth=2)
            axes[0].plot(values, [i] * len(values), "|", color=colours[0], markersize=9)
            axes[0].plot([found.mean], [i], "o", color=colours[0], markersize=6)
        for j, (name, columns) in enumerate(figures.references.items()):
            if study.shown in columns:
                x = spread(list(columns[study.shown].values())).mean
                colour = colours[(6, 1, 3, 4)[j % 4]]
                axes[0].axvline(x, color=colour, linestyle="--", label=plain_text(name))
        axes[0].set_yticks(y, [plain_text(row.name) for row in study.rows])
        axes[0].set_ylim(len(y) - 0.5, -0.5)
        axes[0].set_title(f"measured: {plain_text(study.shown)}", fontsize=10)
        if figures.references:
            figure.legend(fontsize=8, ncols=3, loc="outside lower center")
        if published:
            pairs = [(i, r.published) for i, r in enumerate(study.rows) if r.published is not None]
            axes[1].plot([p for _, p in pairs], [i for i, _ in pairs], "D", color=colours[2])
            axes[1].set_title("published", fontsize=10)
        for ax in axes:
            ax.grid(alpha=0.6)

    return chart("plot", study.name, words, (5.0 + 2.6 * published, height), draw)


def _matrix(study: Study, figures: Figures, published: bool, words: str) -> Chart:
    down = list(dict.fromkeys(row.cell[0] for row in study.rows if row.cell))
    across = list(dict.fromkeys(row.cell[1] for row in study.rows if row.cell))
    grids = np.full((1 + published, len(down), len(across)), np.nan)
    for row in study.rows:
        if row.cell is None:
            continue
        place = down.index(row.cell[0]), across.index(row.cell[1])
        values = list(figures.rows[row.name].get(study.shown, {}).values())
        if values:
            grids[0][place] = spread(values).mean
        if published and row.published is not None:
            grids[1][place] = row.published

    def draw(figure: Any, colours: Sequence[str]) -> None:
        del colours
        titles = (f"measured: {plain_text(study.shown)}", "published")
        axes = figure.subplots(1, len(grids), squeeze=False)[0]
        for ax, grid, title in zip(axes, grids, titles, strict=False):
            low, high = np.nanmin(grid), np.nanmax(grid)
            ax.imshow(grid, cmap="viridis", aspect="auto", vmin=low, vmax=high)
            for (i, j), value in np.ndenumerate(grid):
                if np.isfinite(value):
                    dark = value < (low + high) / 2
                    ax.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=9,
                            color="white" if dark else "black")  # fmt: skip
            ax.set_xticks(range(len(across)), [plain_text(a) for a in across], rotation=30)
            ax.set_yticks(range(len(down)), [plain_text(d) for d in down])
            ax.set_title(title, fontsize=10)

    size = ((1.4 + 0.8 * len(across)) * len(grids), 1.4 + 0.5 * len(down))
    return chart("plot", study.name, words, size, draw)
