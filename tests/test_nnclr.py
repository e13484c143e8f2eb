"""NNCLR against solo-learn's steps; the neighbours and the queue."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import compiled, mini_encoder
from small_steps import batch_of, rates, start, sums, three_steps

from byol_jax import optim
from byol_jax.methods.nnclr import nearest, nnclr
from byol_jax.models import heads
from byol_jax.models.network import network

pytestmark = pytest.mark.usefixtures("x64")
MASK = np.array([1, 1, 0, 1, 1, 1, 1, 1])


def make(queue=16):
    plain = {"hidden_bias": False, "dtype": jnp.float64, "param_dtype": jnp.float64}
    projector = heads.mlp((12, 12, 6), norm_last=True, **plain)
    predictor = heads.mlp((12, 6), last_bias=True, **plain)
    return nnclr(network(mini_encoder(), projector), predictor, temperature=0.2, queue=queue)


# vturrisi/solo-learn:solo/methods/nnclr.py, losses/nnclr.py and utils/lars.py at 9187ea3, run by
# tests/oracles/nnclr.py: the loss, checksums of the parameters and the queue after the step.
NNCLR = [
    (2.845317275646785, 5.836901908099678, 1.5025190016430117),
    (3.0867032717852374, 6.450815026517529, 3.025399827351324),
    (2.646657776816358, 6.5365506452250255, -2.2980704968469707),
]


def test_three_steps_are_solo_learns():
    """Fails if neighbours are sought after enqueueing, the directions are added, or z2 is queued;
    on the last step the queue has wrapped.
    """
    optimizer = optim.lars(rates(0.3, 0.2, 0.1), weight_decay=1e-2, eta=0.02, clip=True)
    for (loss, _, after), expected in zip(three_steps(make(), optimizer), NNCLR, strict=True):
        found = loss, sums(after.params), sums({"queue": after.extra["queue"]})
        np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_the_nearest_is_the_one_with_the_largest_cosine():
    """Fails if it is the farthest, or of another view."""
    random = np.random.RandomState(0)
    z, queue = random.randn(5, 2, 4), random.randn(9, 4)
    z, queue = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (z, queue))
    found = nearest(z, jnp.asarray(queue))
    for i in range(5):
        for view in (0, 1):
            similarity = [sum(z[i, view] * entry) for entry in queue]
            np.testing.assert_array_equal(found[i, view], queue[int(np.argmax(similarity))])


@functools.cache
def gradients():
    method = make()
    state = start(method, optim.sgd(optim.constant(0.1)))
    args = (state.params, state.extra, batch_of(0, MASK), jax.random.key(1), jnp.int32(0))
    grad = jax.jit(jax.value_and_grad(method.loss, (0, 1), has_aux=True))
    (_, aux), found = compiled(grad, *args)(*args)
    return state, aux, found


def test_no_gradient_reaches_neighbours_or_queue():
    """Fails if a gradient flows into the queue, or does not reach a parameter."""
    _, _, (params, extra) = gradients()
    assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves(extra))
    assert all((np.asarray(x) != 0).any() for x in jax.tree.leaves(params))


def test_view_1_is_queued_and_a_masked_row_is_not():
    """Fails if z2, lengths, or the projection of an unreadable image enter the queue."""
    state, aux, _ = gradients()
    z, queue = np.asarray(aux.features["z"][:, 0]), np.asarray(state.extra["queue"])
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    expected = np.where(MASK[:, None] > 0, unit, queue[-8:])
    np.testing.assert_allclose(
        aux.extra["queue"], np.concatenate([expected, queue[:8]]), atol=1e-12
    )
