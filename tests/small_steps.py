"""Steps of a method from the weights and on the images that the oracles use."""

import jax
import jax.numpy as jnp
import numpy as np
from conftest import compiled, named, start_state
from oracles.small_network import ROWS, checksum, images, value

from byol_jax.train_step import make_train_step


def rates(*values):
    """A schedule that is a table."""
    return lambda step: jnp.asarray(values)[step]


def batch_of(step, mask=None):
    index = np.arange(ROWS, dtype=np.int32)
    mask = np.ones(ROWS, np.float32) if mask is None else np.asarray(mask, np.float32)
    return {"views": images(step), "index": index, "label": index % 3, "mask": mask}


def start(method, optimizer):
    """A state whose parameters and queue are the oracles', the target a copy."""
    state = start_state(method, optimizer, batch_of(0))

    def of_oracle(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if "stats" in name:
            return np.asarray(leaf)
        return value(name.removeprefix("target/params/"), leaf.shape)

    params, extra = (
        jax.tree_util.tree_map_with_path(of_oracle, tree) for tree in (state.params, state.extra)
    )
    return jax.device_put(
        type(state)(state.step, state.position, params, extra, state.opt_state),
        jax.devices()[0],
    )


def three_steps(method, optimizer):
    """[(loss, state before, state after)] of three steps, each on other images."""
    state, key, found = start(method, optimizer), jax.random.key(1), []
    step = compiled(jax.jit(make_train_step(method, optimizer)), state, batch_of(0), key)
    for i in range(3):
        after, metrics = step(state, batch_of(i), key)
        found.append((float(metrics["train/loss"]), state, after))
        state = after
    return found


def sums(tree):
    """The oracles' checksum of a tree of arrays."""
    return checksum(named(tree))
