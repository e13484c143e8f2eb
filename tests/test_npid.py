"""Instance discrimination: the authors' figures, the memory bank, and where it lies."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import compiled, make_batch, mini_encoder, named, start_state
from oracles.small_network import ROWS, checksum, images, value

from byol_jax import losses, optim
from byol_jax import mesh as meshes
from byol_jax.checkpoint import Checkpoints
from byol_jax.config import default_config
from byol_jax.losses.instances import partition
from byol_jax.methods.npid import MULTIPLE, last_of_each, npid
from byol_jax.models import heads
from byol_jax.models.network import network
from byol_jax.preflight.hlo import collectives
from byol_jax.preflight.lower import lower, no_data
from byol_jax.train_step import jit_step, make_train_step, state_shapes

KEY = jax.random.key(1)
EXAMPLES, OUT, NEGATIVES, RATES = 24, 6, 5, (0.3, 0.2, 0.1)


def method_of(negatives, dtype="float64", out=OUT, **options):
    head = heads.mlp((out,), last_bias=True, dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(dtype))
    options = {"examples": EXAMPLES, "temperature": 0.2} | options
    return npid(network(mini_encoder(dtype), head), negatives=negatives, **options)


# --- the losses ----------------------------------------------------------------------------------


def similarities(b=4, k=3, n=7):
    random = np.random.RandomState(0)
    v, bank = random.randn(b, 5), random.randn(n, 5)
    index, drawn = random.randint(0, n, b), random.randint(0, n, (b, k))
    s = np.zeros((b, n))
    for i in range(b):
        for j in range(n):
            for d in range(5):
                s[i, j] += v[i, d] * bank[j, d] / 0.7
    return s, index, drawn


def test_nce_equals_the_loops(x64):
    """Fails if K, N or the authors' 1e-7 is in another place, or a mean is taken over K."""
    s, index, drawn = similarities()
    (b, n), k, z = s.shape, drawn.shape[1], 30.0
    expected = []
    for i in range(b):
        p = np.exp(s[i]) / z
        total = -np.log(p[index[i]] / (p[index[i]] + k / n + 1e-7))
        for j in drawn[i]:
            total -= np.log((k / n) / (p[j] + k / n + 1e-7))
        expected.append(total)
    rows = np.arange(b)
    found = losses.instance_nce(s[rows, index], s[rows[:, None], drawn], z, n)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_softmax_and_its_estimate_equal_the_loops(x64):
    """Fails if the own row is left out of a sum, a masked row counts, or Z is not scaled to N."""
    s, index, drawn = similarities()
    b, n = s.shape
    mask, total, softmax = np.array([1, 0, 1, 1.0]), 0.0, []
    for i in range(b):
        softmax.append(-np.log(np.exp(s[i, index[i]]) / sum(np.exp(s[i, j]) for j in range(n))))
        if mask[i]:
            total += np.exp(s[i, index[i]]) + sum(np.exp(s[i, j]) for j in drawn[i])
    own, noise = s[np.arange(b), index], s[np.arange(b)[:, None], drawn]
    np.testing.assert_allclose(losses.instance_softmax(own, s), softmax, rtol=1e-12)
    expected = n * total / (3 * (drawn.shape[1] + 1))
    np.testing.assert_allclose(partition(own, noise, mask, n), expected, rtol=1e-12)
    assert partition(own, noise, np.zeros(b), n) == 0


# --- the authors' code ---------------------------------------------------------------------------

# tests/oracles/npid.py: zhirongw/lemniscate.pytorch at f7cfe29, lib/NCEAverage.py, NCECriterion.py,
# LinearAverage.py. K -> (loss, Z, checksum of the bank, of the parameters) of three steps.
AUTHORS = {
    0: [
        (4.643520152862443, 0.0, -5.944618535353963, 8.306878469448142),
        (5.229922170451815, 0.0, -4.05207936287583, 8.69180434444054),
        (7.246947039102863, 0.0, -3.8820202020188734, 8.63398699936455),
    ],
    5: [
        (3.3810464210836115, 100.20751268263672, -5.944618535353963, 7.862726876677329),
        (5.587425096849344, 100.20751268263672, -4.3721155819964705, 7.885819058915877),
        (5.011312522747612, 100.20751268263672, -3.981031263781177, 7.608410732222014),
    ],
}


