"""Build BYOL and its relatives: methods in which one embedding predicts another."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from byol_jax import losses
from byol_jax.core import Method
from byol_jax.experiment.methods.parts import Facts, Parts, decay
from byol_jax.methods.byol import Objective, byol
from byol_jax.methods.siamese import siamese
from byol_jax.methods.target import ahead
from byol_jax.models import heads
from byol_jax.models.heads import Head
from byol_jax.models.network import network


def _heads(m: ConfigDict, parts: Parts) -> tuple[Callable[[Any], Any], Head, Head | None]:
    """(wrapper of encoder and heads, projector, predictor) for BYOL and its relatives."""
    wrap = functools.partial(parts.wrapped, bn=m.bn, groups=m.bn_groups)
    head = wrap(heads.mlp((m.hidden, m.out), **parts.dtypes))
    return wrap, head, head if m.predictor else None


def _objective(m: ConfigDict) -> Objective:
    beta, temperature = m.beta, m.temperature
    if not beta:
        return losses.regression
    return functools.partial(losses.regression_with_negatives, beta=beta, temperature=temperature)


def _byol(m: ConfigDict, parts: Parts, facts: Facts) -> Method:
    if facts.local and m.beta:
        raise ValueError(
            f"byol.beta is {m.beta}, but the recipe makes {facts.local} local views, for which "
            "there are no negatives; set it to 0.0, or views.recipe to one without local views."
        )
    wrap, projector, predictor = _heads(m, parts)
    return byol(
        network(wrap(parts.encoder), projector),
        predictor,
        tau=decay(m, facts),
        objective=_objective(m),
        local=facts.local,
    )


def _siamese(m: ConfigDict, parts: Parts, facts: Facts) -> Method:
    wrap, projector, predictor = _heads(m, parts)
    return siamese(
        network(wrap(parts.encoder), projector),
        predictor,
        objective=_objective(m),
        stop_gradient=m.stop_gradient,
    )


def _mocov3(m: ConfigDict, parts: Parts, facts: Facts) -> Method:
    wrap = functools.partial(parts.wrapped, bn=m.bn, groups=m.bn_groups)
    plain = {"hidden_bias": False, **parts.dtypes}
    widths = (m.hidden,) * (m.layers - 1) + (m.out,)
    projector = wrap(heads.mlp(widths, norm_last=True, scale_last=False, **plain))
    predictor = wrap(
        heads.mlp((m.hidden, m.out), norm_last=m.predictor_norm, scale_last=False, **plain)
    )
    return byol(
        network(wrap(parts.encoder), projector),
        predictor,
        tau=ahead(decay(m, facts)),
        objective=functools.partial(losses.symmetric_info_nce, temperature=m.temperature),
        copy=True,
    )


def _simsiam(m: ConfigDict, parts: Parts, facts: Facts) -> Method:
    wrap = functools.partial(parts.wrapped, bn=m.bn, groups=m.bn_groups)
    plain = {"hidden_bias": False, **parts.dtypes}
    widths = (m.hidden,) * (m.layers - 1) + (m.out,)
    projector = wrap(heads.mlp(widths, norm_last=True, scale_last=False, **plain))
    predictor = wrap(heads.mlp((m.predictor_hidden, m.out), last_bias=True, **plain))
    net = network(wrap(parts.encoder), projector)
    return siamese(net, predictor, objective=losses.negative_cosine)


METHODS = {"byol": _byol, "siamese": _siamese, "mocov3": _mocov3, "simsiam": _simsiam}
