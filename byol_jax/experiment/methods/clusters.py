"""Build SwAV and DINO: methods in which a view predicts the cluster that another is assigned to."""

from __future__ import annotations

import functools

from ml_collections import ConfigDict

from byol_jax import models
from byol_jax.core import Encoder, Method
from byol_jax.experiment.methods.parts import Facts, Parts, check_queue, decay
from byol_jax.methods.dino import dino, warmed_up
from byol_jax.methods.swav import swav
from byol_jax.models import heads
from byol_jax.models.dino_head import dino_head
from byol_jax.models.network import network


def _swav(m: ConfigDict, parts: Parts, facts: Facts) -> Method:
    check_queue("swav", m.queue, facts.rows, 1)
    wrap = functools.partial(parts.wrapped, bn=m.bn, groups=m.bn_groups)
    head = wrap(heads.mlp((m.hidden, m.out), last_bias=True, **parts.dtypes))
    return swav(
        network(wrap(parts.encoder), head),
        m.prototypes,
        temperature=m.temperature,
        epsilon=m.epsilon,
        iterations=m.iterations,
        queue=m.queue,
        queue_start=round(m.queue_epoch * facts.steps_per_epoch),
        local=facts.local,
    )


def _dino(m: ConfigDict, parts: Parts, facts: Facts) -> Method:
    wrap = functools.partial(parts.wrapped, bn=m.bn, groups=m.bn_groups)
    widths = (m.hidden,) * (m.layers - 1) + (m.out,)
    head = parts.gather(dino_head(widths, **parts.dtypes))
    start, end = m.teacher_start, m.teacher_temperature
    return dino(
        network(wrap(parts.encoder), head),
        network(wrap(_without_drop_path(parts.encoder)), head),
        m.prototypes,
        tau=decay(m, facts),
        temperature=m.temperature,
        teacher_temperature=warmed_up(start, end, m.teacher_epochs, facts.steps_per_epoch),
        centre_momentum=m.centre_momentum,
        local=facts.local,
    )


def _without_drop_path(encoder: Encoder) -> Encoder:
    """The same encoder without stochastic depth."""
    if not encoder.config.get("drop_path"):
        return encoder
    return models.make_encoder(**{**encoder.config, "drop_path": 0.0})


METHODS = {"swav": _swav, "dino": _dino}
