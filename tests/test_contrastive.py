"""The losses that SimCLR was compared with, and SupCon: loops, rules, and the authors' code."""

import math

import jax
import numpy as np
import pytest
from oracles.projected import weights
from stepped import DTYPES, encoder, three_steps

from byol_jax import losses, models, optim
from byol_jax.methods.supcon import supcon
from byol_jax.models import heads
from byol_jax.models.network import network

B, D, T, M = 6, 3, 0.3, 0.4
pytestmark = pytest.mark.usefixtures("x64")
ONES = np.ones(B)
# One program each: operation by operation they take ten times as long to compile.
nt_logistic = jax.jit(losses.nt_logistic, static_argnames="semi_hard")
margin_triplet = jax.jit(losses.margin_triplet, static_argnames="semi_hard")
n_pair = jax.jit(losses.n_pair)
supervised_contrastive = jax.jit(losses.supervised_contrastive, static_argnames="inside")


def embeddings(seed=0):
    return np.random.RandomState(seed).randn(B, 2, D) * 2


def unit(x):
    return x / math.sqrt(sum(x * x))


def log_sigmoid(x):
    return -math.log(1 + math.exp(-x))


def triplets(z, i, view, mask):
    """(cosine to the positive, cosines to the negatives) of one anchor."""
    anchor = unit(z[i, view])
    others = [(k, w) for k in range(len(z)) for w in (0, 1) if k != i and mask[k]]
    return sum(anchor * unit(z[i, 1 - view])), [sum(anchor * unit(z[k])) for k in others]


def semi_hard_loops(positive, negatives):
    farther = [s for s in negatives if s < positive]
    return [max(farther) if farther else min(negatives)]


def loops(z, mask, loss, semi_hard):
    """One anchor, one negative at a time; per example."""
    result = []
    for i in range(len(z)):
        total = 0.0
        for view in (0, 1):
            positive, negatives = triplets(z, i, view, mask)
            if semi_hard:
                negatives = semi_hard_loops(positive, negatives)
            pairs = [loss(positive, s) for s in negatives]
            total += sum(pairs) / len(pairs)
        result.append(total / 2)
    return result


def logistic_pair(positive, negative):
    return -log_sigmoid(positive / T) - log_sigmoid(-negative / T)


def margin_pair(positive, negative):
    return max(negative - positive + M, 0)


@pytest.mark.parametrize("semi_hard", [False, True])
@pytest.mark.parametrize("masked", [(), (1, 4)])
def test_triplet_losses_equal_the_loops(semi_hard, masked):
    """Fails if another negative is chosen, one is summed for averaged, or a masked one counts."""
    z, mask = embeddings(), ONES.copy()
    mask[list(masked)] = 0
    found = nt_logistic(z, mask, temperature=T, semi_hard=semi_hard)
    expected = np.array(loops(z, mask, logistic_pair, semi_hard))
    np.testing.assert_allclose(found[mask > 0], expected[mask > 0], rtol=1e-12)
    found = margin_triplet(z, mask, margin=M, semi_hard=semi_hard)
    expected = np.array(loops(z, mask, margin_pair, semi_hard))
    np.testing.assert_allclose(found[mask > 0], expected[mask > 0], rtol=1e-12)


def test_a_semi_hard_negative_is_the_closest_that_is_farther():
    """Fails if the hardest is taken, or, where all are nearer, another than the farthest."""

    def circle(angles):
        return np.stack([np.cos(angles), np.sin(angles)], -1)

    z = circle([[0, 0.5], [0.2, 0.9], [1.2, 2.0]])
    found = margin_triplet(z, np.ones(3), margin=1.0, semi_hard=True)
    # Angles of each anchor to its positive and to the negative that counts.
    pairs = [((0.5, 0.9), (0.5, 0.7)), ((0.7, 1.0), (0.7, 0.9)), ((0.8, 1.0), (0.8, 1.1))]
    expected = [sum(max(math.cos(n) - math.cos(p) + 1, 0) for p, n in two) / 2 for two in pairs]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    z = circle([[0, 2.0], [0.1, 0.2], [0.7, 1.5]])  # all negatives of the first are nearer
    found = margin_triplet(z, np.array([1.0, 1, 0]), margin=0.0, semi_hard=True)
    expected = [math.cos(0.2) - math.cos(2.0), math.cos(1.9) - math.cos(2.0)]
    np.testing.assert_allclose(found[0], sum(expected) / 2, rtol=1e-12)


