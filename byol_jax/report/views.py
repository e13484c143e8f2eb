"""views.png: what the encoder will see, before step 1; and what a method makes of images, later."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from byol_jax.core import TrainState
from byol_jax.data.pipeline import eval_batches
from byol_jax.data.source import Source
from byol_jax.views import lab
from byol_jax.views.spec import EvalSpec

EXAMPLES = 8

Evaluate = Callable[[TrainState, Callable[[], None]], dict[str, float]]


def draw_views(
    batches: Iterator[Mapping[str, np.ndarray]],
    render: Callable[[Mapping[str, np.ndarray]], np.ndarray],
    source: Source,
    spec: EvalSpec,
    path: Path,
) -> Iterator[Mapping[str, np.ndarray]]:
    """Draw the first batch's originals and views, and pass on the batches unchanged.

    Args:
      batches: training batches; the first one is read immediately.
      render: batch -> its views [B, V, S, S, C], normalised.
      source: where the originals come from; a stream cannot show any.
      spec: normalisation, and the centre crop of the originals.
      path: of the PNG.
    """
    first = next(batches)
    n = min(EXAMPLES, len(first["index"]))
    views = render(first)[:n]
    columns = [denormalised(views[:, v], spec) for v in range(views.shape[1])]
    titles = [f"view {v + 1}" for v in range(len(columns))]
    if not source.is_stream:
        indices = np.asarray(first["index"][:n])
        originals = next(iter(eval_batches(source.take(indices), spec, batch_size=n)))
        columns.insert(0, denormalised(originals["views"][:, 0], spec))
        titles.insert(0, "original")
    draw_rows(columns, titles, path)
    return itertools.chain([first], batches)


def with_pictures(
    evaluate: Evaluate | None,
    pictures: Callable[[TrainState], Mapping[str, np.ndarray]] | None,
    spec: EvalSpec,
    folder: Path | None,
) -> Evaluate | None:
    """An evaluation that also draws what the method makes of some images, as STEP.png.

    Args:
      evaluate: (state, poll) -> metrics; None if nothing is measured.
      pictures: state -> {title: [N, H, W, C]}, normalised; None if there is nothing to see.
      spec: normalisation.
      folder: for the PNGs; None if another process draws them.
    """
    if pictures is None:
        return evaluate

    def run(state: TrainState, poll: Callable[[], None]) -> dict[str, float]:
        found = pictures(state)
        if folder is not None:
            folder.mkdir(exist_ok=True)
            columns = [denormalised(images, spec) for images in found.values()]
            draw_rows(columns, list(found), folder / f"{int(state.step)}.png")
        return {} if evaluate is None else evaluate(state, poll)

    return run


def denormalised(images: np.ndarray, spec: EvalSpec) -> np.ndarray:
    """Images [..., C] in 0..1."""
    return np.clip(lab.denormalised(np.asarray(images), spec.mean, spec.std), 0, 1)


def draw_rows(rows: list[np.ndarray], titles: list[str], path: Path) -> None:
    """Draw rows of images, each with its title beside it.

    Args:
      rows: [N, H, W, C] each, in 0..1; N is the same in all.
      titles: of the rows.
      path: of the PNG.
    """
    # The object interface: pyplot would keep global state and might look for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n = len(rows[0])
    figure = Figure(figsize=(1.25 * n + 0.9, 1.35 * len(rows)), layout="compressed")
    FigureCanvasAgg(figure)
    for axis, images, title in zip(
        figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows, titles, strict=True
    ):
        # The images of a row are one picture, with white between them: axes are slow to draw.
        gap = max(1, images.shape[2] // 12)
        wide = np.pad(images, ((0, 0), (0, 0), (0, gap), (0, 0)), constant_values=1)
        picture = np.concatenate(list(wide), axis=1)[:, :-gap]
        axis.imshow(
            picture.squeeze(-1) if picture.shape[-1] == 1 else picture, "gray", vmin=0, vmax=1
        )
        axis.set(xticks=[], yticks=[], ylabel=title.replace(": ", ":\n"))
        axis.spines[:].set_visible(False)
    temporary = path.with_suffix(".tmp.png")
    figure.savefig(temporary, dpi=100)
    temporary.replace(path)
