"""Optimizers composed of optax parts, schedules `step -> value`, parameters chosen by name.

Schedules are functions of `TrainState.step`; optax's own counters are not used for them, so that a
restored or rolled-back step always gives the same learning rate.

A pattern chooses parameters by their path, such as "encoder/layer1_0/bn1/scale": it is one
component of the path ("predictor", "bias") or several consecutive ones ("bn1/scale").
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from byol_jax.core import Tree
from byol_jax.schedules import (
    Schedule,
    constant,
    cosine,
    cosine_tau,
    layer_decay,
    resnet_layers,
    scale_learning_rate,
    vit_layers,
    warmup_cosine,
    warmup_multistep,
)

__all__ = [
    "EXCLUDED",
    "Group",
    "Optimizer",
    "Rates",
    "Schedule",
    "adamw",
    "clip_gradients",
    "constant",
    "cosine",
    "cosine_tau",
    "held",
    "lars",
    "layer_decay",
    "learning_rates",
    "resnet_layers",
    "scale_learning_rate",
    "sgd",
    "vit_layers",
    "warmup_cosine",
    "warmup_multistep",
    "weights_mask",
]

_NOTHING = optax.MaskedNode()

# By default biases and the scales of norms are neither decayed nor adapted.
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


class Group(NamedTuple):
    """How fast a group of parameters learns: at factor * lr(step).

    factor: 0 freezes them.
    lr: replaces the optimizer's schedule; `constant(0.1)` never decays.
    """

    factor: float = 1.0
    lr: Schedule | None = None


class Rates(NamedTuple):
    """Learning rates that differ between parameters, instead of one schedule for all.

    base: for parameters in no group; this is the one shown in the metrics.
    groups: pattern -> group; the first pattern that matches a parameter wins.
    layer_factor: path -> a further factor, as from `layer_decay`.
    """

    base: Schedule
    groups: Mapping[str, Group] = MappingProxyType({})
    layer_factor: Callable[[str], float] | None = None


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _first_match(patterns: Iterable[str], path: str) -> str | None:
    return next((p for p in patterns if f"/{p}/" in f"/{path}/"), None)


def weights_mask(params: Tree, exclude: Sequence[str] = EXCLUDED) -> Tree:
    """True for every leaf that is decayed and adapted, False if a pattern excludes it."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: _first_match(exclude, _name(path)) is None, params
    )


def learning_rates(rates: Rates, params: Tree, step: Array) -> Tree:
    """The learning rate of every parameter at a step, as scalars in a tree like `params`."""
    base, groups, layer_factor = rates
    lrs: dict[str | None, Array] = {None: base(step)}  # None: no pattern matches
    lrs |= {p: lrs[None] if g.lr is None else g.lr(step) for p, g in groups.items()}

    def rate(path: tuple[Any, ...], _: Any) -> Array:
        pattern = _first_match(groups, _name(path))
        factor = 1.0 if layer_factor is None else layer_factor(_name(path))
        factor *= 1.0 if pattern is None else groups[pattern].factor
        return lrs[pattern] if factor == 1 else factor * lrs[pattern]

    return jax.tree_util.tree_map_with_path(rate, params)


def _left_out(leaf: Any) -> bool:
    """Whether a parameter has been taken out of the tree, for another part of the optimizer."""
    return isinstance(leaf, optax.MaskedNode)


def _check_patterns(params: Tree, groups: Iterable[str], exclude: Sequence[str]) -> None:
    """Refuse patterns without effect, which are most likely misspelt."""
    leaves = jax.tree_util.tree_flatten_with_path(params, is_leaf=_left_out)[0]
    paths = [_name(path) for path, _ in leaves]
    used = {_first_match(groups, path) for path in paths}
    used |= {p for p in exclude for path in paths if _first_match([p], path)}
    used |= set(EXCLUDED) & set(exclude)  # a network without biases or norms is not a mistake
    for pattern in (*groups, *exclude):
        if pattern not in used:
            there = sorted({part for path in paths for part in path.split("/")})
            raise ValueError(
                f"The pattern {pattern!r} of groups, exclude or hold matches no parameter left by "
                "the patterns before it; expected a component of a path, or several joined by "
                f"'/'. Correct or remove it; the components are: {', '.join(there)}."
            )


def _leafwise(rule: Callable[..., Array]) -> optax.GradientTransformationExtraArgs:
    """rule(update, param, lr, decay) on every leaf; lr (a tree) and decay are passed to update."""

    def update(updates: Tree, state: Tree, params: Tree, *, lr: Tree, decay: Any) -> Any:
        return jax.tree.map(lambda *leaves: rule(*leaves, decay), updates, params, lr), state

    return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)


def _times_lr(update: Array, param: Array, lr: Array, decay: Any) -> Array:
    return (-lr * update).astype(update.dtype)


