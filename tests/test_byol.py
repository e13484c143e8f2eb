"""BYOL against an independent NumPy version in two separate passes, and its relatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import compiled, first_devices, make_batch, mini_encoder, named, start_state

from byol_jax import losses, optim
from byol_jax.config import default_config, resolve
from byol_jax.core import starting_from
from byol_jax.experiment.methods import Facts, Parts, build_method
from byol_jax.mesh import put_batch
from byol_jax.methods.byol import byol
from byol_jax.methods.probe import with_probe
from byol_jax.models import heads
from byol_jax.models.network import network
from byol_jax.train_step import jit_step, make_train_step

KEY, STEP_0 = jax.random.key(1), jnp.int32(0)
CLASSIFIER = heads.linear(3, dtype=jnp.float64)
pytestmark = pytest.mark.usefixtures("x64")


# --- the same network in NumPy, one view at a time -----------------------------------------------


def norm(x, params, stats):
    """Batch norm in training; (output, running statistics)."""
    axes = tuple(range(x.ndim - 1))
    mean, var = x.mean(axes), x.var(axes)
    y = (x - mean) / np.sqrt(var + 1e-5) * params["scale"] + params["bias"]
    new = {"mean": 0.9 * stats["mean"] + 0.1 * mean, "var": 0.9 * stats["var"] + 0.1 * var}
    return y, new


def conv(x, kernel, stride):
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    return np.einsum("nhwcij,ijco->nhwo", windows[:, ::stride, ::stride], kernel)


def encode(x, params, stats):
    new = {}
    for i in (0, 1):
        x = conv(x, params[f"conv{i}"]["kernel"], 1 + i)
        x, new[f"bn{i}"] = norm(x, params[f"bn{i}"], stats[f"bn{i}"])
        x = np.maximum(x, 0)
    return x.mean((1, 2)), new


def head(x, params, stats):
    y = x @ params["fc1"]["kernel"] + params["fc1"]["bias"]
    y, new = norm(y, params["bn1"], stats["bn1"])
    return np.maximum(y, 0) @ params["fc2"]["kernel"], {"bn1": new}


def passes(params, stats, views):
    """One pass a view through all parts there are: (outputs of the last, new statistics)."""
    outputs = []
    for v in range(views.shape[1]):
        x, moved = encode(views[:, v], params["encoder"], stats["encoder"])
        stats = {**stats, "encoder": moved}
        for part in ("projector", "predictor"):
            if part in params:
                x, moved = head(x, params[part], stats[part])
                stats = {**stats, part: moved}
        outputs.append(x)
    return outputs, stats


def loss_numpy(params, extra, batch):
    """(loss, new extra) of BYOL: two passes online, two of the target, both directions summed."""
    q, stats = passes(params, extra["stats"], batch["views"])
    z, target_stats = passes(extra["target"]["params"], extra["target"]["stats"], batch["views"])
    total = 0.0
    for mine, theirs in ((q[0], z[1]), (q[1], z[0])):
        unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (mine, theirs)]
        total = total + ((unit[0] - unit[1]) ** 2).sum(1)
    target = {"params": extra["target"]["params"], "stats": target_stats}
    return (total * batch["mask"]).sum() / batch["mask"].sum(), {"stats": stats, "target": target}


# --- BYOL itself ---------------------------------------------------------------------------------


def make(predictor=True, **options):
    mlp = heads.mlp((12, 8), dtype=jnp.float64, param_dtype=jnp.float64)
    options = {"tau": optim.cosine_tau(0.9, 20)} | options
    return byol(network(mini_encoder(), mlp), mlp if predictor else None, **options)


def off_centre(tree, seed=5):
    """The tree with biases, scales and statistics away from 0 and 1."""
    random = np.random.RandomState(seed)
    return jax.tree.map(lambda x: np.asarray(x) + 0.1 * random.rand(*x.shape), tree)


@functools.cache
def setting():
    """(method, params, extra, batch), where one row is masked."""
    method, batch = make(), make_batch(6)
    batch["mask"][2] = 0
    state = start_state(method, optim.sgd(optim.constant(0.1)), batch)
    return method, off_centre(state.params), off_centre(state.extra), batch


@functools.cache
def loss_and_gradient():
    method, params, extra, batch = setting()
    grad = jax.jit(jax.value_and_grad(method.loss, (0, 1), has_aux=True))
    args = (params, extra, batch, KEY, STEP_0)
    return compiled(grad, *args)(*args)


def test_loss_and_statistics_equal_separate_passes():
    """Fails if directions are averaged, views share statistics, or the target is in eval mode."""
    _, params, extra, batch = setting()
    (value, aux), _ = loss_and_gradient()
    expected, moved = loss_numpy(params, extra, batch)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    assert aux.metrics["train/loss"] == value
    found, moved = named(aux.extra), named(moved)
    assert found.keys() == moved.keys()
    for k in moved:
        np.testing.assert_allclose(found[k], moved[k], rtol=1e-11, atol=1e-13, err_msg=k)


def test_the_targets_statistics_come_from_its_own_passes():
    """Fails if they are copied, averaged or shared with the online network's."""
    method, _, extra, _ = setting()
    (_, aux), _ = loss_and_gradient()
    online, target = (named(x["stats"]["encoder"]) for x in (aux.extra, aux.extra["target"]))
    before = named(extra["target"]["stats"]["encoder"])
    for k in before:
        assert (target[k] != before[k]).all(), k
        assert (target[k] != online[k]).all(), k
    moved, _ = method.after_update(setting()[1], aux.extra, jnp.int32(3))
    after = named(moved["target"]["stats"]["encoder"])
    for k in before:
        np.testing.assert_array_equal(after[k], target[k])