def oracle_batch(step):
    return {
        "views": images(step)[:, :1],
        "index": ((np.arange(ROWS) * 3 + 5 * step) % EXAMPLES).astype(np.int32),
        "label": np.zeros(ROWS, np.int32),
        "mask": np.ones(ROWS, np.float32),
        "drawn": np.random.RandomState(3000 + step).randint(0, EXAMPLES, (ROWS, NEGATIVES)),
    }


def with_given_negatives(method):
    """The method with the draws in the batch instead of its own."""

    def loss(params, extra, batch, key, step):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jax.random, "randint", lambda *args: batch["drawn"])
            return method.loss(params, extra, batch, key, step)

    return method._replace(loss=loss)


@pytest.mark.parametrize("negatives", AUTHORS)
def test_three_steps_of_the_authors_code(x64, negatives):
    """Fails if the bank is updated before the loss, Z moves, or a gradient reaches the bank."""
    method = with_given_negatives(method_of(negatives))
    optimizer = optim.sgd(lambda step: jnp.asarray(RATES)[step], weight_decay=1e-2, exclude=())
    state = start_state(method, optimizer, oracle_batch(0))
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: value(jax.tree_util.keystr(path, simple=True, separator="/"), x.shape),
        state.params,
    )
    bank = np.zeros((MULTIPLE, OUT))
    bank[:EXAMPLES] = value("queue", (EXAMPLES, OUT))
    extra = {**state.extra, "bank": bank}
    state = type(state)(state.step, state.position, params, extra, state.opt_state)
    state = jax.device_put(state, jax.devices()[0])
    step = compiled(jax.jit(make_train_step(method, optimizer)), state, oracle_batch(0), KEY)
    for i, (loss, z, of_bank, of_params) in enumerate(AUTHORS[negatives]):
        state, metrics = step(state, oracle_batch(i), KEY)
        found = [metrics["train/loss"], state.extra.get("normalizer", 0.0)]
        found.append(checksum({"bank": state.extra["bank"][:EXAMPLES]}))
        found.append(checksum(named(state.params)))
        np.testing.assert_allclose(found, [loss, z, of_bank, of_params], rtol=1e-10)
        assert not np.asarray(state.extra["bank"][EXAMPLES:]).any()


# --- the bank ------------------------------------------------------------------------------------


def test_a_new_bank(x64):
    """Fails if it is not the authors' uniform one, or rows that are no example are not 0."""
    net = network(mini_encoder(), heads.mlp((OUT,)))
    net = net._replace(init=lambda key, images: ({"w": jnp.zeros(1)}, {}))
    extra = npid(net, examples=1500).init(KEY, make_batch(2, views=1))[1]
    bank = np.asarray(extra["bank"])
    assert bank.shape == (2 * MULTIPLE, OUT)
    assert not bank[1500:].any()
    limit = 1 / np.sqrt(OUT / 3)
    assert abs(bank).max() <= limit
    np.testing.assert_allclose(bank[:1500].var(), 1 / OUT, rtol=0.05)
    assert extra["normalizer"] == 0


@functools.cache
def one_loss():
    """(parameters, extra, loss) that the tests below share."""
    method = method_of(5)
    state = start_state(method, optim.sgd(optim.constant(0.1)), batch_of())
    args = (state.params, state.extra, batch_of(), KEY, 0)
    return state.params, state.extra, compiled(jax.jit(method.loss), *args)


def batch_of(index=range(ROWS), mask=None):
    batch = make_batch(ROWS, views=1)
    mask = np.ones(ROWS, np.float32) if mask is None else np.asarray(mask, np.float32)
    return {**batch, "index": np.asarray(index, np.int32), "mask": mask}


def test_the_last_row_of_an_index_counts(x64):
    """Fails if a duplicate is left to the order of XLA's writes, or a masked row changes the bank.

    (Leave `last_of_each` out.)
    """
    index, mask = (3, 7, 3, 9, 7, 3, 2, 9), (1, 1, 1, 1, 1, 0, 0, 1)
    assert np.flatnonzero(last_of_each(np.asarray(index), np.asarray(mask))).tolist() == [2, 4, 7]
    params, extra, loss = one_loss()
    batch = batch_of(index, mask)
    _, aux = loss(params, extra, batch, KEY, 0)
    old, new = (np.asarray(x["bank"]) for x in (extra, aux.extra))
    v = np.asarray(aux.features["z"])[:, 0]
    v = v / np.linalg.norm(v, axis=1, keepdims=True)
    expected = old.copy()
    for place, row in ((3, 2), (7, 4), (9, 7)):
        mixed = 0.5 * old[place] + 0.5 * v[row]
        expected[place] = mixed / np.linalg.norm(mixed)
    np.testing.assert_allclose(new, expected, rtol=1e-12)