def _decayed(update: Array, param: Array, lr: Array, decay: Any) -> Array:
    if isinstance(decay, int | float) and decay == 0:
        return update
    return (update + decay * param).astype(update.dtype)


def _adapted(update: Array, param: Array, lr: Array, decay: Any, *, eta: float) -> Array:
    """LARS: the update times eta |p| / |g|, or times 1 if either norm is 0.

    `optax.scale_by_trust_ratio` reads every parameter and gradient twice: the second time to
    replace a leaf whose norm is below a bound by ones.
    """
    norms = jnp.sqrt(jnp.square(param).sum()), jnp.sqrt(jnp.square(update).sum())
    nonzero = (norms[0] > 0) & (norms[1] > 0)
    ratio = jnp.where(nonzero, eta * norms[0] / jnp.where(nonzero, norms[1], 1), 1)
    return update * ratio


def _larc(update: Array, param: Array, lr: Array, decay: Any, *, eta: float, clip: bool) -> Array:
    """LARC: decayed, then times eta |p| / (|g| + wd |p| + 1e-8); with `clip` over lr, at most 1."""
    norms = jnp.sqrt(jnp.square(param).sum()), jnp.sqrt(jnp.square(update).sum())
    ratio = eta * norms[0] / (norms[1] + decay * norms[0] + 1e-8)
    if clip:  # compared before dividing, since lr is 0 at the start of a warm-up
        ratio = jnp.where(ratio < lr, ratio / jnp.where(lr > 0, lr, 1), 1)
    # If either norm is 0 the gradient is left unchanged: not even decay is added.
    nonzero = (norms[0] > 0) & (norms[1] > 0)
    update_and_decay = update + jnp.where(nonzero, decay, 0) * param
    return (update_and_decay * jnp.where(nonzero, ratio, 1)).astype(update.dtype)


def _masked(rule: Callable[..., Array], exclude: Sequence[str], **options: float) -> Any:
    mask = functools.partial(weights_mask, exclude=exclude)
    leafwise = _leafwise(functools.partial(rule, **options))
    return optax.masked(leafwise, mask, mask_compatible_extra_args=True)


def _optimizer(
    parts: list[Any], lr: Schedule | Rates, weight_decay: float | Schedule, exclude: Sequence[str]
) -> Optimizer:
    transform = optax.chain(*parts)
    rates = lr if isinstance(lr, Rates) else Rates(lr)

    def init(params: Tree) -> Tree:
        _check_patterns(params, rates.groups, exclude)
        return transform.init(params)

    def update(grads: Tree, opt_state: Tree, params: Tree, step: Array) -> tuple[Tree, Tree]:
        lrs = learning_rates(rates, params, step)
        decay = weight_decay(step) if callable(weight_decay) else weight_decay
        return transform.update(grads, opt_state, params, lr=lrs, decay=decay)

    return Optimizer(init, update, rates.base)


