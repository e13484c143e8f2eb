"""Build supervised training and fine-tuning."""

from __future__ import annotations

from ml_collections import ConfigDict

from byol_jax.core import Method
from byol_jax.experiment.methods.parts import Facts, Parts
from byol_jax.methods.supervised import supervised
from byol_jax.views.tasks.mixing import mixing


def _supervised(m: ConfigDict, parts: Parts, facts: Facts) -> Method:
    encoder = parts.wrapped(parts.encoder, "per_view", m.bn_groups)
    if not facts.classes:
        raise ValueError("method.name is 'supervised', but the data have no labels.")
    options = {
        "mixup": m.mixup,
        "cutmix": m.cutmix,
        "probability": m.mix_prob,
        "switch": m.switch_prob,
        "smoothing": m.smoothing,
    }
    mixed = m.mixup or m.cutmix or m.smoothing
    return supervised(
        encoder,
        facts.classes,
        frozen=m.last == 0,
        last=m.last if m.last > 0 else None,
        norm=m.norm,
        head_std=m.head_std,
        task=mixing(facts.classes, **options) if mixed else None,
    )


METHODS = {"supervised": _supervised}