def test_the_gradient_is_the_derivative_with_the_target_held():
    """Fails if the target gets a gradient, or the online network none through a view."""
    _, params, extra, batch = setting()
    _, (grads, extra_grads) = loss_and_gradient()
    for k, g in named(extra_grads).items():
        assert (g == 0).all(), k
    random = np.random.RandomState(0)
    for part in params:
        direction = jax.tree.map(lambda x: random.randn(*x.shape), params[part])
        ends = []
        for step in (1e-6, -1e-6):
            moved = jax.tree.map(lambda x, d, s=step: x + s * d, params[part], direction)
            ends.append(loss_numpy({**params, part: moved}, extra, batch)[0])
        slope = (ends[0] - ends[1]) / 2e-6
        along = sum(
            (g * d).sum()
            for g, d in zip(jax.tree.leaves(grads[part]), jax.tree.leaves(direction), strict=True)
        )
        np.testing.assert_allclose(along, slope, rtol=1e-5, err_msg=part)


@pytest.mark.parametrize("step", [0, 7])
def test_the_moving_average_reaches_every_leaf_with_the_tau_of_its_step(step):
    """Fails if biases or norms are skipped, or tau is that of the step after."""
    optimizer = optim.sgd(optim.constant(0.1))
    method, batch = make(), make_batch(6)
    state = start_state(method, optimizer, batch)
    state = jax.tree.map(np.asarray, state)
    state = type(state)(
        np.int32(step), state.position, off_centre(state.params, 1), off_centre(state.extra, 2),
        state.opt_state,
    )  # fmt: skip
    args = (state, batch, KEY)
    after, metrics = trained_step(args)(*args)
    tau = 1 - 0.1 * (np.cos(np.pi * step / 20) + 1) / 2
    np.testing.assert_allclose(metrics["target/tau"], tau, rtol=1e-14)
    online, old = named(after.params), named(state.extra["target"]["params"])
    new = named(after.extra["target"]["params"])
    assert {k.split("/")[-1] for k in new} == {"kernel", "bias", "scale"}
    assert new.keys() == {k for k in online if not k.startswith("predictor")}
    for k in new:
        np.testing.assert_allclose(new[k], tau * old[k] + (1 - tau) * online[k], rtol=1e-12)
        assert (new[k] != old[k]).all()


STEP = []


def trained_step(args):
    """The step, compiled at the first call."""
    if not STEP:
        step = make_train_step(make(), optim.sgd(optim.constant(0.1)))
        STEP.append(compiled(jax.jit(step), *args))
    return STEP[0]


def test_online_and_target_start_from_different_keys():
    """Fails if the target starts as a copy, or shares arrays with the online network."""
    batch = make_batch(2)
    method = make()
    params, extra = method.init(jax.random.key(0), batch)
    online, target = named(params), named(extra["target"]["params"])
    for k in target:
        assert (online[k] != target[k]).all() == k.endswith("kernel"), k


