"""Build an optimizer with its schedules from a config."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from byol_jax import optim
from byol_jax.experiment.methods import Facts
from byol_jax.models.resnet import DEPTHS
from byol_jax.models.vit import SIZES, TOKENS
from byol_jax.optim import Group, Optimizer, Rates, Schedule

Common = dict[str, Any]  # arguments of all optimizers: weight_decay, exclude


def _lars(o: ConfigDict, rates: Rates, common: Common) -> Optimizer:
    if o.clip and o.larc:
        raise ValueError(
            "lars.clip and lars.larc are both true; lars.clip is LARC with its clip: set one only."
        )
    return optim.lars(
        rates,
        momentum=o.momentum,
        nesterov=o.nesterov,
        eta=o.eta,
        lr_inside=o.lr_inside,
        clip=o.clip,
        larc=o.larc,
        **common,
    )


def _sgd(o: ConfigDict, rates: Rates, common: Common) -> Optimizer:
    return optim.sgd(rates, momentum=o.momentum, nesterov=o.nesterov, **common)


def _adamw(o: ConfigDict, rates: Rates, common: Common) -> Optimizer:
    return optim.adamw(rates, b1=o.b1, b2=o.b2, eps=o.eps, **common)


OPTIMIZERS: dict[str, Callable[[ConfigDict, Rates, Common], Optimizer]] = {
    "lars": _lars,
    "sgd": _sgd,
    "adamw": _adamw,
}


def build_optimizer(config: ConfigDict, facts: Facts) -> Optimizer:
    """The optimizer that a config names, with its schedules.

    Args:
      config: resolved.
      facts: has the steps of the run and per epoch.

    Raises:
      ValueError: values do not fit together.
    """
    o = config.optimizer
    base = optim.scale_learning_rate(o.lr, config.batch_size, o.lr_scaling)
    common = {"weight_decay": _decay(o, facts), "exclude": _excluded(config)}
    rates = Rates(_schedule(o, base, facts), _groups(o, base), _layer_factor(config))
    optimizer = OPTIMIZERS[o.name](config[o.name], rates, common)
    names, steps = _held(o, facts)
    if names:  # inside the clips: a gradient counts, and is then dropped
        optimizer = optim.held(optimizer, names, steps)
    norm, tensor = o.clip_norm, o.clip_tensor
    if tensor:
        optimizer = optim.clip_gradients(optimizer, tensor, per_tensor=True)
    if norm:  # the outermost wrapper clips first
        optimizer = optim.clip_gradients(optimizer, norm)
    return optimizer


def _schedule(o: ConfigDict, base: float, facts: Facts) -> Schedule:
    """The learning rate as a function of the step."""
    warmup = round(o.warmup_epochs * facts.steps_per_epoch)
    milestones = [round(epoch * facts.steps_per_epoch) for epoch in o.milestones]
    start, final, drop = o.warmup_start * base, o.final * base, o.drop
    if o.schedule == "cosine":
        return optim.warmup_cosine(base, warmup, facts.steps, final=final, warmup_start=start)
    if o.warmup_start:
        raise ValueError(
            f"optimizer.warmup_start is {o.warmup_start}; expected 0.0 with "
            "optimizer.schedule=multistep, whose warm-up starts from 0."
        )
    return optim.warmup_multistep(base, warmup, milestones, factor=drop)


def _decay(o: ConfigDict, facts: Facts) -> float | Schedule:
    """The weight decay, as a number or a function of the step."""
    start, end = o.weight_decay, o.weight_decay_end
    if end == -1:
        return start
    if end < 0:
        raise ValueError(
            f"optimizer.weight_decay_end is {end}; expected 0 or more, or -1.0 to keep "
            "optimizer.weight_decay to the end."
        )
    return optim.cosine(start, end, facts.steps)


def _names(key: str, value: Any) -> tuple[str, ...]:
    """The value of a key, which must be names.

    Raises:
      ValueError: something in it is not a name.
    """
    names = tuple(value)
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"optimizer.{key} is {names!r}; expected names, e.g. ('bias', 'scale').")
    return names


def _excluded(config: ConfigDict) -> tuple[str, ...]:
    """`optimizer.exclude`, without tokens and positions where these are not trained."""
    names, encoder = _names("exclude", config.optimizer.exclude), config.encoder.name
    if config.method.name != "supervised" or encoder not in SIZES:
        return names
    last, blocks = config.supervised.last, _blocks(config)
    return tuple(n for n in names if last in (-1, blocks) or n not in (*TOKENS, "pos_embed"))


def _blocks(config: ConfigDict) -> int:
    """Of a transformer."""
    return config.vit.depth or SIZES[config.encoder.name][1]


def _held(o: ConfigDict, facts: Facts) -> tuple[tuple[str, ...], int]:
    """The parameters left as they are at first, and for how many steps.

    Raises:
      ValueError: there are names without a time, a time without names, or two times.
    """
    names, epochs, steps = _names("hold", o.hold), o.hold_epochs, o.hold_steps
    if epochs and steps:
        raise ValueError(
            f"optimizer.hold_epochs is {epochs} and optimizer.hold_steps is {steps}; set one to 0."
        )
    if bool(names) != bool(epochs or steps):
        raise ValueError(
            f"optimizer.hold is {names!r}, optimizer.hold_epochs {epochs} and optimizer.hold_steps "
            f"{steps}; expected names and how long to hold them, or neither."
        )
    return names, steps or round(epochs * facts.steps_per_epoch)


def _groups(o: ConfigDict, base: float) -> dict[str, Group]:
    """Parameters with rates of their own, by name.

    Raises:
      ValueError: they are not names, or not pairs of a name and a factor.
    """
    fixed, factors = _names("lr_fixed", o.lr_fixed), tuple(o.lr_factors)
    for pair in factors:
        fits = isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)
        if not fits or type(pair[1]) not in (int, float) or not 0 <= pair[1] < math.inf:
            raise ValueError(
                f"optimizer.lr_factors has {pair!r}; expected pairs of a name and a factor of lr, "
                "0 or more, e.g. (('bias', 0.024), ('scale', 0.024))."
            )
    constant = optim.constant(base)
    return {name: Group(lr=constant) for name in fixed} | {
        name: Group(factor=factor) for name, factor in factors
    }


def _layer_factor(config: ConfigDict) -> Callable[[str], float] | None:
    """Layer-wise decay of the learning rate; None if there is none."""
    decay, name = config.optimizer.layer_decay, config.encoder.name
    if decay == 1:
        return None
    if name in SIZES:
        return optim.layer_decay(decay, *optim.vit_layers(_blocks(config)))
    if not name.startswith("resnet"):
        raise ValueError(
            f"optimizer.layer_decay is {decay}, but encoder.name {name!r} has no blocks to count "
            "layers by; set it to 1.0 or use a ResNet or a transformer."
        )
    depth = int(name.removeprefix("resnet"))
    return optim.layer_decay(decay, *optim.resnet_layers(DEPTHS[depth][0]))