def test_z_is_of_the_first_batch_that_counts(x64):
    """Fails if Z moves later, a masked row counts in it, or a batch without rows sets it to 0."""
    params, extra, loss = one_loss()
    nothing, aux = loss(params, extra, batch_of(mask=np.zeros(ROWS)), KEY, 0)
    assert (float(nothing), float(aux.extra["normalizer"])) == (0.0, 0.0)
    np.testing.assert_array_equal(aux.extra["bank"], extra["bank"])
    half = batch_of(mask=[1, 1, 1, 1, 0, 0, 0, 0])
    first = loss(params, extra, half, KEY, 0)[1].extra["normalizer"]
    assert float(first) > 0
    again = loss(params, {**extra, "normalizer": first}, batch_of(), KEY, 1)[1].extra["normalizer"]
    assert first == again


# --- where the bank lies -------------------------------------------------------------------------


def large(devices, negatives, fsdp=1):
    """(method, optimizer, mesh, shapes of a batch) with a bank that is worth sharding."""
    mesh = meshes.make_mesh(jax.devices()[:devices], fsdp)
    method = method_of(negatives, "float32", out=32, examples=20_000, place=meshes.placement(mesh))
    rows = make_batch(64, "float32", views=1)
    batch = {
        k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=meshes.batch_sharding(mesh))
        for k, v in rows.items()
    }
    return method, optim.sgd(optim.constant(0.1)), mesh, batch


@pytest.mark.parametrize(("negatives", "fsdp"), [(0, 1), (64, 1), (64, 4)])
def test_no_row_of_the_bank_moves(negatives, fsdp):
    """Fails if the bank or all its similarities go over the network, or lie whole on a device.

    (Take `place` out of `npid`.)
    """
    method, optimizer, mesh, batch = large(8, negatives, fsdp)
    state = state_shapes(method, optimizer, KEY, batch, mesh)
    assert state.extra["bank"].sharding.shard_shape((20_480, 32)) == (2560, 32)
    key = jax.ShapeDtypeStruct((), KEY.dtype, sharding=meshes.replicated(mesh))
    step = jit_step(make_train_step(method, optimizer), mesh, method.sharded)
    done = compiled(step, state, batch, key)
    found = collectives(done.as_text(), 8)
    # The similarities of NCE go to their examples, and their gradients back.
    across = [c.size for c in found if c.kind == "all-to-all"]
    assert across == [64 * 2560 * 4] * (2 if negatives else 0)
    assert sum(c.size for c in found if c.kind != "all-to-all") < 20_480 * 32 * 4 / 20
    bank, similarities = 2560 * 32 * 4, 64 * 2560 * 4
    assert done.memory_analysis().temp_size_in_bytes < 4 * similarities + bank
    assert done.output_shardings[0].extra["bank"].is_equivalent_to(state.extra["bank"].sharding, 2)


def test_a_checkpoint_goes_to_other_devices(tmp_path):
    """Fails if the bank's rows depend on the number of devices, or it comes back whole."""
    method, optimizer, mesh, batch = large(8, 64)
    state = start_state(method, optimizer, batch, 8)
    assert state.extra["bank"].sharding.shard_shape((20_480, 32)) == (2560, 32)
    saved = Checkpoints(tmp_path)
    saved.save(1, state, {})
    saved.wait()
    for devices, fsdp in ((8, 4), (2, 1), (1, 1), (3, 1)):
        mesh = meshes.make_mesh(jax.devices()[:devices], fsdp)
        back = saved.restore(1, state, meshes.state_sharding(state, mesh, method.sharded))
        for k, x in named(state).items():
            np.testing.assert_array_equal(named(back)[k], x, err_msg=k)
        rows = back.extra["bank"].sharding.shard_shape((20_480, 32))[0]
        assert rows == (20_480 if devices == 3 else 20_480 // devices)
    saved.close()


def test_preflight_sees_the_bank():
    """Fails if its memory is left out, or counted as if every device held all of it."""
    config = default_config()
    config.batch_size, config.image_size, config.data.name = 64, 32, "cifar10"
    config.views.recipe = config.method.name = "npid"
    config.encoder.name, config.encoder.width = "tiny", 0.25
    found = lower(config, no_data(config, 0, -1), jax.devices()[:8])
    assert found.arguments["bank"] == 50_176 * 128 * 4 / 8
    assert found.arguments["normalizer"] == 4