# --- probe ---------------------------------------------------------------------------------------


def probed(labels, seed=0):
    """(loss, aux, gradients, probe) of the probed method with these labels and a drawn probe."""
    method, params, extra, batch = setting()
    random = np.random.RandomState(seed)
    probe = {"kernel": random.randn(16, 3), "bias": random.randn(3)}
    batch = {**batch, "label": np.asarray(labels, np.int32)}
    args = ({**params, "probe": probe}, extra, batch, KEY, STEP_0)
    if not PROBED:
        grad = jax.jit(jax.value_and_grad(with_probe(method, CLASSIFIER, 16).loss, has_aux=True))
        PROBED.append(compiled(grad, *args))
    (value, aux), grads = PROBED[0](*args)
    return value, aux, grads, probe


PROBED = []


def test_the_probe_leaves_the_methods_gradients_as_they_were():
    """Fails if the probe reads features without a stop-gradient."""
    (alone, aux), (grads, _) = loss_and_gradient()
    value, probed_aux, probed_grads, _ = probed([0, 1, 2, 0, 1, 2])
    expected, found = named(grads), named(probed_grads)
    for k, g in expected.items():
        np.testing.assert_allclose(found[k], g, rtol=1e-11, atol=1e-14, err_msg=k)
    # Two programs differ in the last bit; in one, another probe and other labels change nothing.
    other = named(probed([2, 2, 2, -1, 0, 1], seed=9)[2])
    for k in expected:
        np.testing.assert_array_equal(found[k], other[k], err_msg=k)
    assert found.keys() - expected.keys() == {"probe/kernel", "probe/bias"}
    metrics = probed_aux.metrics
    np.testing.assert_allclose(metrics["train/loss"], alone, rtol=1e-13)
    np.testing.assert_allclose(value, alone + metrics["probe/train_loss"], rtol=1e-13)
    for k, x in named(aux.extra).items():
        np.testing.assert_allclose(named(probed_aux.extra)[k], x, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("labels", [[0, 1, 2, 0, 1, 2], [0, -1, 2, 0, -1, 1], [-1] * 6])
def test_the_probe_counts_known_and_unmasked_rows_of_view_1(labels):
    """Fails if label -1 or a masked row counts, or the probe reads view 2."""
    _, aux, grads, probe = probed(labels)
    h = np.asarray(aux.features["h"])[:, 0]
    logits = h @ probe["kernel"] + probe["bias"]
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    rows = [i for i, y in enumerate(labels) if y >= 0 and i != 2]  # row 2 is masked
    losses_, hits, slope = [0.0], [0.0], np.zeros(3)
    if rows:
        losses_ = [-log_p[i, labels[i]] for i in rows]
        hits = [100.0 * (logits[i].argmax() == labels[i]) for i in rows]
        slope = sum(np.exp(log_p[i]) - np.eye(3)[labels[i]] for i in rows) / len(rows)
    np.testing.assert_allclose(aux.metrics["probe/train_loss"], np.mean(losses_), rtol=1e-12)
    np.testing.assert_allclose(aux.metrics["probe/train_top1"], np.mean(hits))
    np.testing.assert_allclose(grads["probe"]["bias"], slope, rtol=1e-12, atol=1e-15)


def test_the_probe_learns():
    """Fails if the probe's gradient is lost on the way to its parameters."""
    method, optimizer, batch = (
        with_probe(make(), CLASSIFIER, 16),
        optim.sgd(optim.constant(0.1)),
        make_batch(8),
    )
    mesh = first_devices(1)
    state, batch = start_state(method, optimizer, batch), put_batch(batch, mesh)
    step = compiled(jit_step(make_train_step(method, optimizer), mesh), state, batch, KEY)
    history = []
    for _ in range(25):
        state, metrics = step(state, batch, KEY)
        history.append((float(metrics["probe/train_loss"]), float(metrics["probe/train_top1"])))
    assert history[-1][0] < 0.5 * history[0][0]
    assert history[-1][1] >= 75 > history[0][1]


# --- the forms between BYOL and SimCLR, by their config -----------------------------------------


def method_of(name, **values):
    """The method of a config with these keys, on the mini encoder."""
    config = default_config()
    config.method.name, config.method.probe, config.encoder.dtype = name, False, "float64"
    config[name].update({"hidden": 24, "out": 8} | values)
    parts = Parts(mini_encoder(), lambda module: module)
    return build_method(resolve(config), parts, Facts(6, 0, 20, 1))


def configured(name, **values):
    method, batch = method_of(name, **values), make_batch(6)
    state = start_state(method, optim.sgd(optim.constant(0.1)), batch)
    params, extra = off_centre(state.params), off_centre(state.extra)
    grad = jax.jit(jax.value_and_grad(lambda p: method.loss(p, extra, batch, KEY, STEP_0)[0]))
    return params, extra, batch, *compiled(grad, params)(params)


@pytest.mark.parametrize("name", ["byol", "siamese"])
@pytest.mark.parametrize("predictor", [True, False])
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_ablation_rows_by_config(name, predictor, beta):
    """Fails if a key of the ablation is ignored: its parts and its loss, from the config."""
    keys = {"predictor": predictor, "beta": beta, "temperature": 0.5}
    params, extra, batch, value, _ = configured(name, **keys)
    assert ("target" in extra) == (name == "byol")
    assert ("predictor" in params) == predictor
    q, _ = passes(params, extra["stats"], batch["views"])
    source = {k: v for k, v in params.items() if k != "predictor"}
    if name == "byol":
        z, _ = passes(extra["target"]["params"], extra["target"]["stats"], batch["views"])
    else:
        z, _ = passes(source, extra["stats"], batch["views"])
    q, z = (np.stack(x, 1) for x in (q, z))
    options = {"beta": beta, "temperature": 0.5}
    expected = losses.regression_with_negatives(q, z, batch["mask"], **options).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-11)


