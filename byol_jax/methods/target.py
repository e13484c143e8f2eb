"""A target network: a second network that follows the online one and is never trained.

It is stored in extra["target"]: {"params", "stats"} of a `models.network.Network`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import Array

from byol_jax.core import Tree
from byol_jax.models.network import Network
from byol_jax.optim import Schedule


def follow(tau: Schedule) -> Callable[[Tree, Tree, Array], tuple[Tree, dict[str, Array]]]:
    """A `Method.after_update` that updates the target: xi <- tau xi + (1 - tau) theta.

    Every parameter follows, including biases and norms; statistics do not (the target has its own).

    Args:
      tau: the decay at each step; a constant 1 keeps the target as initialised.

    Returns:
      (params, extra, step) -> (extra, {"target/tau"}).
    """

    def after_update(params: Tree, extra: Tree, step: Array) -> tuple[Tree, dict[str, Array]]:
        decay, target = tau(step), extra["target"]
        online = {name: params[name] for name in target["params"]}
        moved = optax.incremental_update(online, target["params"], 1 - decay)
        # If float64 is enabled, tau is float64 and would promote a float32 target.
        moved = jax.tree.map(lambda new, old: new.astype(old.dtype), moved, target["params"])
        return {**extra, "target": {**target, "params": moved}}, {"target/tau": decay}

    return after_update


def ahead(tau: Schedule) -> Schedule:
    """A decay one step ahead, for a target that follows before its pass instead of after the step.

    With `follow(ahead(tau))` the target of step k is the one that would be moved by tau(k) at the
    beginning of step k, if it starts as a copy: then the move before step 0 changes nothing.
    """
    return lambda step: tau(step + 1)


def copied(params: Tree, stats: Tree) -> tuple[Tree, Tree]:
    """(params, stats) of a target that starts as a copy of the online network."""
    # Arrays of their own: the train step is donated each of them.
    return jax.tree.map(jnp.copy, (params, stats))


def through(net: Network, extra: Tree, images_NGHWC: Array, key: Array) -> tuple[Array, Tree]:
    """The target's projections in training mode, without a gradient.

    Args:
      net: the network whose parameters and statistics are in extra["target"].
      extra: of the method.
      images_NGHWC: the views.
      key: of the pass.

    Returns:
      (z [N, G, E], extra with the target's statistics updated by its own pass).
    """
    target = extra["target"]
    _, z, stats = net.apply(target["params"], target["stats"], images_NGHWC, True, key)
    return jax.lax.stop_gradient(z), {**extra, "target": {**target, "stats": stats}}
