"""Build SimCLR and its relatives: methods that compare the images of a batch."""

from __future__ import annotations

import functools

from ml_collections import ConfigDict

from byol_jax.core import Method
from byol_jax.experiment.methods.parts import Facts, Parts
from byol_jax.methods.npid import npid
from byol_jax.methods.simclr import simclr
from byol_jax.models import heads
from byol_jax.models.network import network


def _simclr(m: ConfigDict, parts: Parts, facts: Facts) -> Method:
    wrap = functools.partial(parts.wrapped, bn=m.bn, groups=m.bn_groups)
    widths = (m.hidden,) * (m.layers - 1) + (m.out,)
    head = heads.mlp(widths, hidden_bias=False, norm_last=True, **parts.dtypes)
    return simclr(network(wrap(parts.encoder), wrap(head)), temperature=m.temperature)


def _npid(m: ConfigDict, parts: Parts, facts: Facts) -> Method:
    encoder = parts.wrapped(parts.encoder, "per_view", m.bn_groups)
    head = parts.gather(heads.mlp((m.out,), last_bias=True, **parts.dtypes))
    return npid(
        network(encoder, head),
        examples=facts.examples,
        negatives=m.negatives,
        temperature=m.temperature,
        momentum=m.momentum,
        place=parts.place,
    )


METHODS = {"simclr": _simclr, "npid": _npid}
