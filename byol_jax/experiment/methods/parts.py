"""What the builders of methods share: facts about the run, the encoder, and its wrappers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from ml_collections import ConfigDict

from byol_jax import models
from byol_jax.config import group_of
from byol_jax.core import Encoder
from byol_jax.mesh import ANYWHERE, Placement


class Facts(NamedTuple):
    """What a builder may need to know about a run besides its own keys.

    examples, classes: of the data; 0 classes if nothing is labelled.
    steps, steps_per_epoch: of the run.
    rows: of a micro-batch, over all devices.
    local: local views of each image, 0 unless the recipe is multi-crop.
    mean, std: that the views are normalised with; () if not known.
    """

    examples: int
    classes: int
    steps: int
    steps_per_epoch: int
    rows: int = 256
    local: int = 0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


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


def build_encoder(config: ConfigDict, channels: int) -> Encoder:
    """The encoder that a config names."""
    own = config.get(group_of("encoder.name", config.encoder.name), ConfigDict())
    return models.make_encoder(**config.encoder.to_dict(), **own.to_dict(), channels=channels)
