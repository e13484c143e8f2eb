"""Optimizers against independent NumPy and torch versions, schedules at their corners."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from conftest import filled

from byol_jax import optim
from byol_jax.methods.byol import byol
from byol_jax.methods.probe import with_probe
from byol_jax.models import heads, make_encoder
from byol_jax.models.network import network

STEPS = 20


def moving_lr(step):
    """A learning rate that changes every step: linear up, then cosine down."""
    return 3.0 * step / 4 if step < 4 else 1.5 * (1 + math.cos(math.pi * (step - 4) / (STEPS - 4)))


SCHEDULE = optim.warmup_cosine(3.0, 4, STEPS)


def start():
    random = np.random.RandomState(0)
    return {
        "conv": {"kernel": random.randn(3, 3, 2, 4)},
        "bn": {"scale": np.ones(4), "bias": np.zeros(4)},
        "fc": {"kernel": random.randn(4, 5), "bias": np.zeros(5)},
        "dead": {"kernel": np.zeros((2, 2))},  # a norm of 0
        "still": {"kernel": random.randn(2, 2)},  # a gradient of 0
    }


def gradients(params, step):
    """Gradients that depend on the parameters and the step, in NumPy."""
    random = np.random.RandomState(step + 1)

    def one(path, p):
        g = 0.3 * p + random.randn(*p.shape)
        return 0 * g if path[0].key == "still" else g

    return jax.tree_util.tree_map_with_path(one, jax.tree.map(np.asarray, params))


def run(optimizer, params=None, steps=STEPS):
    """The parameters after some steps of an optimizer of ours."""
    params = start() if params is None else params
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for step in range(steps):
        updates, state = update(gradients(params, step), state, params, jnp.int32(step))
        params = jax.tree.map(lambda p, u: p + np.asarray(u), params, updates)
    return params


def lars_numpy(eta, wd, lr_inside, momentum=0.9):
    """LARS by its formula, one leaf at a time."""
    params = start()
    buffers = jax.tree.map(np.zeros_like, params)
    for step in range(STEPS):
        lr, grads = moving_lr(step), gradients(params, step)
        for layer in params:
            for name, p in params[layer].items():
                g = grads[layer][name].copy()
                if name == "kernel":
                    g += wd * p
                    p_norm, g_norm = math.sqrt((p**2).sum()), math.sqrt((g**2).sum())
                    if p_norm > 0 and g_norm > 0:
                        g *= eta * p_norm / g_norm
                if lr_inside:
                    buffers[layer][name] = momentum * buffers[layer][name] + lr * g
                    params[layer][name] = p - buffers[layer][name]
                else:
                    buffers[layer][name] = momentum * buffers[layer][name] + g
                    params[layer][name] = p - lr * buffers[layer][name]
    return params


def assert_close(a, b, rtol):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol), a, b)


@pytest.mark.parametrize("lr_inside", [False, True])
def test_lars_equals_numpy_at_a_moving_rate(x64, lr_inside):
    """Fails if lr is on the other side of momentum, or biases are decayed or adapted."""
    found = run(optim.lars(SCHEDULE, weight_decay=0.02, eta=0.05, lr_inside=lr_inside))
    assert_close(found, lars_numpy(0.05, 0.02, lr_inside), 1e-10)


def test_lars_without_decay_leaves_a_norm_of_0_unscaled(x64):
    """Fails if a zero norm freezes the layer, or divides by zero."""
    found = run(optim.lars(SCHEDULE, weight_decay=0.0, eta=0.05))
    assert_close(found, lars_numpy(0.05, 0.0, False), 1e-10)
    assert np.abs(found["dead"]["kernel"]).min() > 0
    np.testing.assert_array_equal(found["still"]["kernel"], start()["still"]["kernel"])


def test_lars_equals_numpy_in_float32():
    """Fails if something is computed below float32."""
    params = jax.tree.map(np.float32, start())
    optimizer = optim.lars(SCHEDULE, weight_decay=0.02, eta=0.05)
    found = run(optimizer, params)
    assert {x.dtype for x in jax.tree.leaves(found)} == {np.dtype("float32")}
    assert_close(found, lars_numpy(0.05, 0.02, False), 1e-5)


def test_the_two_orders_differ_at_a_moving_rate_only(x64):
    """Fails if `lr_inside` is ignored."""
    inside, outside = (run(optim.lars(SCHEDULE, lr_inside=i)) for i in (True, False))
    assert np.abs(inside["fc"]["bias"] - outside["fc"]["bias"]).max() > 0.1
    inside, outside = (run(optim.lars(optim.constant(0.1), lr_inside=i)) for i in (True, False))
    assert_close(inside, outside, 1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
def test_lars_inside_equals_optax(x64, nesterov):
    """Fails if SimCLR's order differs from optax.lars with the same masks."""
    theirs = optax.lars(
        moving_lr_optax, 0.02, optim.weights_mask, 0.05, 0.0, optim.weights_mask, 0.9, nesterov
    )
    params = start()
    state, update = theirs.init(params), jax.jit(theirs.update)
    for step in range(STEPS):
        updates, state = update(gradients(params, step), state, params)
        params = jax.tree.map(lambda p, u: p + np.asarray(u), params, updates)
    ours = optim.lars(SCHEDULE, weight_decay=0.02, eta=0.05, nesterov=nesterov, lr_inside=True)
    assert_close(run(ours), params, 1e-12)


