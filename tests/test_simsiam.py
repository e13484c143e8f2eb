"""SimSiam against the authors' steps; its predictor's constant rate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import compiled, mini_encoder, named
from small_steps import batch_of, rates, start, sums, three_steps

from byol_jax import losses, optim
from byol_jax.config import default_config, put, resolve
from byol_jax.experiment.methods import Facts
from byol_jax.experiment.optimizers import build_optimizer
from byol_jax.methods.siamese import siamese
from byol_jax.models import heads
from byol_jax.models.network import network
from byol_jax.optim import Group, Rates

pytestmark = pytest.mark.usefixtures("x64")


def make(**options):
    plain = {"hidden_bias": False, "dtype": jnp.float64, "param_dtype": jnp.float64}
    projector = heads.mlp((16, 16, 6), norm_last=True, scale_last=False, **plain)
    predictor = heads.mlp((5, 6), last_bias=True, **plain)
    net = network(mini_encoder(), projector)
    return siamese(net, predictor, objective=losses.negative_cosine, **options)


# facebookresearch/simsiam:simsiam/builder.py at a7bc177, run by tests/oracles/simsiam.py: the loss,
# and a checksum of the parameters after the step.
SIMSIAM = [
    (-0.014334297225344215, 4.324314656514661),
    (-0.1417917108345979, 3.4748527611707987),
    (0.04993859634310473, 2.9256372648822433),
]


def test_three_steps_are_the_authors():
    """Fails if directions are summed, a last norm has a scale, or the predictor's rate decays."""
    fixed = {"predictor": Group(lr=optim.constant(0.3))}
    optimizer = optim.sgd(Rates(rates(0.3, 0.2, 0.1), fixed), weight_decay=1e-2, exclude=())
    for (loss, _, after), expected in zip(three_steps(make(), optimizer), SIMSIAM, strict=True):
        np.testing.assert_allclose((loss, sums(after.params)), expected, rtol=1e-10)


def test_no_gradient_reaches_the_projections_compared_with():
    """Fails if the stop-gradient is lost: only the predictor's gradient does not depend on it."""
    state = start(make(), optim.sgd(optim.constant(0.1)))
    args = (state.params, state.extra, batch_of(0), jax.random.key(1), jnp.int32(0))
    found = []
    for stop in (True, False):
        grad = jax.jit(jax.grad(make(stop_gradient=stop).loss, has_aux=True))
        found.append(named(compiled(grad, *args)(*args)[0]))
    for name, value in found[0].items():
        same = np.allclose(value, found[1][name], rtol=1e-9, atol=1e-14)
        assert same == name.startswith("predictor/"), name


def test_the_recipes_predictor_keeps_its_rate():
    """Fails if `optimizer.lr_fixed` does not reach the predictor, or reaches more than it."""
    config = default_config()
    for key, value in {
        "optimizer.lr": 0.4, "optimizer.lr_fixed": ("predictor",), "sgd.momentum": 0.0,
    }.items():  # fmt: skip
        put(config, key, value)
    optimizer = build_optimizer(resolve(config), Facts(64, 0, 20, 4))
    state = start(make(), optimizer)
    ones = jax.tree.map(jnp.ones_like, state.params)
    update_at = jax.jit(optimizer.update)
    for step, base in ((0, 0.4), (10, 0.2)):
        updates, _ = update_at(ones, state.opt_state, state.params, jnp.int32(step))
        for name, update in named(updates).items():
            expected = 0.4 if name.startswith("predictor/") else base
            np.testing.assert_allclose(update, -expected, rtol=1e-12, err_msg=name)
