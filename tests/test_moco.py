"""MoCo v1, v2 and v3 against the authors' steps; the queue, the key network, local views."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import compiled, filled, make_batch, mini_encoder, start_state
from oracles.small_network import permutation
from small_steps import batch_of, rates, start, sums, three_steps

from byol_jax import losses, models, optim
from byol_jax.config import default_config, resolve
from byol_jax.experiment.methods import Facts, Parts, build_method
from byol_jax.methods.byol import byol
from byol_jax.methods.moco import moco
from byol_jax.methods.queue import enqueue, random_queue
from byol_jax.methods.target import ahead
from byol_jax.models import heads
from byol_jax.models.network import network
from byol_jax.train_step import make_train_step

F64 = {"dtype": jnp.float64, "param_dtype": jnp.float64}
KEY, STEP_0 = jax.random.key(1), jnp.int32(0)
pytestmark = pytest.mark.usefixtures("x64")


def make(layers=2, groups=1, queue=16, **options):
    encoder = mini_encoder()
    encoder = models.grouped(encoder, groups) if groups > 1 else encoder
    head = heads.mlp((16,) * (layers - 1) + (6,), norm=False, last_bias=True, **F64)
    keys = network(models.shuffled(encoder), head)
    options = {"tau": optim.constant(0.9), "temperature": 0.2} | options
    return moco(network(encoder, head), keys, queue=queue, **options)


@jax.jit
def embedded(params, stats, images):
    """Of unit length, [B, D]: one view through v2's network, whole batches in its statistics."""
    encoder, head = mini_encoder(), heads.mlp((16, 6), norm=False, last_bias=True, **F64)
    out, _ = encoder.apply(params["encoder"], stats["encoder"], images, True)
    z, _ = head.apply(params["projector"], {}, out.pooled, True)
    return z[:, 0] / jnp.linalg.norm(z[:, 0], axis=1, keepdims=True)


def sgd(*lrs):
    return optim.sgd(rates(*lrs), weight_decay=1e-2, exclude=())


# --- the authors' steps --------------------------------------------------------------------------

# facebookresearch/moco:moco/builder.py at 132aea9, run by tests/oracles/moco.py: the loss, then
# checksums of the key network that made the keys, of the query network and of the queue after it.
MOCO = {
    (1, 1): [
        (0.637897919149391, 7.751423054510436, 7.887498917502985, 5.050823998644093),
        (2.19100589727947, 7.765030640809691, 7.979624312522761, 5.794276342214045),
        (2.6517235968529214, 7.7864900079809996, 8.018935535470025, 5.258949248973984),
    ],
    (2, 2): [
        (0.9329683037197127, 11.54000496948397, 11.087069174233111, 0.666596196771486),
        (1.9350247320298166, 11.494711389958885, 10.785884325086306, -7.3989725657963685),
        (2.4499106253028873, 11.423828683471628, 10.606826413920842, -7.13114966066702),
    ],
}

# facebookresearch/moco-v3:moco/builder.py, optimizer.py at c349e6e, run by tests/oracles/mocov3.py:
# the loss, and checksums of the target that was used and of the parameters after the step.
MOCOV3 = [
    (5.315521247197291, 6.744901971938564, 6.795851300783201),
    (5.054546961280332, 6.775137712485261, 6.839968433011945),
    (5.048079027434856, 6.793009800497255, 6.777008921700233),
]


@pytest.mark.parametrize(("layers", "groups"), MOCO)
def test_three_steps_are_the_authors(layers, groups, monkeypatch):
    """Fails if keys are made before the move, or queued before the logits; on the last step the
    queue has wrapped. (Let `follow` take tau in place of `ahead(tau)`: see the test of v3.)
    """
    monkeypatch.setattr(jax.random, "permutation", lambda key, n: jnp.asarray(permutation()))
    steps = three_steps(make(layers, groups), sgd(0.3, 0.2, 0.1))
    for (loss, before, after), expected in zip(steps, MOCO[layers, groups], strict=True):
        used, queue = before.extra["target"]["params"], {"queue": after.extra["queue"]}
        found = loss, sums(used), sums(after.params), sums(queue)
        np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_three_steps_of_v3_are_the_authors():
    """Fails if the target moves after its pass, by another step's momentum, or by another factor;
    if a last norm has a scale; if LARS adapts norms. (Give `follow` tau in place of `ahead(tau)`.)
    """
    head = heads.mlp((12, 6), hidden_bias=False, norm_last=True, scale_last=False, **F64)
    method = byol(
        network(mini_encoder(), head),
        heads.mlp((12, 6), hidden_bias=False, **F64),
        tau=ahead(rates(0.9, 0.93, 0.97, 1.0)),
        objective=functools.partial(losses.symmetric_info_nce, temperature=0.5),
        copy=True,
    )
    steps = three_steps(method, optim.lars(rates(0.3, 0.2, 0.1), weight_decay=1e-2))
    for (loss, before, after), expected in zip(steps, MOCOV3, strict=True):
        found = loss, sums(before.extra["target"]["params"]), sums(after.params)
        np.testing.assert_allclose(found, expected, rtol=1e-10)