def test_n_pair_equals_the_loops():
    """Fails if vectors are normalised, both directions count, or the l2 term has another weight."""
    z, mask = embeddings(), ONES.copy()
    mask[2] = 0
    expected = []
    for i in range(B):
        total = sum(math.exp(z[i, 0] @ z[k, 1]) for k in range(B) if mask[k])
        norms = sum(z[i, 0] ** 2) + sum(z[i, 1] ** 2)
        expected.append(math.log(total) - z[i, 0] @ z[i, 1] + 0.25 * 0.002 * norms)
    found = n_pair(z, mask, l2=0.002)
    np.testing.assert_allclose(found[mask > 0], np.array(expected)[mask > 0], rtol=1e-12)


def supcon_loops(z, label, mask, inside=False):
    """Khosla et al. 2020, equations 2 and 3: one anchor, one positive at a time."""
    result = []
    everyone = [(k, w) for k in range(len(z)) for w in (0, 1) if mask[k]]
    for i in range(len(z)):
        total = 0.0
        for view in (0, 1):
            e = {
                o: math.exp(sum(unit(z[i, view]) * unit(z[o])) / T)
                for o in everyone
                if o != (i, view)
            }
            alike = [o for o in e if o[0] == i or label[i] == label[o[0]] != -1]
            shares = [e[o] / sum(e.values()) for o in alike]
            if inside:
                total -= math.log(sum(shares) / len(shares))
            else:
                total -= sum(math.log(s) for s in shares) / len(shares)
        result.append(total / 2)
    return result


LABEL = np.array([0, 1, 0, -1, -1, 1])


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("masked", [(), (2, 3)])
def test_supcon_equals_the_loops(inside, masked):
    """Fails if -1 is a class, the mean is on the other side, or a masked row attracts."""
    z, mask = embeddings(), ONES.copy()
    mask[list(masked)] = 0
    found = supervised_contrastive(z, LABEL, mask, temperature=T, inside=inside)
    # A masked row has no value of its own; its own loop has no partner.
    kept = [i for i in range(B) if mask[i]]
    expected = np.array(supcon_loops(z[kept], LABEL[kept], np.ones(len(kept)), inside))
    np.testing.assert_allclose(np.asarray(found)[kept], expected, rtol=1e-12)


@pytest.mark.parametrize("inside", [False, True])
def test_supcon_without_labels_is_nt_xent(inside):
    """Fails if unknown labels attract each other, or one's own view does not attract."""
    z = embeddings()
    found = supervised_contrastive(z, -np.ones(B), ONES, temperature=T, inside=inside)
    np.testing.assert_allclose(found, losses.nt_xent(z, T, ONES), rtol=1e-12)


# The authors' losses.py and util.py (SGD) at 66a8fe5 and tests/oracles/supcon.py: loss, how far the
# kernels moved, how far biases and norms moved.
SUPCON = (
    (10.619391606310773, 0.38413888740482005, 0.17758245728008265),
    (4.488064875658871, 0.6545287889003828, 0.3206429830006874),
    (4.393442434745595, 0.8766061476207543, 0.48248160852785515),
)


def test_supcon_steps_as_the_authors_code_does():
    """Fails if loss, its scale, head, joint batch norm or decay on all differ from theirs."""
    options = {"hidden_bias": True, "last_bias": True, **DTYPES}
    head = heads.mlp((9, 7), norm=False, **options)
    net = network(models.joint(encoder(9)), models.joint(head))
    method = supcon(net, temperature=0.1, scale=0.1 / 0.07)
    optimizer = optim.sgd(optim.constant(0.05), weight_decay=1e-2, exclude=())
    tree = weights(9, (9, 7), norm=False, hidden_bias=True, last_bias=True)
    np.testing.assert_allclose(three_steps(method, optimizer, tree), SUPCON, rtol=1e-9)
