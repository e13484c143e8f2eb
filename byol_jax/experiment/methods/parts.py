"""What the builders of methods share: facts about the run, the encoder, and its wrappers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from byol_jax import models, optim
from byol_jax.config import group_of
from byol_jax.core import Encoder
from byol_jax.data.source import Clip
from byol_jax.experiment.views import normalisation
from byol_jax.mesh import ANYWHERE, Placement
from byol_jax.optim import Schedule


class Facts(NamedTuple):
    """What a builder may need to know about a run besides its own keys.

    examples, classes: of the data; 0 classes if nothing is labelled.
    steps, steps_per_epoch: of the run.
    rows: of a micro-batch, over all devices.
    local: local views of each image, 0 unless the recipe is multi-crop.
    mean, std: that the views are normalised with; () if not known.
    image_size: side of the views, px.
    clip: what is read of each clip; None: the data are images.
    views: (count) -> batches of the first views of the run, [B, S, S, C] in 0..1, the same at every
      start; None if there are no images to look at, or the state comes from a checkpoint.
    """

    examples: int
    classes: int
    steps: int
    steps_per_epoch: int
    rows: int = 256
    local: int = 0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    image_size: int = 224
    views: Callable[[int], Iterator[np.ndarray]] | None = None
    clip: Clip | None = None


class Parts(NamedTuple):
    """What methods are made of.

    encoder: as configured. gather: wraps encoders and heads if the state is sharded. place: puts
    arrays of a step on the run's devices.
    """

    encoder: Encoder
    gather: Callable[[Any], Any]
    place: Placement = ANYWHERE

    @property
    def dtypes(self) -> dict[str, Any]:
        """Dtypes for heads: the same as the encoder's."""
        dtype = models.DTYPES[self.encoder.config["dtype"]]
        return {
            "dtype": dtype,
            "param_dtype": jnp.float64 if dtype == jnp.float64 else jnp.float32,
        }

    def wrapped(self, module: Any, bn: str, groups: int) -> Any:
        """An encoder or head with the batch-norm statistics that a method specifies."""
        if bn == "joint":
            module = models.joint(module)
        if groups > 1:
            module = models.grouped(module, groups)
        return self.gather(module)


def decay(m: ConfigDict, facts: Facts) -> Schedule:
    """The decay of a target network at each step, from a method's `tau` and `tau_schedule`."""
    rising = m.tau_schedule == "cosine"
    return optim.cosine_tau(m.tau, facts.steps) if rising else optim.constant(m.tau)


def check_queue(method: str, size: int, rows: int, views: int) -> None:
    """Refuse a queue that does not hold whole batches.

    Args:
      method: its name.
      size: of the queue.
      rows: of a (micro-)batch.
      views: of each image that enter the queue.

    Raises:
      ValueError: gives the nearest sizes that work.
    """
    new = rows * views
    if size % new:
        below, above = size // new * new, (size // new + 1) * new
        remedy = f"{below} or {above}" if below else f"{above}"
        raise ValueError(
            f"{method}.queue is {size}; expected a multiple of the {new} that a (micro-)batch of "
            f"{rows} images adds; set it to {remedy}."
        )


def build_encoder(config: ConfigDict, channels: int) -> Encoder:
    """The encoder that a config names.

    Args:
      config: resolved.
      channels: of the images.

    Raises:
      ValueError: it is to see the lightness of grey images.
    """
    group = group_of("encoder.name", config.encoder.name)
    options = config.encoder.to_dict() | config.get(group, ConfigDict()).to_dict()
    if group == "vit":
        options["image_size"] = config.image_size
    if options.pop("input") == "lightness":
        if channels != 3:
            raise ValueError(
                f"encoder.input is 'lightness', and the images have {channels} channel(s): they "
                "have no colours to leave out; set it to colour."
            )
        options["lightness"] = normalisation(config, channels)
    return models.make_encoder(**options, channels=channels)