# --- the queue -----------------------------------------------------------------------------------


def test_the_queue_is_first_in_first_out():
    """Fails if the newest are not in front, or others than the oldest are dropped."""
    queue = jnp.arange(6.0)[:, None]
    for new in (10.0, 20.0, 30.0, 40.0):
        queue = enqueue(queue, jnp.array([[new], [new + 1]]), jnp.ones(2))
    assert queue[:, 0].tolist() == [40, 41, 30, 31, 20, 21]


def test_a_masked_row_keeps_the_entry_that_it_would_displace():
    """Fails if the key of an image that could not be read is a negative of others."""
    queue, new = jnp.arange(6.0)[:, None], jnp.array([[10.0], [11.0]])
    found = enqueue(queue, new, jnp.array([1.0, 0.0]))[:, 0]
    assert found.tolist() == [10, 5, 0, 1, 2, 3]
    found = enqueue(queue, jnp.full((6, 1), jnp.nan), jnp.zeros(6))[:, 0]
    assert found.tolist() == queue[:, 0].tolist()


def test_a_queue_starts_as_random_directions():
    """Fails if entries are not of unit length, or have a direction in common."""
    queue = random_queue(KEY, 512, 8, jnp.float64)
    np.testing.assert_allclose(np.linalg.norm(queue, axis=1), 1, rtol=1e-12)
    assert abs(np.asarray(queue).mean(0)).max() < 0.1


@functools.cache
def gradients(symmetric):
    """Of the loss, with respect to parameters and extra: (loss, extra after), (both gradients)."""
    method = make(symmetric=symmetric, queue=32)
    state = start(method, sgd(0.1))
    args = (state.params, state.extra, batch_of(0, [1, 1, 0, 1, 1, 1, 1, 1]), KEY, STEP_0)
    grad = jax.jit(jax.value_and_grad(method.loss, (0, 1), has_aux=True))
    (value, aux), found = compiled(grad, *args)(*args)
    return state, args[2], value, aux, found


@pytest.mark.parametrize("symmetric", [False, True])
def test_no_gradient_reaches_keys_or_queue(symmetric):
    """Fails if a gradient flows into the key network or the queue, or none into the queries'."""
    *_, (params, extra) = gradients(symmetric)
    assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves(extra))
    assert all((np.asarray(x) != 0).any() for x in jax.tree.leaves(params))