def test_stop_gradient_matters_without_a_target():
    """Fails if the key is ignored: SimSiam's gradient would be SimCLR's."""
    options = {"predictor": False, "beta": 1.0, "temperature": 0.5}
    with_stop = configured("siamese", stop_gradient=True, **options)
    without = configured("siamese", stop_gradient=False, **options)
    np.testing.assert_allclose(with_stop[3], without[3], rtol=1e-14)
    a, b = (named(x[4])["projector/fc2/kernel"] for x in (with_stop, without))
    assert np.abs(a - b).max() > 1e-3


def test_a_constant_tau_of_1_keeps_a_random_target():
    """Fails if the schedule's key is ignored."""
    method = method_of("byol", tau_schedule="constant", tau=1.0, hidden=12)
    _, params, extra, _ = setting()
    for step in (0, 19):
        moved, metrics = method.after_update(params, extra, jnp.int32(step))
        assert metrics["target/tau"] == 1
        for k, x in named(moved["target"]).items():
            np.testing.assert_array_equal(x, named(extra["target"])[k])


def test_groups_and_joint_statistics_by_config():
    """Fails if `bn` or `bn_groups` is read by the encoder and not by the heads, or by neither."""
    found = {}
    for key in ({}, {"bn": "joint"}, {"bn_groups": 2}, {"bn": "joint", "bn_groups": 2}):
        *_, value, _ = configured("byol", **key)
        found[str(key)] = float(value)
    assert len(set(found.values())) == 4, found


def test_a_given_encoder_starts_online_and_target_alike():
    """Fails if `starting_from` reaches one of the two networks only, or the heads too."""
    images = jax.ShapeDtypeStruct((1, 1, 8, 8, 3), np.float64)
    params, stats = off_centre(
        start_values(jax.eval_shape(mini_encoder().init, KEY, images)), seed=7
    )
    encoder = starting_from(mini_encoder(), params, stats)
    mlp = heads.mlp((12, 8), dtype=jnp.float64, param_dtype=jnp.float64)
    found, extra = byol(network(encoder, mlp), mlp, tau=optim.constant(0.9)).init(
        KEY, make_batch(2)
    )
    target = extra["target"]
    for tree in (found["encoder"], target["params"]["encoder"]):
        assert same(tree, params)
    for tree in (extra["stats"]["encoder"], target["stats"]["encoder"]):
        assert same(tree, stats)
    assert not same(found["projector"], target["params"]["projector"])


def start_values(shapes):
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


def same(a, b):
    a, b = named(a), named(b)
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)
