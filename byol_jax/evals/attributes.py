"""Which transformation was done to an image: what features keep that a projection drops.

Shape key: B images, H W C.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from byol_jax.data.order import generator
from byol_jax.views.spec import GREY

_ORDER, _CHANGE = 0, 1  # what random numbers are for, in an evaluation, which orders no images
NOISE = 0.1  # standard deviation, of images in 0..1

Change = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
"""(an image [H, W, C] in 0..1, the answer, random numbers) -> the image that has this answer."""


class Attribute(NamedTuple):
    """A question about images: how many answers it has, and what makes an image have each.

    colours: whether it can be asked of colour images alone.
    """

    answers: int
    change: Change
    colours: bool = False


def _grey(image: np.ndarray, answer: int, random: np.random.Generator) -> np.ndarray:
    del random
    if not answer:
        return image
    return np.repeat((image @ np.asarray(GREY, image.dtype))[..., None], 3, 2)


def _turned(image: np.ndarray, answer: int, random: np.random.Generator) -> np.ndarray:
    del random
    return np.rot90(image, answer)


def _noised(image: np.ndarray, answer: int, random: np.random.Generator) -> np.ndarray:
    noise = NOISE * random.standard_normal(image.shape, np.float32)
    return np.clip(image + noise, 0, 1) if answer else image


def _sobel(image: np.ndarray, answer: int, random: np.random.Generator) -> np.ndarray:
    """The size of the gradient of each channel, borders repeated."""
    del random
    if not answer:
        return image
    x = np.pad(image, ((1, 1), (1, 1), (0, 0)), "edge")
    down = x[2:] - x[:-2]
    across = x[:, 2:] - x[:, :-2]
    down = down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]
    across = across[:-2] + 2 * across[1:-1] + across[2:]
    return np.clip(np.hypot(down, across), 0, 1)


ATTRIBUTES: dict[str, Attribute] = {
    "grey": Attribute(2, _grey, colours=True),
    "rotation": Attribute(4, _turned),
    "noise": Attribute(2, _noised),
    "sobel": Attribute(2, _sobel),
}


def asked(
    batches: Iterable[Mapping[str, np.ndarray]],
    attribute: Attribute,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    seed: int,
) -> Iterator[dict[str, np.ndarray]]:
    """Batches whose images are changed, and whose labels are the answers.

    Which answer an image gets is a function of (seed, its index); every block of consecutive
    indices, as many as there are answers, has each of them once.

    Args:
      batches: views [B, 1, H, W, C], normalised, H = W; index, mask.
      attribute: the question.
      mean, std: per channel, that the images are normalised with.
      seed: of the answers and the noise.
    """
    mean_C, std_C = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    for batch in batches:
        views, labels = np.array(batch["views"]), np.full(len(batch["index"]), -1, np.int32)
        for row in np.flatnonzero(np.asarray(batch["mask"]) > 0):
            index = int(batch["index"][row])
            block, place = divmod(index, attribute.answers)
            answers = generator(seed, 0, _ORDER, block).permutation(attribute.answers)
            labels[row] = answers[place]
            image = views[row, 0] * std_C + mean_C
            changed = attribute.change(image, int(labels[row]), generator(seed, 0, _CHANGE, index))
            views[row, 0] = (changed - mean_C) / std_C
        yield {**batch, "views": views, "label": labels}