def moving_lr_optax(count):
    return SCHEDULE(count)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_equals_torch(x64, nesterov):
    """Fails if momentum, Nesterov or the decay of weights alone is not torch's."""
    ours = run(optim.sgd(SCHEDULE, weight_decay=0.03, momentum=0.8, nesterov=nesterov))
    assert_close(ours, torch_run(torch.optim.SGD, 0.03, momentum=0.8, nesterov=nesterov), 1e-12)


def test_adamw_equals_torch(x64):
    """Fails if the decay is coupled to the gradient, or reaches biases and norms."""
    schedule = optim.warmup_cosine(0.3, 4, STEPS)
    ours = run(optim.adamw(schedule, weight_decay=0.03, b1=0.8, b2=0.95))
    theirs = torch_run(torch.optim.AdamW, 0.03, scale=0.1, betas=(0.8, 0.95))
    assert_close(ours, theirs, 1e-9)


def torch_run(kind, decay, scale=1.0, **kwargs):
    params = jax.tree.map(lambda p: torch.tensor(p, requires_grad=True), start())
    named = [(name, p) for layer in params.values() for name, p in layer.items()]
    groups = [
        {"params": [p for name, p in named if name == "kernel"], "weight_decay": decay},
        {"params": [p for name, p in named if name != "kernel"], "weight_decay": 0.0},
    ]
    optimizer = kind(groups, lr=1.0, **kwargs)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = scale * moving_lr(step)
        values = jax.tree.map(lambda p: p.detach().numpy(), params)
        for p, g in zip(
            jax.tree.leaves(params), jax.tree.leaves(gradients(values, step)), strict=True
        ):
            p.grad = torch.tensor(g)
        optimizer.step()
    return jax.tree.map(lambda p: p.detach().numpy(), params)


def test_the_rate_follows_the_given_step_not_a_count_of_calls():
    """Fails if a restored or rolled-back step gets another learning rate."""
    optimizer = optim.sgd(SCHEDULE)
    params = {"kernel": jnp.ones(2)}
    grads, state = {"kernel": jnp.ones(2)}, optimizer.init(params)
    for step in (11, 2, 11):
        updates, _ = optimizer.update(grads, state, params, jnp.int32(step))
        np.testing.assert_allclose(updates["kernel"], -moving_lr(step), rtol=1e-6)


