"""Build MAE: a transformer that sees a part of an image, and predicts the rest."""

from __future__ import annotations

from ml_collections import ConfigDict

from byol_jax import models
from byol_jax.core import Method
from byol_jax.experiment.methods.parts import Facts, Parts
from byol_jax.methods.mae import mae
from byol_jax.models.mae_decoder import mae_decoder


def _mae(m: ConfigDict, parts: Parts, facts: Facts) -> Method:
    del facts
    vit = models.as_vit(parts.encoder, "method.name 'mae'")
    decoder = mae_decoder(
        vit.encoder.dim,
        vit.patch**2 * vit.encoder.channels,
        dim=m.dim,
        depth=m.depth,
        heads=m.heads,
        prefix=vit.prefix,
        remat=vit.encoder.config["remat"],
        **parts.dtypes,
    )
    return mae(
        parts.gather(vit),
        parts.gather(decoder),
        mask=m.mask,
        normalised=m.normalised,
        mask_tokens=m.mask_tokens,
    )


METHODS = {"mae": _mae}
