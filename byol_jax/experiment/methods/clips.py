"""Build methods that learn from clips: from the order of frames, or from frames and sound."""

from __future__ import annotations

import functools

from ml_collections import ConfigDict

from byol_jax import models
from byol_jax.core import Method
from byol_jax.experiment.methods.parts import Facts, Parts
from byol_jax.experiment.methods.pretext import classifying
from byol_jax.methods.correspond import correspond
from byol_jax.models import heads
from byol_jax.models.vit import SIZES
from byol_jax.views.tasks.avc import avc
from byol_jax.views.tasks.shuffle import shuffle


def _shuffle(m: ConfigDict, parts: Parts, facts: Facts) -> Method:
    frames = facts.clip.frames if facts.clip else 0
    quiz = shuffle(frames, span=m.span, apart=m.apart, positive=m.positive)
    return classifying(m, parts, quiz, deviations=m.deviations)


def _avc(m: ConfigDict, parts: Parts, facts: Facts) -> Method:
    name = parts.encoder.config["name"]
    if name in SIZES:
        raise ValueError(
            f"method.name 'avc' has a second encoder of the same kind for spectrograms, and "
            f"encoder.name {name!r} has positions of square images; set it to a ResNet or tiny."
        )
    samples = facts.clip.samples if facts.clip else 0
    pairs = avc(
        samples,
        fft=m.fft,
        window=m.window,
        hop=m.hop,
        dynamic=m.dynamic,
        positive=m.positive,
    )
    same = {k: v for k, v in parts.encoder.config.items() if k not in ("lightness", "channels")}
    wrap = functools.partial(parts.wrapped, bn="per_view", groups=m.bn_groups)
    widths = (m.hidden,) * (m.layers - 1) + (2,)
    classifier = heads.mlp(widths, hidden_bias=False, last_bias=True, **parts.dtypes)
    ear = models.make_encoder(**same, channels=1)
    return correspond(wrap(parts.encoder), wrap(ear), wrap(classifier), pairs)


METHODS = {"shuffle": _shuffle, "avc": _avc}
"""Method name -> its builder."""
