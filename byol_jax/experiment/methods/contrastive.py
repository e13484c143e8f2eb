"""Build SimCLR and its relatives: methods that compare the images of a batch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from jax import Array
from ml_collections import ConfigDict

from byol_jax import losses, models
from byol_jax.config_table import GROUPS
from byol_jax.core import Method
from byol_jax.experiment.methods.parts import Facts, Parts, check_queue, decay
from byol_jax.methods.moco import moco
from byol_jax.methods.nnclr import nnclr
from byol_jax.methods.npid import npid
from byol_jax.methods.simclr import contrastive
from byol_jax.methods.supcon import supcon
from byol_jax.models import heads
from byol_jax.models.network import Network, network

# simclr.loss -> the loss, and the key that it reads; the other keys have no effect on it.
_LOSSES: dict[str, tuple[Callable[..., Array], str]] = {
    "nt_xent": (losses.nt_xent, "temperature"),
    "nt_logistic": (losses.nt_logistic, "temperature"),
    "nt_logistic_semi_hard": (
        functools.partial(losses.nt_logistic, semi_hard=True),
        "temperature",
    ),
    "triplet": (losses.margin_triplet, "margin"),
    "triplet_semi_hard": (functools.partial(losses.margin_triplet, semi_hard=True), "margin"),
    "n_pair": (losses.n_pair, "l2"),
}


def _network(m: ConfigDict, parts: Parts) -> Network:
    """The encoder with a projector of `layers` layers, as in SimCLR, or without batch norm."""
    wrap = functools.partial(parts.wrapped, bn=m.bn, groups=m.bn_groups)
    widths = ((m.hidden,) * (m.layers - 1) + (m.out,))[: m.layers]
    options: dict[str, Any] = {"hidden_bias": not m.norm, "last_bias": not m.norm}
    head = heads.mlp(widths, norm=m.norm, norm_last=m.norm, **options, **parts.dtypes)
    return network(wrap(parts.encoder), wrap(head))


def _simclr(m: ConfigDict, parts: Parts, facts: Facts) -> Method:
    loss, reads = _LOSSES[m.loss]
    values = {"temperature": m.temperature, "margin": m.margin, "l2": m.l2}
    for key, value in values.items():
        default = GROUPS["method.name"]["simclr"][key].default
        if key != reads and value != default:
            raise ValueError(
                f"simclr.{key} is {value}, which has no effect on simclr.loss={m.loss!r} (it reads "
                f"simclr.{reads}); leave it at {default}."
            )
    return contrastive(_network(m, parts), functools.partial(loss, **{reads: values[reads]}))


def _moco(m: ConfigDict, parts: Parts, facts: Facts) -> Method:
    check_queue("moco", m.queue, facts.rows, 2 if m.symmetric else 1)
    encoder = parts.wrapped(parts.encoder, "per_view", m.bn_groups)
    widths = (m.hidden,) * (m.layers - 1) + (m.out,)
    head = parts.gather(heads.mlp(widths, norm=False, last_bias=True, **parts.dtypes))
    keys = models.shuffled(encoder) if m.shuffle else encoder
    return moco(
        network(encoder, head),
        network(keys, head),
        tau=decay(m, facts),
        temperature=m.temperature,
        queue=m.queue,
        symmetric=m.symmetric,
        local=facts.local,
    )


def _nnclr(m: ConfigDict, parts: Parts, facts: Facts) -> Method:
    check_queue("nnclr", m.queue, facts.rows, 1)
    wrap = functools.partial(parts.wrapped, bn=m.bn, groups=m.bn_groups)
    plain = {"hidden_bias": False, **parts.dtypes}
    projector = wrap(heads.mlp((m.hidden, m.hidden, m.out), norm_last=True, **plain))
    predictor = wrap(heads.mlp((m.predictor_hidden, m.out), last_bias=True, **plain))
    net = network(wrap(parts.encoder), projector)
    return nnclr(net, predictor, temperature=m.temperature, queue=m.queue)


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


def _supcon(m: ConfigDict, parts: Parts, facts: Facts) -> Method:
    if not facts.classes:
        raise ValueError(
            "method.name is 'supcon', whose positives are images of one class, but the data have "
            "no labels; label them, or set method.name=simclr."
        )
    scale = m.temperature / m.base_temperature if m.base_temperature else 1.0
    options = {"scale": scale, "inside": m.mean == "inside"}
    return supcon(_network(m, parts), temperature=m.temperature, **options)


METHODS = {
    "simclr": _simclr,
    "supcon": _supcon,
    "moco": _moco,
    "nnclr": _nnclr,
    "npid": _npid,
}
