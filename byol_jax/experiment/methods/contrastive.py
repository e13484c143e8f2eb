"""Build SimCLR and its relatives: methods that compare the images of a batch."""

from __future__ import annotations

import functools

from ml_collections import ConfigDict

from byol_jax.core import Method
from byol_jax.experiment.methods.parts import Facts, Parts
from byol_jax.methods.simclr import simclr
from byol_jax.models import heads
from byol_jax.models.network import network


def _simclr(m: ConfigDict, parts: Parts, facts: Facts) -> Method:
    wrap = functools.partial(parts.wrapped, bn=m.bn, groups=m.bn_groups)
    widths = (m.hidden,) * (m.layers - 1) + (m.out,)
    head = heads.mlp(widths, hidden_bias=False, norm_last=True, **parts.dtypes)
    return simclr(network(wrap(parts.encoder), wrap(head)), temperature=m.temperature)


METHODS = {"simclr": _simclr}
