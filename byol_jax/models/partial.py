"""The parts of an encoder from the image upwards, for training the last of them alone.

Part 0 is the stem, or the embedding of the patches with positions and tokens; parts 1 to N are the
blocks of a transformer or the stages of a convolutional encoder; what comes after them (a
transformer's last norm) is part N + 1.
"""

from __future__ import annotations

from byol_jax.core import Encoder, Tree
from byol_jax.models.vit import SIZES

_OF_EVERY_RESNET = 4  # stages


def count_blocks(encoder: Encoder) -> int:
    """N: the blocks of a transformer, or the stages of a convolutional encoder."""
    name = encoder.config["name"]
    if name in SIZES:
        return encoder.config["depth"]
    return encoder.config["stages"] if name == "tiny" else _OF_EVERY_RESNET


def part_of(encoder: Encoder, name: str) -> int:
    """The part, 0 to N + 1, of a parameter or statistic, by the first component of its path."""
    for prefix, first in (("blocks_", 1), ("layer", 0), ("stage", 0)):
        if name.startswith(prefix):
            return int(name.removeprefix(prefix).partition("_")[0]) + first
    return count_blocks(encoder) + 1 if name == "norm" else 0


def frozen_parts(encoder: Encoder, last: int) -> int:
    """How many parts, from part 0 on, stay as they are if the `last` blocks are trained.

    Args:
      encoder: any.
      last: 1 to N blocks or stages; N trains everything.

    Raises:
      ValueError: there are not so many.
    """
    count = count_blocks(encoder)
    if not 1 <= last <= count:
        what = "blocks" if encoder.config["name"] in SIZES else "stages"
        raise ValueError(
            f"The last {last} {what} of {encoder.config['name']!r} cannot be trained; expected 1 "
            f"to its {count}, of which {count} is the whole encoder."
        )
    return 0 if last == count else count - last + 1


def split_params(encoder: Encoder, params: Tree, frozen: int) -> tuple[Tree, Tree]:
    """(the parameters of the first `frozen` parts, those of all others)."""
    first = {k: v for k, v in params.items() if part_of(encoder, k) < frozen}
    return first, {k: v for k, v in params.items() if k not in first}
