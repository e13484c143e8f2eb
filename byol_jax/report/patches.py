"""Pictures of what an encoder's last map knows: components, attention, and nearest patches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from byol_jax.evals.patches import Seen
from byol_jax.report.views import draw_rows

HEADS = 6  # at most, whose attention is shown
SIDE = 128  # px at least of an image in which a patch is framed
FRAME = (1.0, 0.85, 0.0)


def draw_patches(path: Path, images: np.ndarray, encoders: Sequence[Seen]) -> None:
    """Draw PATH, some images and what is seen of them, and nearest_PATH, patches that are alike.

    Args:
      path: of the first PNG.
      images: [N, S, S, C] in 0..1.
      encoders: what is seen by an untrained one, and by a trained one, the last.
    """
    side = images.shape[1]
    own = encoders[-1]
    rows, titles = [_coloured(images[own.shown])], ["image"]
    for seen in reversed(encoders):
        rows.append(_enlarged(seen.components, side))
        titles.append(f"PCA, {_short(seen)}")
    for seen in reversed(encoders):
        if seen.attention is None:
            continue
        rows.append(_heat(seen.attention.mean(1), side))
        titles.append("attention" if seen is own else f"att., {_short(seen)}")
        if seen is own:
            heads = range(min(HEADS, own.attention.shape[1]) if own.attention is not None else 0)
            rows += [_heat(seen.attention[:, i], side) for i in heads]
            titles += [f"head {i + 1}" for i in heads]
    draw_rows(rows, titles, path)
    _draw_nearest(path.with_name(f"nearest_{path.name}"), images, encoders)


def _draw_nearest(path: Path, images: np.ndarray, encoders: Sequence[Seen]) -> None:
    own = encoders[-1]
    rows, titles = [_framed(images, own.grid, own.asking)], ["asked"]
    for seen in reversed(encoders):
        for rank in range(seen.nearest.shape[1]):
            rows.append(_framed(images, seen.grid, seen.nearest[:, rank]))
            titles.append(f"{_short(seen)}, {rank + 1}")
    draw_rows(rows, titles, path)


def _short(seen: Seen) -> str:
    return seen.name.removesuffix(" encoder")


def _coloured(images: np.ndarray) -> np.ndarray:
    """Images [N, H, W, C] with three channels."""
    return np.broadcast_to(images, (*images.shape[:3], 3))


def _enlarged(x_NhwC: np.ndarray, side: int) -> np.ndarray:
    """Each position of a map as large as what it stands for in an image of `side` px."""
    down, across = (np.arange(side) * n // side for n in x_NhwC.shape[1:3])
    return x_NhwC[:, down][:, :, across]


def _heat(x_Nhw: np.ndarray, side: int) -> np.ndarray:
    """Maps as colours, the largest value of each image the brightest."""
    from matplotlib import colormaps

    most = x_Nhw.max((1, 2), keepdims=True)
    return _enlarged(colormaps["inferno"](x_Nhw / np.where(most > 0, most, 1))[..., :3], side)


def _framed(images: np.ndarray, grid: tuple[int, int], at_Q: np.ndarray) -> np.ndarray:
    """The images of positions, enlarged if they are small, with a frame around each position."""
    times = -(-SIDE // images.shape[1])
    which, position = np.divmod(at_Q, grid[0] * grid[1])
    found = _coloured(images[which]).repeat(times, 1).repeat(times, 2)
    side = found.shape[1]
    wide = max(2, side // 48)
    edge = ((0, 0), (wide, wide), (wide, wide), (0, 0))  # for frames at the border
    found = np.pad(found, edge, constant_values=1)
    for x, row, column in zip(found, *np.divmod(position, grid[1]), strict=True):
        top, bottom = (side * (row + i) // grid[0] + wide for i in (0, 1))
        left, right = (side * (column + i) // grid[1] + wide for i in (0, 1))
        inside = x[top:bottom, left:right].copy()
        x[top - wide : bottom + wide, left - wide : right + wide] = FRAME
        x[top:bottom, left:right] = inside
    return found