@pytest.mark.parametrize("symmetric", [False, True])
def test_what_is_lost_and_what_is_queued(symmetric):
    """Fails if the symmetric loss is a mean, one view's keys are not queued, or keys are those of
    the query network. (Divide `total` by the number of directions.)
    """
    state, batch, value, aux, _ = gradients(symmetric)
    target = state.extra["target"]
    views = [batch["views"][:, v : v + 1] for v in (0, 1)]
    networks = {"q": state.params, "k": target["params"]}
    z = {
        name: [np.asarray(embedded(params, target["stats"], images)) for images in views]
        for name, params in networks.items()
    }
    total, queue, mask = 0.0, np.asarray(state.extra["queue"]), batch["mask"]
    for v in (0, 1) if symmetric else (0,):
        for i in np.flatnonzero(mask):
            logits = np.array([z["k"][1 - v][i], *queue]) @ z["q"][v][i] / 0.2
            total += (np.log(np.exp(logits).sum()) - logits[0]) / mask.sum()
    np.testing.assert_allclose(value, total, rtol=1e-12)
    new = np.concatenate([z["k"][1], z["k"][0]] if symmetric else [z["k"][1]])
    kept = np.tile(mask, len(new) // 8)[:, None] > 0
    expected = np.concatenate([np.where(kept, new, queue[-len(new) :]), queue])[:32]
    np.testing.assert_allclose(aux.extra["queue"], expected, atol=1e-12)


# --- the key network -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["moco", "mocov3"])
def test_the_target_starts_as_a_copy(name):
    """Fails if the key network is drawn anew, or shares its arrays with the query network."""
    config = default_config()
    config.method.name = name
    config[name].hidden, config[name].out = 12, 6
    if name == "moco":
        config.moco.queue = 16
    encoder = mini_encoder()
    parts = Parts(encoder._replace(config={**encoder.config, "dtype": "float64"}), lambda x: x)
    method = build_method(resolve(config), parts, Facts(64, 0, 20, 4, rows=8))
    params, extra = jax.jit(method.init)(KEY, make_batch(8))
    for part in ("encoder", "projector"):
        pairs = zip(
            *map(jax.tree.leaves, (params[part], extra["target"]["params"][part])), strict=True
        )
        for online, target in pairs:
            np.testing.assert_array_equal(online, target)
            assert online.unsafe_buffer_pointer() != target.unsafe_buffer_pointer()
    assert "predictor" not in extra["target"]["params"]


def test_the_keys_statistics_are_their_own():
    """Fails if the key network reads or moves the statistics of the query network."""
    state, batch, _, aux, _ = gradients(False)
    conv = state.params["encoder"]["conv0"]["kernel"]
    for view, stats in ((0, aux.extra["stats"]), (1, aux.extra["target"]["stats"])):
        maps = jax.lax.conv_general_dilated(
            batch["views"][:, view],
            conv,
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        mean = 0.1 * maps.mean((0, 1, 2))  # from 0, at a decay of 0.9
        np.testing.assert_allclose(stats["encoder"]["bn0"]["mean"], mean, atol=1e-12)


# --- local views ---------------------------------------------------------------------------------


def with_local(batch, count=3):
    small = np.random.RandomState(7).randn(8, count, 6, 6, 3)
    return {**batch, "local": small}


@pytest.mark.parametrize("symmetric", [False, True])
def test_local_views_are_further_queries(symmetric):
    """Fails if a local view is a key, is not in the mean over the queries, or counts for more than
    a large one; or if a local view gets no gradient.
    """
    method = make(local=3, symmetric=symmetric, queue=32)
    plain = make(symmetric=symmetric, queue=32)
    assert dict(method.takes) == {"views": 2, "local": 3}
    state, batch = start(plain, sgd(0.1)), jax.tree.map(jnp.asarray, with_local(batch_of(0)))

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def traced(local):
        loss, aux = method.loss(state.params, state.extra, {**batch, "local": local}, KEY, STEP_0)
        return loss, aux.extra["queue"]

    run = compiled(traced, batch["local"])
    (value, queue), gradient = run(batch["local"])
    args = (state.params, state.extra, batch_of(0), KEY, STEP_0)
    large, aux = compiled(jax.jit(plain.loss), *args)(*args)
    np.testing.assert_allclose(queue, aux.extra["queue"], atol=1e-12)
    # The mean over four queries, of each direction: three equal local views give (large + 3 x)/4.
    repeated = [np.repeat(batch["local"][:, v : v + 1], 3, 1) for v in range(3)]
    terms = [4 * float(run(local)[0][0]) - float(large) for local in repeated]
    np.testing.assert_allclose(4 * value - large, np.sum(terms) / 3, rtol=1e-10)
    assert max(terms) - min(terms) > 1e-3
    if not symmetric:  # view 1 itself as a local view changes nothing
        again = run(np.repeat(batch["views"][:, :1], 3, 1))[0][0]
        np.testing.assert_allclose(again, large, rtol=1e-12)
    assert (np.abs(np.asarray(gradient)).max((0, 2, 3, 4)) > 0).all()


# --- micro-batches -------------------------------------------------------------------------------


def test_micro_batches_are_queued_one_after_the_other():
    """Fails if a micro-batch's keys are lost, or stand in another order than is documented."""
    method, optimizer = make(queue=32), sgd(0.1)
    state, batch = start_state(method, optimizer, batch_of(0)), batch_of(0)
    step = jax.jit(make_train_step(method, optimizer, accumulate=2))
    after, _ = compiled(step, state, batch, KEY)(state, batch, KEY)
    queue, before = np.asarray(after.extra["queue"]), np.asarray(state.extra["queue"])
    np.testing.assert_array_equal(queue[8:], before[:24])
    # Rows 1, 3, 5, 7 came last. Statistics are per micro-batch.
    target = state.extra["target"]
    for rows, found in ((slice(1, None, 2), queue[:4]), (slice(0, None, 2), queue[4:8])):
        k = embedded(target["params"], target["stats"], batch["views"][rows, 1:])
        np.testing.assert_allclose(found, k, atol=1e-12)


def test_three_views_are_refused():
    """Fails if a third view is ignored."""
    method = make()
    shapes = jax.eval_shape(method.init, KEY, make_batch(8, views=3))
    params, extra = filled(shapes)
    with pytest.raises(ValueError, match=r"moco compares 2 views; got images of shape \(8, 3"):
        method.loss(params, extra, make_batch(8, views=3), KEY, STEP_0)
