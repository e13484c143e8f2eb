"""Optimizers composed from optax parts, schedules `step -> value`, masks by name.

Schedules are functions of `TrainState.step`; optax's own counters are not used for them, so that a
restored or rolled-back step always gives the same learning rate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

Tree = Any
Schedule = Callable[[Array], Array]

# Leaves with these names are neither decayed nor adapted: biases, and scales of norms.
EXCLUDED = ("bias", "scale")


class Optimizer(NamedTuple):
    """A gradient transformation and its learning rate.

    init(params) -> opt_state
    update(grads, opt_state, params, step) -> (updates to add, opt_state)
    lr: step -> learning rate
    """

    init: Callable[[Tree], Tree]
    update: Callable[[Tree, Tree, Tree, Array], tuple[Tree, Tree]]
    lr: Schedule


def weights_mask(params: Tree) -> Tree:
    """True for every leaf that is decayed and adapted, False for biases and norms, by name."""

    def keep(path: tuple[Any, ...], _: Array) -> bool:
        return str(getattr(path[-1], "key", path[-1])) not in EXCLUDED

    return jax.tree_util.tree_map_with_path(keep, params)


def warmup_cosine(base: float, warmup_steps: int, total_steps: int) -> Schedule:
    """Linear from 0 to `base` over W = warmup_steps, then cosine to 0 at K = total_steps.

    Reference: google-deepmind/deepmind-research:byol/utils/schedules.py (learning_schedule).
    """

    def schedule(step: Array) -> Array:
        step = jnp.asarray(step, jnp.result_type(float))
        warm = base * step / max(warmup_steps, 1)
        done = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
        cosine = 0.5 * base * (1 + jnp.cos(jnp.pi * jnp.clip(done, 0, 1)))
        return jnp.where(step < warmup_steps, warm, cosine)

    return schedule


def constant(value: float) -> Schedule:
    """The same value at every step."""
    return lambda step: jnp.full((), value, jnp.result_type(float))


def cosine_tau(base: float, total_steps: int) -> Schedule:
    """BYOL's decay of the target: 1 - (1 - base) (cos(pi k / K) + 1) / 2, from `base` to 1.

    Reference: Grill et al. 2020, section 3.3; k is the step before the increment.
    """

    def schedule(step: Array) -> Array:
        done = jnp.asarray(step, jnp.result_type(float)) / total_steps
        return 1 - (1 - base) * (jnp.cos(jnp.pi * done) + 1) / 2

    return schedule


def scale_learning_rate(base: float, batch_size: int, rule: str) -> float:
    """The learning rate at a global batch: "linear" base B / 256, "sqrt" base sqrt(B), "none"."""
    rules = {
        "linear": base * batch_size / 256,
        "sqrt": base * batch_size**0.5,
        "none": base,
    }
    if rule not in rules:
        raise ValueError(f"optimizer.lr_scaling is {rule!r}; expected one of {', '.join(rules)}.")
    return rules[rule]


def _scale_by_lr() -> optax.GradientTransformationExtraArgs:
    """Multiply by -lr, where lr comes in with every update."""

    def update(updates: Tree, state: Tree, params: Tree = None, *, lr: Array) -> tuple[Tree, Tree]:
        del params
        return jax.tree.map(lambda u: (-lr * u).astype(u.dtype), updates), state

    return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)


def _scale_by_trust_ratio(eta: float) -> optax.GradientTransformation:
    """Multiply each leaf by eta |p| / |g|, by 1 where either norm is 0.

    `optax.scale_by_trust_ratio` reads every parameter and gradient twice: the second time to put
    ones in the place of a leaf whose norm is below a bound.
    """

    def scale(update: Array, param: Array) -> Array:
        norms = jnp.sqrt(jnp.square(param).sum()), jnp.sqrt(jnp.square(update).sum())
        nonzero = (norms[0] > 0) & (norms[1] > 0)
        ratio = jnp.where(nonzero, eta * norms[0] / jnp.where(nonzero, norms[1], 1), 1)
        return update * ratio

    def update(updates: Tree, state: Tree, params: Tree = None) -> tuple[Tree, Tree]:
        return jax.tree.map(scale, updates, params), state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


def _optimizer(parts: list[Any], lr: Schedule) -> Optimizer:
    transform = optax.chain(*parts)

    def update(grads: Tree, opt_state: Tree, params: Tree, step: Array) -> tuple[Tree, Tree]:
        return transform.update(grads, opt_state, params, lr=lr(step))

    return Optimizer(transform.init, update, lr)


def lars(
    lr: Schedule,
    *,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    eta: float = 1e-3,
    nesterov: bool = False,
    lr_inside: bool = False,
) -> Optimizer:
    """Layer-wise adaptive rate scaling.

    g <- g + wd p;  g <- g eta |p| / |g| (1 if either norm is 0);
    m <- momentum m + g;  p <- p - lr m.
    Biases and norm parameters are left out of decay and adaptation.

    Args:
      lr: schedule.
      weight_decay, momentum, eta: as above.
      nesterov: look ahead in the momentum.
      lr_inside: multiply by lr before the momentum buffer (SimCLR's order; also `optax.lars`'s)
        instead of after it (BYOL's). They agree only at constant lr.

    Returns:
      The optimizer.

    Reference: You et al. 2017; google-deepmind/deepmind-research:byol/utils/optimizers.py;
      google-research/simclr:lars_optimizer.py.
    """
    adapt = [
        optax.add_decayed_weights(weight_decay, weights_mask),
        optax.masked(_scale_by_trust_ratio(eta), weights_mask),
    ]
    trace = optax.trace(momentum, nesterov)
    tail = [_scale_by_lr(), trace] if lr_inside else [trace, _scale_by_lr()]
    return _optimizer(adapt + tail, lr)


def sgd(
    lr: Schedule, *, weight_decay: float = 0.0, momentum: float = 0.9, nesterov: bool = False
) -> Optimizer:
    """Stochastic gradient descent with momentum; decay (of weights only) joins the gradient."""
    decay = optax.add_decayed_weights(weight_decay, weights_mask)
    return _optimizer([decay, optax.trace(momentum, nesterov), _scale_by_lr()], lr)


def adamw(
    lr: Schedule, *, weight_decay: float = 0.0, b1: float = 0.9, b2: float = 0.999
) -> Optimizer:
    """Adam with decoupled decay of the weights (not of biases and norms)."""
    decay = optax.add_decayed_weights(weight_decay, weights_mask)
    return _optimizer([optax.scale_by_adam(b1, b2), decay, _scale_by_lr()], lr)
