"""Our side of the oracles: three steps of a method on the network of `oracles/projected.py`."""

import jax
import jax.numpy as jnp
import numpy as np
from oracles.projected import HIDDEN, PIXELS, ROWS, STEPS, images, moved

from byol_jax.core import Encoder, Features, TrainState
from byol_jax.models import heads
from byol_jax.train_step import make_train_step

DTYPES = {"dtype": jnp.float64, "param_dtype": jnp.float64}


def encoder(features):
    """The oracles' encoder: a perceptron on flat images."""
    head = heads.mlp((HIDDEN, features), hidden_bias=False, **DTYPES)

    def flat(images_NGHWC):
        return images_NGHWC.reshape(*images_NGHWC.shape[:2], -1)

    def apply(params, stats, images, train, key=None, groups=1):
        h, stats = head.apply(params, stats, flat(images), train, groups)
        return Features(h, ()), stats

    return Encoder(lambda key, x: head.init(key, flat(x)), apply, features, PIXELS, {})


def batch_of(step):
    """What the oracles see at a step."""
    views, label = images(step)
    return {
        "views": views[:, :, None, None],
        "index": np.arange(ROWS, dtype=np.int32),
        "label": label.astype(np.int32),
        "mask": np.ones(ROWS, np.float32),
    }


def three_steps(method, optimizer, tree, start=0):
    """[(loss, how far the kernels moved, how far all else moved)], as the oracles print them."""
    shapes, extra = jax.eval_shape(method.init, jax.random.key(0), batch_of(0))
    assert jax.tree.map(lambda x: x.shape, shapes) == jax.tree.map(lambda x: x.shape, tree)
    extra = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), extra)
    params, step = jax.tree.map(jnp.asarray, tree), jnp.int32(start)
    state = TrainState(step, step, params, extra, optimizer.init(params))
    run, found = jax.jit(make_train_step(method, optimizer)), []
    for i in range(start, start + STEPS):
        state, metrics = run(state, batch_of(i), jax.random.key(0))
        after = jax.tree.map(np.asarray, state.params)
        found.append((float(metrics["train/loss"]), *moved(tree, after)))
    return found
