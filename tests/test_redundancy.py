"""Barlow Twins and VICReg: their equations as loops, their masks, and the authors' own code."""

import jax
import numpy as np
import pytest
from oracles.projected import ROWS, weights
from stepped import DTYPES, encoder, three_steps

from byol_jax import losses, optim
from byol_jax.methods.barlow import barlow
from byol_jax.methods.vicreg import vicreg
from byol_jax.models import heads
from byol_jax.models.network import network

B, D = 6, 4
pytestmark = pytest.mark.usefixtures("x64")


def embeddings(seed=0):
    return np.random.RandomState(seed).randn(B, 2, D) * [1, 0.3, 2, 0.01] + 0.5


def barlow_loops(z):
    """Zbontar et al. 2021, equations 1 and 2, with batch norm's epsilon: one pair at a time."""
    mean, std = z.mean(0), np.sqrt(z.var(0) + 1e-5)
    on = off = 0.0
    for i in range(D):
        for j in range(D):
            c = sum(
                (z[b, 0, i] - mean[0, i]) / std[0, i] * (z[b, 1, j] - mean[1, j]) / std[1, j]
                for b in range(len(z))
            ) / len(z)
            on, off = (on + (1 - c) ** 2, off) if i == j else (on, off + c**2)
    return on, off


def vicreg_loops(z):
    """Bardes et al. 2022, equations 1 to 5, the variance halved: one number at a time."""
    n = len(z)
    same = sum((z[b, 0, i] - z[b, 1, i]) ** 2 for b in range(n) for i in range(D)) / (n * D)
    spread = covary = 0.0
    for view in (0, 1):
        x = z[:, view] - z[:, view].mean(0)
        for i in range(D):
            for j in range(D):
                c = sum(x[b, i] * x[b, j] for b in range(n)) / (n - 1)
                if i == j:
                    spread += max(0.0, 1 - np.sqrt(c + 1e-4)) / D / 2
                else:
                    covary += c**2 / D
    return same, spread, covary


@pytest.mark.parametrize(
    ("loss", "loops"), [(losses.barlow_twins, barlow_loops), (losses.vicreg, vicreg_loops)]
)
def test_the_terms_equal_the_loops(loss, loops):
    """Fails if a term is not divided as in the paper, or a masked row counts in one of them."""
    z, mask = embeddings(), np.array([1.0, 1, 0, 1, 1, 0])
    loss = jax.jit(loss)
    np.testing.assert_allclose(loss(z, np.ones(B)), loops(z), rtol=1e-12)
    z[mask == 0] = np.array([[1e3], [-1e3]])
    np.testing.assert_allclose(loss(z, mask), loops(z[mask > 0]), rtol=1e-12)


@pytest.mark.parametrize(
    ("loss", "loops", "weighed"),
    [
        (losses.barlow_twins, barlow_loops, lambda terms: terms[0] + 0.3 * terms[1]),
        (losses.vicreg, vicreg_loops, lambda terms: 2 * terms[0] + 3 * terms[1] + terms[2]),
    ],
)
def test_the_gradient_reaches_all_rows_through_the_statistics(loss, loops, weighed):
    """Fails if means, variances or covariances are taken for constants."""
    z, shift = embeddings(), np.random.RandomState(3).randn(B, 2, D)
    gradient = jax.jit(jax.grad(lambda z: weighed(loss(z, np.ones(B)))))(z)
    step = 1e-6
    up, down = (weighed(loops(z + s * shift)) for s in (step, -step))
    np.testing.assert_allclose((gradient * shift).sum(), (up - down) / (2 * step), rtol=1e-6)


def test_barlow_twins_does_not_see_scale_or_offset():
    """Fails if the batch norm on the projections is left out (but for its epsilon)."""
    z = 100 * np.random.RandomState(0).randn(B, 2, D)
    terms = losses.barlow_twins(3 * z + 7, np.ones(B))
    np.testing.assert_allclose(terms, losses.barlow_twins(z, np.ones(B)), rtol=1e-6)


def projector(widths, **options):
    return heads.mlp(widths, **options, **DTYPES)


# The authors' main.py at 8e8d284 and tests/oracles/barlow.py; theirs are one process. (loss, how
# far the kernels moved, how far biases and norms moved.)
BARLOW = (
    (4.900527777208315, -0.010819433897108549, -0.03648912057506875),
    (1.5649513605848016, -0.018743860129831008, -0.00033105053367096793),
    (0.4659415113062612, -0.07593426946557678, 0.05950305613259856),
)
# The authors' main_vicreg.py at 4e12602 and tests/oracles/vicreg.py.
VICREG = (
    (21.949370207306952, -8.595942017010106e-05, -0.6264563970323757),
    (14.345353522013825, -0.0002843224906645932, -0.9114296932084712),
    (18.130208232808616, 0.0005850058577017452, -0.5837935282676818),
)


def their_schedule(lr):
    """Step 39 is the last of the warm-up, of 80."""
    base = lr * ROWS / 256
    return optim.warmup_cosine(base, 40, 80, final=base * 0.001)


def test_barlow_twins_steps_as_the_authors_code_does():
    """Fails if loss, projector, LARS, its schedule or the second rate differ from theirs."""
    method = barlow(network(encoder(2048), projector((10, 10, 7), hidden_bias=False)))
    slow = optim.Group(factor=0.024)
    rates = optim.Rates(their_schedule(20.0), {"bias": slow, "scale": slow})
    optimizer = optim.lars(rates, weight_decay=1e-2)
    found = three_steps(method, optimizer, weights(2048, (10, 10, 7)), start=39)
    np.testing.assert_allclose(found, BARLOW, rtol=1e-9)


def test_vicreg_steps_as_the_authors_code_does():
    """Fails if a term, the expander or LARS differ from theirs."""
    method = vicreg(network(encoder(9), projector((10, 10, 7))))
    optimizer = optim.lars(their_schedule(2.0), weight_decay=1e-2)
    tree = weights(9, (10, 10, 7), hidden_bias=True)
    found = three_steps(method, optimizer, tree, start=39)
    np.testing.assert_allclose(found, VICREG, rtol=1e-9)
