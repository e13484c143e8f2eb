"""A picture of some test images: what is there, and what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from byol_jax.evals.detection import Found

SHOWN = 6  # images
LEAST = 0.5  # score of a box that is drawn
TRUE, GUESS = "#18a558", "#ff8c00"


def draw_found(
    path: Path,
    images: Sequence[np.ndarray],
    truth: Sequence[Any],
    found: Mapping[str, Sequence[Found]],
    classes: Sequence[str],
) -> None:
    """Draw a column of images for each detector.

    Args:
      path: of the PNG.
      images: uint8 [H, W, 3] each.
      truth: `data.boxes.Boxes` of each; difficult ones are dotted.
      found: what each detector found in them, by its name.
      classes: their names.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(images), 3.6 * len(found) + 0.5), layout="constrained")
    axes = figure.subplots(len(found), len(images), squeeze=False)
    for row, (name, by_image) in zip(axes, found.items(), strict=True):
        for axis, image, true, guess in zip(row, images, truth, by_image, strict=True):
            axis.imshow(image)
            axis.set_xticks([])
            axis.set_yticks([])
            for box, hard in zip(true.boxes, true.difficult, strict=True):
                _frame(axis, box, TRUE, ":" if hard else "-")
            sure = guess.scores >= LEAST
            several = len(classes) > 1
            for box, label, score in zip(*(x[sure] for x in guess), strict=True):
                _frame(axis, box, GUESS, "--")
                text = f"{classes[label]} {score:.2f}" if several else f"{score:.2f}"
                axis.text(
                    *(box[0] + 2, box[1] + 2),
                    text,
                    va="top",
                    fontsize=7,
                    color="black",
                    bbox={"facecolor": GUESS, "edgecolor": "none", "pad": 1, "alpha": 0.8},
                    clip_on=True,
                )
        row[0].set_ylabel(name, fontsize=12)
    figure.suptitle(f"green: true boxes; orange: found, with a score of {LEAST} or more")
    figure.savefig(path, dpi=80)


def _frame(axis: Any, box: np.ndarray, colour: str, style: str) -> None:
    from matplotlib.patches import Rectangle

    left, top, right, bottom = box
    corner, sides = (left - 0.5, top - 0.5), (right - left, bottom - top)  # imshow: pixel centres
    axis.add_patch(Rectangle(corner, *sides, fill=False, edgecolor=colour, ls=style, lw=1.8))
