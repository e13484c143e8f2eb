"""SwAV: the authors' steps, codes, queue and prototypes, one by one."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import compiled, make_batch, mini_encoder, named
from crop_steps import LOCAL, ROWS, batch_of, start, steps_of, sums, value

from byol_jax import losses, models, optim
from byol_jax.methods.swav import swav
from byol_jax.models import heads
from byol_jax.models.network import network

pytestmark = pytest.mark.usefixtures("x64")
K, QUEUE, RATES = 6, 16, (0.8, 0.6, 0.4, 0.2)

# facebookresearch/swav at 06b1b7c (main_swav.py: train, distributed_sinkhorn; src/resnet50.py) with
# apex/parallel/LARC.py of NVIDIA/apex at e13873d, by tests/oracles/swav.py: after each step, the
# loss and checksums of the codes, the parameters and the queue; with a queue of 0 and of 16.
AUTHORS = {
    0: [
        (4.97927280632201, -0.18520122559305086, 7.7535732476836845, 0.0),
        (4.677035117777646, -4.031837217009145, 7.664211550964179, 0.0),
        (4.096006976295277, -0.568604082037202, 7.619464750948125, 0.0),
        (3.419107697398771, -0.07916706337802859, 7.650839693765209, 0.0),
    ],
    16: [
        (4.97927280632201, -0.18520122559305086, 7.7535732476836845, 0.755035294051152),
        (4.677035117777646, -4.031837217009145, 7.664211550964179, 1.8534236674201923),
        (4.036778216803682, -2.5247886259586143, 7.635998910315089, 4.017884743004089),
        (3.5126327008620453, -5.528498499009914, 7.685544514420322, -1.5377020457527006),
    ],
}


def net_of():
    head = heads.mlp((12, 8), last_bias=True, dtype=jnp.float64, param_dtype=jnp.float64)
    return network(models.joint(mini_encoder()), models.joint(head))


def method_of(**options):
    return swav(net_of(), K, local=LOCAL, **options)


def optimizer_of():
    rates = optim.Rates(lambda step: jnp.asarray(RATES)[step])
    larc = optim.lars(rates, weight_decay=1e-2, eta=0.05, larc=True, exclude=())
    return optim.held(larc, ("prototypes",), 1)


@functools.cache
def run(queue):
    return steps_of(method_of(queue=queue), optimizer_of(), len(RATES))


@functools.cache
def embeddings():
    return jax.jit(lambda params, stats, images: net_of().apply(params, stats, images, True)[1])


def codes_of(method, state, step, queue):
    """Codes of both large views, from the parts of the method."""
    params, batch = method.prepare(state.params), batch_of(step)
    z = embeddings()(params, state.extra["stats"], (batch["views"], batch["local"]))
    kernel = params["prototypes"]["kernel"]
    scores, found = losses.normalize(z) @ kernel, []
    for c in range(2):
        before = state.extra["queue"][c] if queue else jnp.zeros((0, 8))
        rows = jnp.concatenate([before @ kernel, scores[:, c]])
        full = bool((before != 0).all()) and queue > 0
        mask = np.r_[np.full(len(before), full), np.ones(ROWS)]
        found.append(losses.sinkhorn(rows, mask, epsilon=0.05, iterations=3)[len(before) :])
    return np.stack(found)


@pytest.mark.parametrize("queue", [0, QUEUE])
def test_steps_equal_the_authors(queue):
    """Fails if a code has a gradient, prototypes are not made of unit length before the step, a
    norm is over two sizes, or the queue is used before it is full or filled before the codes."""
    for step, (metrics, before, after) in enumerate(run(queue)):
        loss, codes, params, kept = AUTHORS[queue][step]
        np.testing.assert_allclose(metrics["train/loss"], loss, rtol=1e-10)
        np.testing.assert_allclose(sums(after.params), params, rtol=1e-10)
        if queue:
            np.testing.assert_allclose(sums({"queue": after.extra["queue"]}), kept, rtol=1e-10)
        if step == 3:
            found = codes_of(method_of(queue=queue), before, step, queue)
            np.testing.assert_allclose(sums({"codes": found}), codes, rtol=1e-10)


def test_the_queue_in_its_first_steps():
    """Fails if it is filled too early, in another order, or used before it is full."""
    (_, first, second), (_, _, third), (_, _, fourth), _ = run(QUEUE)
    assert (np.asarray(first.extra["queue"]) == 0).all()
    q1, q2, q3 = (np.asarray(s.extra["queue"]) for s in (second, third, fourth))
    assert (q1[:, ROWS:] == 0).all()
    np.testing.assert_allclose(np.linalg.norm(q1[:, :ROWS], axis=-1), 1, rtol=1e-12)
    np.testing.assert_array_equal(q2[:, ROWS:], q1[:, :ROWS])
    np.testing.assert_array_equal(q3[:, ROWS:], q2[:, :ROWS])  # the oldest are gone
    # The first two steps are those without a queue, the third is not.
    losses_ = [[float(m["train/loss"]) for m, *_ in run(queue)] for queue in (0, QUEUE)]
    np.testing.assert_allclose(losses_[0][:2], losses_[1][:2], rtol=1e-12)
    assert abs(losses_[0][2] - losses_[1][2]) > 1e-3


def test_the_queue_waits_for_its_epoch_and_leaves_masked_rows_out():
    """Fails if it is filled before `queue_start`, or a substitute gets into it."""
    method = method_of(queue=QUEUE, queue_start=5)
    state = start(method, optimizer_of())
    mask = np.arange(ROWS) != 3

    def queue_after(step):
        batch, key = batch_of(0, mask), jax.random.key(0)
        _, aux = method.loss(state.params, state.extra, batch, key, jnp.int32(step))
        return aux.extra["queue"]

    early, late = jax.jit(jax.vmap(queue_after))(jnp.array([4, 5]))
    assert (early == 0).all()
    np.testing.assert_array_equal((late[:, :ROWS] != 0).any(-1), [mask, mask])


def test_gradients_reach_predictions_only():
    """Fails if a gradient flows through the codes or into the queue."""
    method = method_of(queue=QUEUE)
    state, key = start(method, optimizer_of()), jax.random.key(0)
    queue = value("queue", (2 * QUEUE, 8)).reshape(2, QUEUE, 8)
    mask = np.arange(ROWS) != 3

    def loss(params, queue, views):
        extra, batch = {**state.extra, "queue": queue}, {**batch_of(0, mask), "views": views}
        return method.loss(params, extra, batch, key, jnp.int32(0))[0]

    args = state.params, queue, batch_of(0)["views"]
    grads = compiled(jax.jit(jax.grad(loss, (0, 1))), *args)(*args)
    assert all((g != 0).any() for k, g in named(grads[0]).items() if not k.endswith("fc1/bias"))
    assert (grads[1] == 0).all()
    scores = np.random.RandomState(0).randn(4, K)
    weights = np.random.RandomState(1).randn(4, K)
    through = jax.grad(
        lambda s: (losses.sinkhorn(s, np.ones(4), epsilon=0.5, iterations=3) * weights).sum()
    )
    assert (through(scores) == 0).all()


def test_prototypes_are_prepared_in_the_parameters():
    """Fails if the state keeps other prototypes than those that the update began with."""
    method, (_, before, after) = method_of(), run(0)[0]
    held = np.asarray(after.params["prototypes"]["kernel"])  # for one step
    np.testing.assert_allclose(np.linalg.norm(held, axis=0), 1, rtol=1e-12)
    kernel = np.asarray(before.params["prototypes"]["kernel"])
    np.testing.assert_allclose(held, kernel / np.linalg.norm(kernel, axis=0), rtol=1e-12)
    prepared = method.prepare(after.params)
    assert prepared.keys() == after.params.keys()
    assert prepared["encoder"] is after.params["encoder"]
    trained = np.asarray(run(0)[1][2].params["prototypes"]["kernel"])
    assert np.abs(np.linalg.norm(trained, axis=0) - 1).max() > 1e-4


def test_it_starts_as_the_authors_do():
    """Fails if prototypes start elsewhere, or a queue that is none is kept."""
    init = jax.jit(swav(net_of(), 500, queue=4).init)
    batch = make_batch(2)
    params, extra = compiled(init, jax.random.key(0), batch)(jax.random.key(0), batch)
    kernel = params["prototypes"]["kernel"]
    assert kernel.shape == (8, 500)
    assert 0.99 * 8**-0.5 < np.abs(kernel).max() <= 8**-0.5  # torch's Linear
    assert (extra["queue"] == 0).all()
    shapes = jax.eval_shape(swav(net_of(), 5).init, jax.random.key(0), make_batch(2))
    assert set(shapes[1]) == {"stats"}


# --- the losses ----------------------------------------------------------------------------------


def sinkhorn_loops(scores, epsilon, iterations):
    """Caron et al. 2020, section 3.1, one entry at a time."""
    b, k = scores.shape
    q = [[math.exp(scores[i, j] / epsilon) for j in range(k)] for i in range(b)]
    for _ in range(iterations):
        for j in range(k):
            total = sum(q[i][j] for i in range(b))
            for i in range(b):
                q[i][j] /= total * k
        for i in range(b):
            total = sum(q[i][j] for j in range(k))
            for j in range(k):
                q[i][j] /= total * b
    return b * np.array(q)


def test_sinkhorn_equals_the_loops_and_leaves_masked_rows_out():
    """Fails if rows and columns are swapped, or a masked row moves the others."""
    scores = np.random.RandomState(0).uniform(-1, 1, (7, 4))
    mask = np.array([1, 1, 0, 1, 1, 0, 1.0])
    found = losses.sinkhorn(scores, mask, epsilon=0.2, iterations=3)
    np.testing.assert_allclose(
        found[mask > 0], sinkhorn_loops(scores[mask > 0], 0.2, 3), rtol=1e-12
    )
    assert (found[mask == 0] == 0).all()
    many = losses.sinkhorn(scores, np.ones(7), epsilon=0.2, iterations=200)
    np.testing.assert_allclose(many.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(many.sum(0), 7 / 4, rtol=1e-9)  # equally used
    assert np.isfinite(losses.sinkhorn(scores, 0 * mask, epsilon=0.2, iterations=3)).all()


def test_sinkhorn_works_in_float32_where_an_exponential_would_overflow():
    """Fails if the largest score is not subtracted, or half precision is kept."""
    scores = jnp.asarray(np.random.RandomState(0).uniform(0.8, 1, (6, 4)), jnp.bfloat16)
    found = losses.sinkhorn(scores, np.ones(6, np.float32), epsilon=0.005, iterations=3)
    assert found.dtype == jnp.float32
    exact = sinkhorn_loops(np.asarray(scores, np.float64), 0.005, 3)  # e^200 is a float64
    np.testing.assert_allclose(found, exact, atol=1e-5)


def test_code_prediction_equals_the_loops():
    """Fails if a view predicts its own code, or the mean is over all pairs."""
    logits = np.random.RandomState(0).randn(3, 5, 4)
    codes = np.random.RandomState(1).dirichlet(np.ones(4), (3, 2))
    expected = []
    for i in range(3):
        total = 0.0
        for c in range(2):
            for v in range(5):
                if v == c:
                    continue
                partition = math.log(sum(math.exp(x) for x in logits[i, v]))
                total -= sum(codes[i, c, k] * (logits[i, v, k] - partition) for k in range(4))
        expected.append(total / 8)
    np.testing.assert_allclose(losses.code_prediction(logits, codes), expected, rtol=1e-12)
    through = jax.grad(lambda codes: losses.code_prediction(logits, codes).sum())
    assert (through(codes) == 0).all()
