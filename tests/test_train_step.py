"""The train step: devices, micro-batches, keys and counts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import compiled, first_devices, make_batch, mini_encoder, named, start_state

from byol_jax import optim
from byol_jax.mesh import put_batch
from byol_jax.methods.byol import byol
from byol_jax.methods.probe import with_probe
from byol_jax.models import heads, make_encoder
from byol_jax.models.network import network
from byol_jax.train_step import init_state, jit_step, make_train_step

KEY = jax.random.key(1)
STEPS = 20
CLASSIFIER = heads.linear(3, dtype=jnp.float64)


def make(encoder=None, dtype="float64"):
    mlp = heads.mlp((12, 8), dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(dtype))
    encoder = encoder or mini_encoder(dtype)
    return byol(network(encoder, mlp), mlp, tau=optim.cosine_tau(0.9, STEPS))


def flip_or_not(batch, key):
    """Device views for tests: each example is flipped, or not, by the key."""
    flip = jax.random.bernoulli(key, shape=(batch["mask"].shape[0], 1, 1, 1, 1))
    return {**batch, "views": jnp.where(flip, batch["views"][:, :, :, ::-1], batch["views"])}


def test_eight_devices_are_one(x64):
    """Fails if anything is computed per device: 20 steps of BYOL at its own rate and decay."""
    method = with_probe(make(make_encoder("tiny", width=0.25, dtype="float64")), CLASSIFIER, 32)
    optimizer = optim.lars(optim.warmup_cosine(0.45, 4, STEPS), weight_decay=1e-6)
    batch, found = make_batch(8), []
    batch["mask"][5] = 0
    for n in (1, 8):
        mesh = first_devices(n)
        state, rows = start_state(method, optimizer, batch, n), put_batch(batch, mesh)
        step = make_train_step(method, optimizer, flip_or_not)
        step = compiled(jit_step(step, mesh), state, rows, KEY)
        for _ in range(STEPS):
            state, metrics = step(state, rows, KEY)
        found.append(named(state) | {f"metrics/{k}": np.asarray(v) for k, v in metrics.items()})
    assert found[0].keys() == found[1].keys()
    for k, value in found[0].items():
        np.testing.assert_allclose(found[1][k], value, rtol=1e-9, atol=1e-9, err_msg=k)


def test_micro_batches_are_the_mean_of_their_gradients(x64):
    """Fails if gradients are summed, statistics not carried on, or anything moves twice a step."""
    method, batch = make(), make_batch(8)
    optimizer = optim.sgd(optim.warmup_cosine(0.1, 2, STEPS), weight_decay=0.01)
    state = start_state(method, optimizer, batch)
    step = make_train_step(method, optimizer, accumulate=2)
    for _ in range(2):  # at step 0 the rate is 0
        before = state
        run = compiled(jax.jit(step), state, batch, KEY)
        state, metrics = run(state, batch, KEY)

    # By hand: rows 0, 2, 4, 6 and rows 1, 3, 5, 7, the statistics going from one to the other.
    grad = jax.jit(jax.value_and_grad(method.loss, has_aux=True))
    extra, parts = before.extra, []
    for start in (0, 1):
        part = {k: v[start::2] for k, v in batch.items()}
        if not parts:
            grad = compiled(grad, before.params, extra, part, KEY, jnp.int32(1))
        (loss, aux), grads = grad(before.params, extra, part, KEY, jnp.int32(1))
        extra = aux.extra
        parts.append((loss, grads))
    mean = jax.tree.map(lambda a, b: (a + b) / 2, parts[0][1], parts[1][1])
    updates, _ = optimizer.update(mean, before.opt_state, before.params, jnp.int32(1))
    params = jax.tree.map(jnp.add, before.params, updates)
    for k, value in named(params).items():
        np.testing.assert_allclose(named(state.params)[k], value, rtol=1e-11, atol=1e-13)
    # The target: its statistics moved a micro-batch each, its weights once, by tau of step 1.
    tau = optim.cosine_tau(0.9, STEPS)(1)
    old, new = named(before.extra["target"]["params"]), named(state.extra["target"]["params"])
    for k in new:
        expected = tau * old[k] + (1 - tau) * named(params)[k]
        np.testing.assert_allclose(new[k], expected, rtol=1e-11, atol=1e-13)
    for k, value in named(extra["stats"]).items():
        np.testing.assert_allclose(named(state.extra["stats"])[k], value, rtol=1e-11, atol=1e-13)
    assert (int(state.step), int(state.position)) == (2, 16)
    np.testing.assert_allclose(metrics["train/loss"], (parts[0][0] + parts[1][0]) / 2, rtol=1e-12)
    norm = np.sqrt(sum((g**2).sum() for g in named(mean).values()))
    np.testing.assert_allclose(metrics["train/grad_norm"], norm, rtol=1e-10)


def test_micro_batches_must_divide_the_batch(x64):
    """Fails if rows are dropped in silence."""
    method, optimizer, batch = make(), optim.sgd(optim.constant(0.1)), make_batch(8)
    state = start_state(method, optimizer, batch)
    step = make_train_step(method, optimizer, accumulate=3)
    with pytest.raises(ValueError, match="8 cannot be split into 3"):
        jax.eval_shape(step, state, batch, KEY)


@functools.cache
def keyed():
    """(step with device views, state, batch), in float32."""
    method, batch = make(dtype="float32"), make_batch(8, "float32")
    optimizer = optim.sgd(optim.constant(0.1))
    state = jax.tree.map(np.asarray, start_state(method, optimizer, batch))
    step = make_train_step(method, optimizer, flip_or_not)
    return compiled(jax.jit(step), state, batch, KEY), state, batch


def at_step(state, step):
    return type(state)(np.int32(step), state.position, state.params, state.extra, state.opt_state)


def test_the_same_key_and_step_give_the_same_bits():
    """Fails if the step has a state or a clock of its own."""
    step, state, batch = keyed()
    first, again = (named(step(state, batch, KEY)) for _ in range(2))
    for k in first:
        np.testing.assert_array_equal(first[k], again[k])


@pytest.mark.parametrize("change", ["key", "step"])
def test_another_key_or_step_gives_other_views(change):
    """Fails if the root key is used as it is, or not at all: every step would flip alike."""
    step, state, batch = keyed()
    first = named(step(state, batch, KEY)[0].params)
    if change == "key":
        other, _ = step(state, batch, jax.random.key(2))
    else:
        other, _ = step(at_step(state, 1), batch, KEY)
    assert (named(other.params)["encoder/conv0/kernel"] != first["encoder/conv0/kernel"]).any()


def test_counts_and_metrics():
    """Fails if step or position do not count steps and rows, or a metric has another name."""
    step, state, batch = keyed()
    after, metrics = step(at_step(state, 6), batch, KEY)
    assert (int(after.step), int(after.position)) == (7, 8)
    assert after.step.dtype == after.position.dtype == jnp.int32
    assert set(metrics) == {
        "train/loss",
        "train/grad_norm",
        "train/lr",
        "target/tau",
        "features/h_std",
        "features/z_std",
        "features/z_rank",
    }
    assert all(v.shape == () for v in metrics.values())
    np.testing.assert_allclose(metrics["train/lr"], 0.1)


def test_init_makes_a_state_that_can_be_donated(quick):
    """Fails if the init is not jitted (aliases), not of the key alone, or not on every device."""
    method, mesh = make(make_encoder("tiny", width=0.25), "float32"), first_devices(4)
    optimizer = optim.lars(optim.constant(0.1))
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), make_batch(8, "float32")
    )
    state = init_state(method, optimizer, jax.random.key(0), shapes, mesh)
    leaves = jax.tree.leaves(state)
    pointers = [x.addressable_shards[0].data.unsafe_buffer_pointer() for x in leaves if x.size]
    assert len(set(pointers)) == len(pointers)
    assert all(x.sharding.is_fully_replicated and len(x.devices()) == 4 for x in leaves)
    assert int(state.step) == int(state.position) == 0
    assert not any(np.abs(x).any() for x in named(state.opt_state).values())
    params, extra = jax.eval_shape(method.init, jax.random.key(0), make_batch(8, "float32"))
    assert jax.tree.structure((state.params, state.extra)) == jax.tree.structure((params, extra))
