"""Build a method from a config, with its encoder, heads and probe."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from ml_collections import ConfigDict

from byol_jax import losses, models, optim
from byol_jax.config import group_of
from byol_jax.core import Encoder, Method
from byol_jax.methods.byol import Objective, byol
from byol_jax.methods.probe import with_probe
from byol_jax.methods.siamese import siamese
from byol_jax.methods.simclr import simclr
from byol_jax.methods.supervised import supervised
from byol_jax.models import heads
from byol_jax.models.heads import Head
from byol_jax.models.network import network


class Facts(NamedTuple):
    """What a builder may need to know about a run besides its own keys.

    examples, classes: of the data; 0 classes if nothing is labelled.
    steps, steps_per_epoch: of the run.
    """

    examples: int
    classes: int
    steps: int
    steps_per_epoch: int


class Parts(NamedTuple):
    """What methods are made of.

    encoder: as configured. gather: wraps encoders and heads if the state is sharded.
    """

    encoder: Encoder
    gather: Callable[[Any], Any]

    @property
    def dtypes(self) -> dict[str, Any]:
        """Dtypes for heads: the same as the encoder's."""
        dtype = models.DTYPES[self.encoder.config["dtype"]]
        return {
            "dtype": dtype,
            "param_dtype": jnp.float64 if dtype == jnp.float64 else jnp.float32,
        }

    def wrapped(self, module: Any, bn: str, groups: int) -> Any:
        """An encoder or head with the batch-norm statistics that a method specifies."""
        if bn == "joint":
            module = models.joint(module)
        if groups > 1:
            module = models.grouped(module, groups)
        return self.gather(module)


def build_encoder(config: ConfigDict, channels: int) -> Encoder:
    """The encoder that a config names."""
    own = config.get(group_of("encoder.name", config.encoder.name), ConfigDict())
    return models.make_encoder(**config.encoder.to_dict(), **own.to_dict(), channels=channels)


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
    schedules = {"cosine": optim.cosine_tau(m.tau, facts.steps), "constant": optim.constant(m.tau)}
    wrap, projector, predictor = _heads(m, parts)
    return byol(
        network(wrap(parts.encoder), projector),
        predictor,
        tau=schedules[m.tau_schedule],
        objective=_objective(m),
    )


def _siamese(m: ConfigDict, parts: Parts, facts: Facts) -> Method:
    wrap, projector, predictor = _heads(m, parts)
    return siamese(
        network(wrap(parts.encoder), projector),
        predictor,
        objective=_objective(m),
        stop_gradient=m.stop_gradient,
    )


def _simclr(m: ConfigDict, parts: Parts, facts: Facts) -> Method:
    wrap = functools.partial(parts.wrapped, bn=m.bn, groups=m.bn_groups)
    widths = (m.hidden,) * (m.layers - 1) + (m.out,)
    head = heads.mlp(widths, hidden_bias=False, norm_last=True, **parts.dtypes)
    return simclr(network(wrap(parts.encoder), wrap(head)), temperature=m.temperature)


def _supervised(m: ConfigDict, parts: Parts, facts: Facts) -> Method:
    encoder = parts.wrapped(parts.encoder, "per_view", m.bn_groups)
    if not facts.classes:
        raise ValueError("method.name is 'supervised', but the data have no labels.")
    return supervised(encoder, facts.classes)


METHODS: dict[str, Callable[[ConfigDict, Parts, Facts], Method]] = {
    "byol": _byol,
    "siamese": _siamese,
    "simclr": _simclr,
    "supervised": _supervised,
}


def build_method(config: ConfigDict, parts: Parts, facts: Facts) -> Method:
    """The method that a config names, with its probe if there are labels.

    Args:
      config: resolved.
      parts: the encoder and its wrapper.
      facts: of the run.

    Raises:
      ValueError: it does not work with these data.
    """
    name = config.method.name
    method = METHODS[name](config[name], parts, facts)
    if config.method.probe and facts.classes and name != "supervised":
        classifier = heads.linear(facts.classes, dtype=parts.dtypes["param_dtype"])
        method = with_probe(method, parts.gather(classifier), parts.encoder.dim)
    return method