def test_what_the_masks_leave_out_of_a_resnet18_with_heads():
    """Fails if a bias or norm is decayed, or a kernel is not."""
    encoder, head = make_encoder("resnet18"), heads.mlp((64, 32))
    method = byol(network(encoder, head), head, tau=optim.constant(0.9))
    method = with_probe(method, heads.linear(10), encoder.dim)
    batch = {"views": jax.ShapeDtypeStruct((2, 2, 32, 32, 3), jnp.float32)}
    params, _ = jax.eval_shape(method.init, jax.random.key(0), batch)
    mask = jax.tree_util.tree_flatten_with_path(optim.weights_mask(params))[0]
    kept = {jax.tree_util.keystr(p, simple=True, separator="/") for p, m in mask if m}
    left = {jax.tree_util.keystr(p, simple=True, separator="/") for p, m in mask if not m}
    # By hand: a stem, 8 blocks of 2 convolutions, 3 shortcuts; and a norm behind every one.
    norms = {"bn1"} | {
        f"layer{s}_{b}/bn{i}" for s in (1, 2, 3, 4) for b in (0, 1) for i in (1, 2)
    } | {f"layer{s}_0/downsample_bn" for s in (2, 3, 4)}  # fmt: skip
    convs = {n.replace("_bn", "_conv").replace("bn", "conv") for n in norms}
    expected = {f"encoder/{n}/{leaf}" for n in norms for leaf in ("scale", "bias")}
    for part in ("projector", "predictor"):
        expected |= {f"{part}/{leaf}" for leaf in ("fc1/bias", "bn1/scale", "bn1/bias")}
    assert left == expected | {"probe/bias"}
    dense = {f"{p}/fc{i}/kernel" for p in ("projector", "predictor") for i in (1, 2)}
    assert kept == {f"encoder/{n}/kernel" for n in convs} | dense | {"probe/kernel"}
    # The mask sees names, not shapes: values make no difference.
    assert optim.weights_mask(filled(params)) == optim.weights_mask(params)


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.0), (5, 0.15), (10, 0.3), (60, 0.15), (35, 0.3 * (1 + math.sqrt(0.5)) / 2), (110, 0.0)],
)
def test_warmup_cosine_at_its_corners(x64, step, expected):
    """Fails if the cosine runs over k / K instead of (k - W) / (K - W), or does not reach 0."""
    schedule = optim.warmup_cosine(0.3, 10, 110)
    np.testing.assert_allclose(schedule(jnp.int32(step)), expected, atol=1e-15)


def test_no_warmup_starts_at_the_base_and_nothing_comes_back_after_the_end():
    """Fails if W = 0 divides by zero, or the cosine rises again."""
    schedule = optim.warmup_cosine(0.3, 0, 10)
    np.testing.assert_allclose([schedule(0), schedule(10), schedule(15)], [0.3, 0, 0], atol=1e-7)
    assert np.isfinite(optim.warmup_cosine(0.3, 10, 10)(jnp.int32(10)))


@pytest.mark.parametrize(("step", "expected"), [(0, 0.99), (50, 0.995), (100, 1.0)])
def test_tau_at_its_corners(x64, step, expected):
    """Fails if tau falls, or goes by the learning rate's clock."""
    np.testing.assert_allclose(optim.cosine_tau(0.99, 100)(jnp.int32(step)), expected, atol=1e-15)


def test_learning_rates_scale_with_the_batch():
    """Fails if linear is not B / 256 or sqrt not sqrt(B)."""
    assert optim.scale_learning_rate(0.3, 4096, "linear") == pytest.approx(4.8)
    assert optim.scale_learning_rate(0.075, 4096, "sqrt") == pytest.approx(4.8)
    assert optim.scale_learning_rate(0.3, 4096, "none") == 0.3
    with pytest.raises(ValueError, match=r"'cubic'.*linear, sqrt, none"):
        optim.scale_learning_rate(0.3, 4096, "cubic")
