"""Audio-visual correspondence: are a frame and a second of sound of the same clip?

Shape key: B examples, N samples, F frequencies, T times.

Reference: Arandjelovic and Zisserman 2017; marl/l3embedding:l3embedding/audio_model.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from byol_jax.core import Batch
from byol_jax.views.tasks import Task


class Pairs(NamedTuple):
    """Pairs of frames and sounds.

    task: (batch, key) -> batch. spectrogram: (sound [B, N]) -> [B, 1, F, T, 1], as in the task.
    """

    task: Task
    spectrogram: Callable[[Array], Array]


def avc(
    samples: int,
    *,
    fft: int = 512,
    window: int = 480,
    hop: int = 240,
    dynamic: float = 80.0,
    positive: float = 0.5,
) -> Pairs:
    """The task.

    Args:
      samples: N, of the sound.
      fft, window, hop, dynamic: of the spectrogram, see `log_spectrogram`.
      positive: share of the pairs that are of one clip. The sound of the others is that of another
        clip of the batch.

    Returns:
      The pairs. Of "sound" [B, N] the task makes "spectrogram" [B, 1, F, T, 1]; "target" [B] is 1
      for pairs of one clip, else 0. A row whose sound is that of a clip that was not read does not
      count: its mask is 0.

    Raises:
      ValueError: a spectrogram cannot be made of so many samples.
    """
    if not 0 < window <= min(fft, samples):
        raise ValueError(
            f"avc.window is {window} samples, with avc.fft {fft} and {samples} samples of sound "
            "(data.sound x data.rate); expected at most the smaller of the two: set data.sound, or "
            "lower avc.window."
        )

    def spectrogram(sound_BN: Array) -> Array:
        made = log_spectrogram(sound_BN, fft=fft, window=window, hop=hop, dynamic=dynamic)
        return made[:, None, :, :, None]

    def task(batch: Batch, key: Array) -> Batch:
        sound_BN, mask_B = batch["sound"], batch["mask"]
        rows = len(sound_BN)
        if rows < 2:
            raise ValueError("A batch of 1 clip has no other sound; set batch_size to 2 or more.")
        same_key, other_key = jax.random.split(key)
        same_B = jax.random.uniform(same_key, (rows,), jnp.float32) < positive
        away_B = jax.random.randint(other_key, (rows,), 1, rows, jnp.int32)
        own_B = jnp.arange(rows, dtype=jnp.int32)
        heard_B = jnp.where(same_B, own_B, (own_B + away_B) % rows)
        rest = {k: v for k, v in batch.items() if k != "sound"}
        made = spectrogram(sound_BN)[heard_B].astype(batch["views"].dtype)
        mask_B = mask_B * mask_B[heard_B]
        return {**rest, "spectrogram": made, "target": same_B.astype(jnp.int32), "mask": mask_B}

    return Pairs(task, spectrogram)


def log_spectrogram(
    sound_BN: Array, *, fft: int, window: int, hop: int, dynamic: float = 80.0
) -> Array:
    """The power of each frequency over time, in decibels below the loudest of the example.

    How loud an example is as a whole makes no difference.

    Args:
      sound_BN: samples.
      fft: of each transform, at least `window`, which is padded with zeros.
      window: samples, weighted by a periodic Hann window. hop: from one to the next.
      dynamic: dB below the loudest, at which values are cut.

    Returns:
      [B, fft // 2 + 1, (N - window) // hop + 1], from -1 (at or below -dynamic) to 1. Silence is 1
      throughout.
    """
    count = (sound_BN.shape[1] - window) // hop + 1
    at = np.arange(window, dtype=np.int32) + hop * np.arange(count, dtype=np.int32)[:, None]
    weight = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    pieces = sound_BN[:, at] * jnp.asarray(weight, sound_BN.dtype)[None, None]
    power = jnp.square(jnp.abs(jnp.fft.rfft(pieces, fft)))
    level = 10 * jnp.log10(jnp.maximum(power, 1e-10))
    below = jnp.maximum(level - level.max((1, 2), keepdims=True), -dynamic)
    return jnp.swapaxes(2 * below / dynamic + 1, 1, 2)
