"""Steps of a multi-crop method from the weights and on the images that the oracles use."""

import jax
import numpy as np
from conftest import compiled, named, start_state
from oracles.small_crops import LOCAL, local
from oracles.small_network import ROWS, checksum, images, value

from byol_jax.train_step import make_train_step

__all__ = ["LOCAL", "ROWS", "batch_of", "start", "steps_of", "sums", "value"]


def batch_of(step, mask=None):
    mask = np.ones(ROWS, np.float32) if mask is None else np.asarray(mask, np.float32)
    index = np.arange(ROWS, dtype=np.int32)
    label = index % 3
    views = {"views": images(step), "local": local(step)}
    return {**views, "index": index, "label": label, "mask": mask}


def start(method, optimizer):
    """A state with the oracles' weights, the target a copy, anything else as it starts (zeros)."""
    state = start_state(method, optimizer, batch_of(0))

    def of_oracle(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/").removeprefix("target/params/")
        return value(name, leaf.shape)

    params = jax.tree_util.tree_map_with_path(of_oracle, state.params)
    extra = {
        k: v if k == "stats" else jax.tree.map(np.zeros_like, v) for k, v in state.extra.items()
    }
    if "target" in extra:
        target = jax.tree_util.tree_map_with_path(of_oracle, extra["target"]["params"])
        extra["target"] = {"params": target, "stats": state.extra["target"]["stats"]}
    made = type(state)(state.step, state.position, params, extra, state.opt_state)
    return jax.device_put(made, jax.devices()[0])


def steps_of(method, optimizer, count):
    """[(metrics, state before, state after)] of some steps, each on other images."""
    state, key, found = start(method, optimizer), jax.random.key(1), []
    step = compiled(jax.jit(make_train_step(method, optimizer)), state, batch_of(0), key)
    for i in range(count):
        after, metrics = step(state, batch_of(i), key)
        found.append((metrics, state, after))
        state = after
    return found


def sums(tree):
    """The oracles' checksum of a tree of arrays."""
    return checksum(named(tree))
