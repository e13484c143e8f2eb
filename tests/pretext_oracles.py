"""Independent programs, in NumPy, that undo pretext tasks of photographs given input and label.

Each returns, for every example, whether the input is what the label says: also a program, for any
folder of photographs:

    python tests/pretext_oracles.py FOLDER
"""

import sys
from pathlib import Path

import numpy as np


def crops(photographs, count, size, seed=0):
    """float32 [count, size, size, 3] in 0..1, at random places of photographs uint8 [H, W, 3]."""
    random, made = np.random.RandomState(seed), []
    for i in range(count):
        photograph = photographs[i % len(photographs)]
        y, x = (random.randint(side - size + 1) for side in photograph.shape[:2])
        made.append(photograph[y : y + size, x : x + size])
    return np.stack(made).astype(np.float32) / 255


def turned_back(view, target, turns=4):
    """The image that was turned counter-clockwise: read pixel by pixel."""
    side, back = len(view), np.empty_like(view)
    for y in range(side):
        for x in range(side):
            at = {
                0: (y, x),
                1: (side - 1 - x, y),
                2: (side - 1 - y, side - 1 - x),
                3: (x, side - 1 - y),
            }
            back[y, x] = view[at[int(target) * 4 // turns]]
    return back


def own(planes):
    """Planes by their means and deviations over the last two axes; 0 where all is of one value."""
    deviation = planes.std((-2, -1), keepdims=True)
    return (planes - planes.mean((-2, -1), keepdims=True)) / np.where(
        deviation > 1e-5, deviation, 1
    )


def lies_in(tile, image, cell, grid, reach, normalise):
    """Whether a tile lies in a cell of the image, its channels at most `reach` px apart.

    Every place in the cell is tried, for each channel.
    """
    side = image.shape[0] // grid
    top, left = cell // grid * side, cell % grid * side
    # In float64: the float32 mean of a tile of one colour is off by a good share of its deviation.
    inside = image[top : top + side, left : left + side].astype(np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(inside, tile.shape[:2], (0, 1))
    windows = own(windows) if normalise else windows  # [place, place, channel, S, S]
    equal = np.abs(windows - np.moveaxis(tile, -1, 0)).max((3, 4)) < 1e-3
    here = [np.argwhere(equal[..., c]) for c in range(tile.shape[-1])]
    return all(len(places) for places in here) and any(
        all((np.abs(places - at).max(1) <= reach).any() for places in here[1:]) for at in here[0]
    )


def is_solved(tiles, image, permutation, grid, shift, normalise):
    """Whether the tile in place i is tile permutation[i] of the image, for all i."""
    return all(
        lies_in(tile, image, int(permutation[i]), grid, shift, normalise)
        for i, tile in enumerate(tiles)
    )


def is_around(tiles, image, targets):
    """Whether the first tile is the centre, and the others lie where the targets say."""
    around = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]
    cells = [4] + [3 * (1 + dy) + 1 + dx for dy, dx in (around[int(k)] for k in targets)]
    return all(
        lies_in(tile, image, cell, 3, 0, False) for tile, cell in zip(tiles, cells, strict=True)
    )


def rgb_of(lab):
    """sRGB [..., 3] in 0..1 of Lab under D65, with the exact constants of CIE 15 and IEC 61966."""
    fy = (lab[..., 0] + 16) / 116
    f = np.stack([fy + lab[..., 1] / 500, fy, fy - lab[..., 2] / 200], -1).astype(np.float64)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * [0.95047, 1, 1.08883]
    to_linear = [
        [3.2404542, -1.5371385, -0.4985314],
        [-0.9692660, 1.8760108, 0.0415560],
        [0.0556434, -0.2040259, 1.0572252],
    ]
    linear = np.clip(xyz @ np.transpose(to_linear), 0, 1)
    return np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)


def main(folder):
    """Undo 256 examples of every task, made of the photographs of a folder."""
    import jax
    from PIL import Image

    from byol_jax.views.tasks.jigsaw import jigsaw, permutation_set
    from byol_jax.views.tasks.relative import relative
    from byol_jax.views.tasks.rotation import rotation

    files = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in (".jpeg", ".jpg"))
    images = crops([np.asarray(Image.open(p).convert("RGB")) for p in files], 256, 48)

    def made(quiz):
        batch = jax.jit(quiz.task)({"views": images[:, None]}, jax.random.key(0))
        return np.asarray(batch["views"]), np.asarray(batch["target"])

    views, target = made(rotation(every=False))
    right = [
        np.array_equal(turned_back(v[0], t[0]), i)
        for v, t, i in zip(views, target, images, strict=True)
    ]
    print(f"rotation: {sum(right)} of {len(right)} crops of {len(files)} photographs")
    options = {"tile": 10, "jitter": 4, "shift": 2, "project": 0.0}
    views, target = made(jigsaw(100, **options))
    table = permutation_set(100)[target[:, 0]]
    right = [is_solved(v, i, p, 3, 2, True) for v, i, p in zip(views, images, table, strict=True)]
    wrong = [
        is_solved(v, i, p, 3, 2, True)
        for v, i, p in zip(views, images, np.roll(table, 1, 0), strict=True)
    ]
    print(f"jigsaw: {sum(right)} of {len(right)}; with the next example's label {sum(wrong)}")
    views, target = made(relative(8, tile=10, jitter=5))
    right = [is_around(v, i, t) for v, i, t in zip(views, images, target, strict=True)]
    wrong = [
        is_around(v, i, t) for v, i, t in zip(views, images, np.roll(target, 1, 0), strict=True)
    ]
    print(f"relative: {sum(right)} of {len(right)}; with the next example's label {sum(wrong)}")


if __name__ == "__main__":
    main(sys.argv[1])
