"""Each loss against its equation, written as loops over one pair at a time."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import first_devices

from byol_jax import losses
from byol_jax.mesh import batch_sharding, replicated

B, D, T = 5, 4, 0.3
pytestmark = pytest.mark.usefixtures("x64")


def embeddings(seed, b=B, d=D):
    return np.random.RandomState(seed).randn(b, 2, d) * 3


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / (
        math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    )


def nt_xent_loops(z, mask, temperature=T):
    """Chen et al. 2020, equation 1: one anchor, one other at a time; per example."""
    result = []
    for i in range(len(z)):
        total = 0.0
        for view in (0, 1):
            positive = math.exp(cosine(z[i, view], z[i, 1 - view]) / temperature)
            partition = 0.0
            for k in range(len(z)):
                for other in (0, 1):
                    if (k, other) != (i, view) and mask[k]:
                        partition += math.exp(cosine(z[i, view], z[k, other]) / temperature)
            total -= math.log(positive / partition)
        result.append(total / 2)
    return np.array(result)


def with_negatives(q, z, beta, mask, temperature=T):
    return losses.regression_with_negatives(q, z, mask, beta=beta, temperature=temperature)


def test_regression_is_the_summed_distance_of_unit_vectors():
    """Fails if the directions are averaged, a view predicts itself, or lengths matter."""
    q, z = embeddings(0), embeddings(1)
    expected = []
    for i in range(B):
        total = 0.0
        for view in (0, 1):
            a, b = q[i, view], z[i, 1 - view]
            a, b = a / math.sqrt(sum(a * a)), b / math.sqrt(sum(b * b))
            total += sum((a - b) ** 2)
        expected.append(total)
    np.testing.assert_allclose(losses.regression(q, z, np.ones(B)), expected, rtol=1e-12)


def test_regression_spans_0_to_8():
    """Fails if the two directions are not summed."""
    z = embeddings(0)
    np.testing.assert_allclose(losses.regression(z, 7 * z[:, ::-1], np.ones(B)), 0, atol=1e-12)
    np.testing.assert_allclose(losses.regression(z, -z[:, ::-1], np.ones(B)), 8, rtol=1e-12)


def test_normalize_of_zero_is_zero_with_a_finite_gradient():
    """Fails if a norm of 0 is divided by."""
    zero = jnp.zeros((1, D))
    np.testing.assert_array_equal(losses.normalize(zero), zero)
    assert np.isfinite(jax.grad(lambda x: losses.normalize(x).sum())(zero)).all()


def test_nt_xent_equals_the_loops():
    """Fails if the self-pair counts, the positive is left out, or the anchors are summed."""
    z = embeddings(0)
    found = losses.nt_xent(z, T, np.ones(B))
    np.testing.assert_allclose(found, nt_xent_loops(z, np.ones(B)), rtol=1e-12)


def test_negatives_at_beta_0_is_regression():
    """Fails if the constant or the sum over directions differs."""
    q, z = embeddings(0), embeddings(1)
    found = with_negatives(q, z, 0.0, np.ones(B))
    np.testing.assert_allclose(found, losses.regression(q, z, np.ones(B)), rtol=1e-12)


def test_negatives_at_beta_1_with_one_network_is_nt_xent():
    """Fails if the partition lacks the factor 2 alpha."""
    z = embeddings(0)
    found = with_negatives(z, z, 1.0, np.ones(B))
    np.testing.assert_allclose(found, 4 + 4 * T * nt_xent_loops(z, np.ones(B)), rtol=1e-12)


def test_negatives_with_two_networks_equals_the_loops():
    """Fails if the negatives come from the online network."""
    q, z, beta = embeddings(0), embeddings(1), 0.7
    expected = []
    for i in range(B):
        total = 0.0
        for view in (0, 1):
            pairs = [(k, w) for k in range(B) for w in (0, 1) if (k, w) != (i, view)]
            partition = sum(math.exp(cosine(q[i, view], z[pair]) / T) for pair in pairs)
            total += 2 - 2 * cosine(q[i, view], z[i, 1 - view])
            total += beta * 2 * T * math.log(partition)
        expected.append(total)
    found = with_negatives(q, z, beta, np.ones(B))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


LOSSES = {
    "regression": losses.regression,
    "nt_xent": lambda q, z, mask: losses.nt_xent(q, T, mask),
    "with negatives": lambda q, z, mask: with_negatives(q, z, 1.0, mask),
    "nt_logistic": lambda q, z, mask: losses.nt_logistic(q, mask, temperature=T),
    "semi-hard triplet": lambda q, z, mask: losses.margin_triplet(
        q, mask, margin=0.8, semi_hard=True
    ),
    "n_pair": lambda q, z, mask: losses.n_pair(q, mask, l2=0.002),
    "supcon": lambda q, z, mask: losses.supervised_contrastive(
        q, jnp.zeros(len(q)), mask, temperature=T
    ),
    "supcon, inside": lambda q, z, mask: losses.supervised_contrastive(
        q, jnp.zeros(len(q)), mask, temperature=T, inside=True
    ),
    # Of the whole batch: the same value for each row.
    "barlow_twins": lambda q, z, mask: sum(losses.barlow_twins(q, mask)) + jnp.zeros(len(q)),
    "vicreg": lambda q, z, mask: sum(losses.vicreg(q, mask)) + jnp.zeros(len(q)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_masked_row_changes_nothing(name):
    """Fails if a masked row is an anchor or a negative, in the loss or in its gradient."""
    q, z = embeddings(0), embeddings(1)
    mask = np.array([1.0, 0, 1, 1, 0])
    kept = mask > 0

    def mean(q, z, mask):
        return losses.masked_mean(LOSSES[name](q, z, mask), mask)

    grad = jax.jit(jax.value_and_grad(mean))
    masked, gradient = grad(q, z, mask)
    alone, expected = grad(q[kept], z[kept], np.ones(3))
    np.testing.assert_allclose(masked, alone, rtol=1e-13)
    np.testing.assert_allclose(gradient[kept], expected, atol=1e-14)
    np.testing.assert_array_equal(gradient[~kept], 0)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("left", [0, 1])
def test_gradients_are_finite_where_hardly_a_row_counts(name, left):
    """Fails if a log-sum-exp over nothing, or a mean over nothing, gives NaN."""
    q, z, mask = embeddings(0), embeddings(1), np.arange(B) < left

    def mean(q):
        return losses.masked_mean(LOSSES[name](q, z, mask.astype(float)), mask)

    value, gradient = jax.jit(jax.value_and_grad(mean))(q)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert np.isfinite(with_negatives(q, z, 1.0, mask, 0.01)).all()


def test_the_gradient_of_nt_xent_is_the_same_on_4_devices():
    """Fails if negatives, or their gradients, stay on their own device."""
    z = embeddings(0, 8)
    gradients = []
    for n in (1, 4):
        mesh = first_devices(n)
        grad = jax.jit(
            jax.grad(lambda z: losses.nt_xent(z, T, jnp.ones(8)).mean()),
            in_shardings=batch_sharding(mesh),
            out_shardings=replicated(mesh),
        )
        gradients.append(np.asarray(grad(jax.device_put(z, batch_sharding(mesh)))))
    np.testing.assert_allclose(*gradients, atol=1e-14)
    # And it is the derivative of the loops.
    step, shift = 1e-6, np.random.RandomState(2).randn(*z.shape)
    up, down = (nt_xent_loops(z + s * shift, np.ones(8)).mean() for s in (step, -step))
    np.testing.assert_allclose((gradients[0] * shift).sum(), (up - down) / (2 * step), rtol=1e-7)


def test_cross_entropy_and_its_unknown_labels():
    """Fails if a row labelled -1 counts as the last class."""
    logits = np.random.RandomState(0).randn(3, 4)
    found = losses.cross_entropy(logits, np.array([2, -1, 0]))
    log_p = [math.log(math.exp(r[y]) / sum(math.exp(x) for x in r)) for r, y in
             ((logits[0], 2), (logits[2], 0))]  # fmt: skip
    np.testing.assert_allclose(found, [-log_p[0], 0, -log_p[1]], rtol=1e-12)


@pytest.mark.parametrize(("rows_", "dim"), [(40, 6), (6, 40)])
def test_std_and_rank_equals_numpy(rows_, dim):
    """Fails if masked rows count, rows are not normalised, or a Gram matrix is wrong."""
    x = np.random.RandomState(0).randn(rows_, dim) * np.arange(1, dim + 1) + 0.5
    mask = (np.arange(rows_) % 3 > 0).astype(float)
    unit = x[mask > 0] / np.linalg.norm(x[mask > 0], axis=1, keepdims=True)
    eigenvalues = np.linalg.eigvalsh(np.cov(unit.T, bias=True))
    std, rank = losses.feature_std_and_rank(x, mask)
    np.testing.assert_allclose(std, unit.std(0).mean() * math.sqrt(dim), rtol=1e-12)
    np.testing.assert_allclose(rank, eigenvalues.sum() ** 2 / (eigenvalues**2).sum(), rtol=1e-10)


def test_std_and_rank_tells_collapse_from_an_even_sphere():
    """Fails if the std is not scaled by sqrt(D), or the mean is not taken off."""
    ones = np.ones(64)
    std, _ = losses.feature_std_and_rank(np.tile(np.arange(1.0, 9.0), (64, 1)), ones)
    assert std < 1e-7
    std, rank = losses.feature_std_and_rank(np.random.RandomState(0).randn(4000, 8), np.ones(4000))
    assert abs(std - 1) < 0.01
    assert 7.8 < rank <= 8


def test_half_precision_is_measured_in_float32():
    """Fails if it works in the dtype it is given."""
    x = jnp.asarray(np.random.RandomState(0).randn(40, 6), jnp.bfloat16)
    expected = losses.feature_std_and_rank(np.asarray(x, np.float64), np.ones(40))
    std, rank = losses.feature_std_and_rank(x, jnp.ones(40, jnp.float32))
    assert std.dtype == rank.dtype == jnp.float32
    np.testing.assert_allclose((std, rank), expected, rtol=1e-5)


@pytest.mark.parametrize("unbiased", [False, True])
def test_the_masked_covariance_is_that_of_the_rows_that_count(unbiased):
    """Fails if masked rows count, the mean is not taken off, or the divisor is another."""
    x, mask = np.random.RandomState(0).randn(9, 4) + 3, np.arange(9) % 3 > 0
    expected = np.cov(x[mask].T, bias=not unbiased)
    found = losses.masked_covariance(x, mask.astype(float), unbiased=unbiased)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_masked_logits_hide_a_key_from_every_anchor():
    """Fails if rows are hidden in place of columns, or the temperature multiplies."""
    a, k = np.random.RandomState(0).randn(2, 3), np.random.RandomState(1).randn(4, 3)
    found = np.asarray(losses.masked_logits(a, k, 0.5, np.array([False, True, False, False])))
    for i in range(2):
        for j in range(4):
            expected = -math.inf if j == 1 else 2 * sum(a[i] * k[j])
            assert found[i, j] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("views", [1, 3, 4])
def test_losses_refuse_other_numbers_of_views(views):
    """Fails if a view is compared with itself: one view, or the middle one of three."""
    z = np.ones((B, views, D))
    for name, loss in LOSSES.items():
        with pytest.raises(ValueError, match=rf"compares 2 views; got .*\(5, {views}, 4\)"):
            loss(z, z, np.ones(B))
        assert name
