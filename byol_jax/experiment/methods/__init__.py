"""Build a method from a config, with its encoder, heads and probe; one file per family."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from byol_jax.config import names_in
from byol_jax.core import Method
from byol_jax.experiment.methods import (
    clips,
    clusters,
    contrastive,
    distill,
    masked,
    predictive,
    pretext,
    redundancy,
    supervised,
)
from byol_jax.experiment.methods.parts import Facts, Parts, build_encoder
from byol_jax.methods.probe import with_probe
from byol_jax.methods.several import several
from byol_jax.models import heads

__all__ = ["METHODS", "Facts", "Parts", "build_encoder", "build_method"]


def _several(config: ConfigDict, parts: Parts, facts: Facts) -> Method:
    """The tasks of `several.tasks`, each built from its own group, in turns."""
    tasks, turns = names_in(config.several.tasks), config.several.turns
    if config.method.probe and "exemplar" in tasks:
        raise ValueError(
            "several.tasks has exemplar, which shows other images of a batch in place of some, and "
            "method.probe would give them the wrong labels; set it to False."
        )
    methods = {name: pretext.METHODS[name](config[name], parts, facts) for name in tasks}
    return several(parts.gather(parts.encoder), methods, np.repeat(range(len(tasks)), turns))


METHODS: dict[str, Callable[[ConfigDict, Parts, Facts], Method]] = {
    **predictive.METHODS,
    **contrastive.METHODS,
    **redundancy.METHODS,
    **clusters.METHODS,
    **distill.METHODS,
    **masked.METHODS,
    **pretext.METHODS,
    **clips.METHODS,
    **supervised.METHODS,
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
    if name == "several":
        method = _several(config, parts, facts)
    else:
        method = METHODS[name](config[name], parts, facts)
    if config.method.probe and facts.classes and name not in ("supervised", "distill"):
        classifier = heads.linear(facts.classes, dtype=parts.dtypes["param_dtype"])
        method = with_probe(method, parts.gather(classifier), parts.encoder.dim)
    return method
