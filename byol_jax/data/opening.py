"""Open a data set by name: scikit-learn's digits, a .npz file, a folder of images or clips or of
VOC's form, or any tfds data set.

Opening digits, a .npz file or a folder does not import TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from byol_jax.data import arrays, clips, folder, voc
from byol_jax.data.facts import FACTS
from byol_jax.data.source import Clip, Decoding, Source, digest_of


def open_source(
    name: str,
    data_dir: str = "",
    split: str = "train",
    *,
    channels: int = 3,
    seed: int = 0,
    bits: int = 0,
    orient: bool = False,
    clip: Clip | None = None,
) -> Source:
    """Open a data set.

    Args:
      name: "digits", "npz", "folder", "voc", "clips", or any tfds name.
      data_dir: the .npz file, the folder of images or clips or of VOC's form, or the folder of
        prepared tfds data; unused for digits.
      split: "train", or "test" for evaluation.
      channels: 1 or 3, to which encoded images are decoded; arrays keep their own.
      seed: for choosing the tenth that is held out if the data have no test part.
      bits: in use of values stored in 16 bits, 1 to 16; 0: all of them.
      orient: whether encoded images are turned upright as their EXIF data ask for.
      clip: what is read of clips; None: one frame.

    Returns:
      The data set.

    Raises:
      ValueError: it does not exist or is not as expected; says what to do.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split is {split!r}; expected 'train' or 'test'.")
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels!r}; expected 1 or 3.")
    if not 0 <= bits <= 16:
        raise ValueError(f"bits is {bits!r}; expected 0 to 16.")
    if name == "clips":
        return clips.open_clips(data_dir, split, clip or Clip(), channels, seed)
    how = Decoding(channels, bits, orient)
    if name not in _OPEN:
        from byol_jax.data import records  # lazily, because it imports TensorFlow

        return records.open_tfds(name, data_dir, split, how, seed)
    return _OPEN[name](data_dir, split, how, seed)


def _open_digits(data_dir: str, split: str, how: Decoding, seed: int) -> Source:
    """scikit-learn's 1,797 scans of 8x8 px; the end of a fixed permutation is the test part."""
    del data_dir, how, seed
    from sklearn.datasets import load_digits  # part of scikit-learn: nothing is downloaded

    data = load_digits()
    order = np.random.RandomState(0).permutation(len(data.images))
    count = FACTS["digits"].train.examples
    rows = order[:count] if split == "train" else order[count:]
    images = np.round(data.images * (255 / 16)).astype(np.uint8)[..., None]
    return Source(
        f"digits {split}",
        len(rows),
        1,
        classes=10,
        class_names=tuple("0123456789"),
        labels=data.target[rows].astype(np.int32),
        images=images[rows],
        rows=rows,
        digest=digest_of([images[rows].tobytes()]),
    )


_OPEN: dict[str, Callable[[str, str, Decoding, int], Source]] = {
    "digits": _open_digits,
    "npz": arrays.open_npz,
    "folder": folder.open_folder,
    "voc": voc.open_voc,
}
