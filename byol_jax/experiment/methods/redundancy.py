"""Build Barlow Twins and VICReg: methods that decorrelate the dimensions of an embedding."""

from __future__ import annotations

import functools

from ml_collections import ConfigDict

from byol_jax.core import Method
from byol_jax.experiment.methods.parts import Facts, Parts
from byol_jax.methods.barlow import barlow
from byol_jax.methods.vicreg import vicreg
from byol_jax.models import heads
from byol_jax.models.network import Network, network


def _network(m: ConfigDict, parts: Parts, *, bias: bool) -> Network:
    """The encoder with a projector that ends in a linear layer without bias and batch norm."""
    wrap = functools.partial(parts.wrapped, bn=m.bn, groups=m.bn_groups)
    widths = (m.hidden,) * (m.layers - 1) + (m.out,)
    head = heads.mlp(widths, hidden_bias=bias, last_bias=False, **parts.dtypes)
    return network(wrap(parts.encoder), wrap(head))


def _barlow(m: ConfigDict, parts: Parts, facts: Facts) -> Method:
    net = _network(m, parts, bias=False)
    return barlow(net, off_diagonal=m.off_diagonal, scale=m.scale)


def _vicreg(m: ConfigDict, parts: Parts, facts: Facts) -> Method:
    net = _network(m, parts, bias=True)
    return vicreg(net, invariance=m.invariance, variance=m.variance, covariance=m.covariance)


METHODS = {"barlow": _barlow, "vicreg": _vicreg}
