"""Build SimCLR and its relatives: methods that compare the images of a batch."""

from __future__ import annotations

import functools

from ml_collections import ConfigDict

from byol_jax import models, optim
from byol_jax.core import Method
from byol_jax.experiment.methods.parts import Facts, Parts
from byol_jax.methods.moco import moco
from byol_jax.methods.nnclr import nnclr
from byol_jax.methods.simclr import simclr
from byol_jax.models import heads
from byol_jax.models.network import network


def _simclr(m: ConfigDict, parts: Parts, facts: Facts) -> Method:
    wrap = functools.partial(parts.wrapped, bn=m.bn, groups=m.bn_groups)
    widths = (m.hidden,) * (m.layers - 1) + (m.out,)
    head = heads.mlp(widths, hidden_bias=False, norm_last=True, **parts.dtypes)
    return simclr(network(wrap(parts.encoder), wrap(head)), temperature=m.temperature)


def _moco(m: ConfigDict, parts: Parts, facts: Facts) -> Method:
    check_queue("moco", m.queue, facts.rows, 2 if m.symmetric else 1)
    schedules = {"cosine": optim.cosine_tau(m.tau, facts.steps), "constant": optim.constant(m.tau)}
    encoder = parts.wrapped(parts.encoder, "per_view", m.bn_groups)
    widths = (m.hidden,) * (m.layers - 1) + (m.out,)
    head = parts.gather(heads.mlp(widths, norm=False, last_bias=True, **parts.dtypes))
    keys = models.shuffled(encoder) if m.shuffle else encoder
    return moco(
        network(encoder, head),
        network(keys, head),
        tau=schedules[m.tau_schedule],
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


def check_queue(method: str, size: int, rows: int, views: int) -> None:
    """Refuse a queue that does not hold whole batches.

    Args:
      method: its name.
      size: of the queue.
      rows: of a (micro-)batch.
      views: of each image that enter the queue.

    Raises:
      ValueError: gives the nearest sizes that work.
    """
    new = rows * views
    if size % new:
        below, above = size // new * new, (size // new + 1) * new
        remedy = f"{below} or {above}" if below else f"{above}"
        raise ValueError(
            f"{method}.queue is {size}; expected a multiple of the {new} that a (micro-)batch of "
            f"{rows} images adds; set it to {remedy}."
        )


METHODS = {"simclr": _simclr, "moco": _moco, "nnclr": _nnclr}
