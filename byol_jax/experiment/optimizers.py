"""From a config to an optimizer with its schedules."""

from __future__ import annotations

from collections.abc import Callable

from ml_collections import ConfigDict

from byol_jax import optim
from byol_jax.experiment.methods import Facts
from byol_jax.optim import Optimizer, Schedule


def _lars(o: ConfigDict, lr: Schedule, decay: float) -> Optimizer:
    return optim.lars(
        lr,
        weight_decay=decay,
        momentum=o.momentum,
        nesterov=o.nesterov,
        eta=o.eta,
        lr_inside=o.lr_inside,
    )


def _sgd(o: ConfigDict, lr: Schedule, decay: float) -> Optimizer:
    return optim.sgd(lr, weight_decay=decay, momentum=o.momentum, nesterov=o.nesterov)


def _adamw(o: ConfigDict, lr: Schedule, decay: float) -> Optimizer:
    return optim.adamw(lr, weight_decay=decay, b1=o.b1, b2=o.b2, eps=o.eps)


OPTIMIZERS: dict[str, Callable[[ConfigDict, Schedule, float], Optimizer]] = {
    "lars": _lars,
    "sgd": _sgd,
    "adamw": _adamw,
}


def build_optimizer(config: ConfigDict, facts: Facts) -> Optimizer:
    """The optimizer that a config names, with its schedules.

    Args:
      config: resolved.
      facts: gives the steps of the run and of an epoch.
    """
    o = config.optimizer
    base = optim.scale_learning_rate(o.lr, config.batch_size, o.lr_scaling)
    lr = optim.warmup_cosine(base, round(o.warmup_epochs * facts.steps_per_epoch), facts.steps)
    return OPTIMIZERS[o.name](config[o.name], lr, o.weight_decay)