def clip_gradients(optimizer: Optimizer, max_norm: float, *, per_tensor: bool = False) -> Optimizer:
    """An optimizer applied to gradients scaled down to an l2 norm of at most `max_norm`.

    Args:
      optimizer: any; its state is unchanged.
      max_norm: of all gradients together, including those of an online probe.
      per_tensor: clip each tensor separately instead.

    Raises:
      ValueError: max_norm is not above 0.

    Reference: Pascanu et al. 2013; facebookresearch/dino:utils.py (clip_gradients) for per_tensor.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm is {max_norm}; expected above 0. To clip nothing, do not wrap.")

    def clip(grad: Array) -> Array:
        return grad * jnp.minimum(max_norm / (jnp.sqrt(jnp.square(grad).sum()) + 1e-6), 1)

    def update(grads: Tree, opt_state: Tree, params: Tree, step: Array) -> tuple[Tree, Tree]:
        if per_tensor:
            grads = jax.tree.map(clip, grads)
        else:
            grads, _ = optax.clip_by_global_norm(max_norm).update(grads, optax.EmptyState())
        return optimizer.update(grads, opt_state, params, step)

    return optimizer._replace(update=update)


def held(optimizer: Optimizer, names: Sequence[str], steps: int) -> Optimizer:
    """An optimizer that leaves some parameters, and its own state for them, as they are at first.

    As in torch when a gradient is None: no decay and no momentum, and Adam's count for these
    parameters starts when they are released.

    Args:
      optimizer: any that treats each parameter on its own; clip outside of this.
      names: patterns of the parameters held.
      steps: for how many steps, from step 0 on.

    Returns:
      The optimizer; its init raises ValueError for a pattern that matches no parameter.

    Reference: facebookresearch/dino:utils.py (cancel_gradients_last_layer);
      facebookresearch/swav:main_swav.py (freeze_prototypes_niters).
    """

    def apart(tree: Tree) -> tuple[Tree, Tree]:
        """(the parameters that learn, those that are held), the others left out of either."""

        def part(mine: bool) -> Tree:
            return jax.tree_util.tree_map_with_path(
                lambda path, x: (
                    x if (_first_match(names, _name(path)) is not None) == mine else _NOTHING
                ),
                tree,
            )

        return part(False), part(True)

    def init(params: Tree) -> Tree:
        _check_patterns(params, (), names)
        return tuple(map(optimizer.init, apart(params)))

    def update(grads: Tree, opt_state: Tree, params: Tree, step: Array) -> tuple[Tree, Tree]:
        pairs = zip(apart(grads), opt_state, apart(params), strict=True)
        (free, free_state), (late, late_state) = (optimizer.update(*p, step) for p in pairs)
        released = step >= steps
        late = jax.tree.map(lambda u: jnp.where(released, u, jnp.zeros_like(u)), late)
        late_state = jax.tree.map(
            lambda new, old: jnp.where(released, new, old), late_state, opt_state[1]
        )
        updates = jax.tree.map(lambda a, b: b if _left_out(a) else a, free, late, is_leaf=_left_out)
        return updates, (free_state, late_state)

    return optimizer._replace(init=init, update=update)


def lars(
    lr: Schedule | Rates,
    *,
    weight_decay: float | Schedule = 0.0,
    momentum: float = 0.9,
    eta: float = 1e-3,
    nesterov: bool = False,
    lr_inside: bool = False,
    clip: bool = False,
    larc: bool = False,
    exclude: Sequence[str] = EXCLUDED,
) -> Optimizer:
    """Layer-wise adaptive rate scaling.

    g <- g + wd p;  g <- g eta |p| / |g| (1 if either norm is 0);
    m <- momentum m + g;  p <- p - lr m.

    Args:
      lr: schedule, or `Rates`.
      weight_decay, momentum, eta: as above; the decay is a number or a schedule.
      nesterov: use Nesterov momentum.
      lr_inside: multiply by lr before the momentum buffer (as SimCLR and `optax.lars` do)
        instead of after it (as BYOL does). The two agree only at a constant lr.
      clip: adapt as solo-learn does, which never raises a rate; the first line becomes
        g <- (g + wd p) min(eta |p| / (|g| + wd |p| + 1e-8) / lr, 1), or g if either norm is 0.
      larc: adapt as Apex's LARC does without its clip (as for SwAV): the same line, but without
        "/ lr" and the minimum. Not with `clip`, which is LARC with its clip.
      exclude: patterns of parameters that are neither decayed nor adapted; () for none.

    Returns:
      The optimizer; its init raises ValueError for a pattern that matches no parameter.

    Raises:
      ValueError: both `clip` and `larc`.

    Reference: You et al. 2017; google-deepmind/deepmind-research:byol/utils/optimizers.py;
      google-research/simclr:lars_optimizer.py; vturrisi/solo-learn:solo/utils/lars.py for `clip`;
      NVIDIA/apex:apex/parallel/LARC.py for `larc`.
    """
    if clip and larc:
        raise ValueError("clip and larc are both true; clip is LARC with its clip: set one only.")
    together = clip or larc  # decay and adaptation in one
    if together:
        adapt = _masked(functools.partial(_larc, clip=clip), exclude, eta=eta)
    else:
        adapt = _masked(_adapted, exclude, eta=eta)
    trace = optax.trace(momentum, nesterov)
    tail = [_leafwise(_times_lr), trace] if lr_inside else [trace, _leafwise(_times_lr)]
    head = [adapt] if together else [_masked(_decayed, exclude), adapt]
    return _optimizer(head + tail, lr, weight_decay, exclude)


def sgd(
    lr: Schedule | Rates,
    *,
    weight_decay: float | Schedule = 0.0,
    momentum: float = 0.9,
    nesterov: bool = False,
    exclude: Sequence[str] = EXCLUDED,
) -> Optimizer:
    """SGD with momentum; the decay is added to the gradient. Arguments as for `lars`."""
    parts = [_masked(_decayed, exclude), optax.trace(momentum, nesterov), _leafwise(_times_lr)]
    return _optimizer(parts, lr, weight_decay, exclude)


def adamw(
    lr: Schedule | Rates,
    *,
    weight_decay: float | Schedule = 0.0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    exclude: Sequence[str] = EXCLUDED,
) -> Optimizer:
    """Adam with decoupled decay. Arguments as for `lars`, plus Adam's b1, b2 and eps."""
    adam = optax.scale_by_adam(b1, b2, eps)
    parts = [adam, _masked(_decayed, exclude), _leafwise(_times_lr)]
    return _optimizer(parts, lr, weight_decay, exclude)
