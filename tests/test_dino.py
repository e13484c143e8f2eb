"""DINO: the authors' steps, its centre, temperatures, head and teacher; BYOL with local views."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import compiled, mini_encoder, named
from crop_steps import LOCAL, batch_of, start, steps_of, sums

from byol_jax import losses, models, optim
from byol_jax.config import default_config
from byol_jax.experiment.methods import Facts, Parts, clusters
from byol_jax.methods.byol import byol
from byol_jax.methods.dino import dino, warmed_up
from byol_jax.models import heads
from byol_jax.models.dino_head import dino_head
from byol_jax.models.network import network

pytestmark = pytest.mark.usefixtures("x64")
K, RATES, DECAYS, TAUS = 6, (0.03, 0.02, 0.01), (0.04, 0.2, 0.4), (0.9, 0.95, 0.99)

# facebookresearch/dino at 7c446df (main_dino.py: train_one_epoch, DINOLoss; utils.py;
# vision_transformer.py: DINOHead), by tests/oracles/dino.py: after each step, the loss and
# checksums of the centre, the student and the teacher.
AUTHORS = [
    (1.0842436593605609, 0.0007652852155652281, 8.70603453423608, 9.16553068326425),
    (0.6240984593131569, 0.00793119773886598, 8.613976618677768, 9.137952980034926),
    (0.508382602478991, 0.014128155926699873, 8.339936521604688, 9.129972815450623),
]


def table(*values):
    return lambda step: jnp.asarray(values)[step]


def method_of(momentum=0.9):
    head = dino_head((12, 12, 8), dtype=jnp.float64, param_dtype=jnp.float64)
    net = network(models.joint(mini_encoder()), head)
    return dino(
        net,
        net,
        K,
        tau=table(*TAUS),
        temperature=0.1,
        teacher_temperature=warmed_up(0.04, 0.07, 3, 1),
        centre_momentum=momentum,
        local=LOCAL,
    )


def optimizer_of():
    adamw = optim.adamw(optim.Rates(table(*RATES)), weight_decay=table(*DECAYS))
    return optim.clip_gradients(optim.held(adamw, ("last_layer",), 1), 0.05, per_tensor=True)


@functools.cache
def run():
    return steps_of(method_of(), optimizer_of(), 3)


def test_steps_equal_the_authors():
    """Fails if the centre is moved before the loss, a view is compared with itself, the clip comes
    after the last layer's gradient is dropped, or the teacher follows before the step."""
    for (metrics, _, after), (loss, centre, student, teacher) in zip(run(), AUTHORS, strict=True):
        np.testing.assert_allclose(metrics["train/loss"], loss, rtol=1e-10)
        np.testing.assert_allclose(sums({"centre": after.extra["centre"]}), centre, rtol=1e-9)
        np.testing.assert_allclose(sums(after.params), student, rtol=1e-10)
        np.testing.assert_allclose(sums(after.extra["target"]["params"]), teacher, rtol=1e-10)


def test_what_a_step_reports():
    """Fails if the temperature is another epoch's, or the entropy is not that of K outputs."""
    for (metrics, *_), temperature in zip(run(), (0.04, 0.055, 0.07), strict=True):
        np.testing.assert_allclose(metrics["teacher/temperature"], temperature)
        assert 0 < float(metrics["teacher/entropy"]) < np.log(K)


def test_the_teacher_starts_as_a_copy_and_the_centre_at_0():
    """Fails if the teacher is drawn on its own."""
    init = jax.jit(method_of().init)
    args = jax.random.key(0), batch_of(0)
    params, extra = compiled(init, *args)(*args)
    teacher = named(extra["target"]["params"])
    for name, value in named(params).items():
        np.testing.assert_array_equal(teacher[name], value, err_msg=name)
    assert (extra["centre"] == 0).all()
    kernels = [params["projector"][f"fc{i}"]["kernel"] for i in (1, 2, 3)]
    assert np.concatenate([np.ravel(k) for k in kernels]).std() == pytest.approx(0.02, rel=0.1)
    assert not any(layer["bias"].any() for layer in params["projector"].values())
    assert np.abs(params["last_layer"]["kernel"]).max() <= 8**-0.5


def test_gradients_reach_the_student_only():
    """Fails if a gradient flows into the teacher or the centre, or masked rows move the centre."""
    method = method_of(0.0)
    state, key = start(method, optimizer_of()), jax.random.key(0)
    mask = np.arange(8) != 3

    def loss(params, moving):
        extra = {**state.extra, **moving}
        value, aux = method.loss(params, extra, batch_of(0, mask), key, jnp.int32(0))
        return value, aux.extra["centre"]

    moving = {"target": {**state.extra["target"]}, "centre": state.extra["centre"] + 0.1}
    args = state.params, moving
    step = compiled(jax.jit(jax.grad(loss, (0, 1), has_aux=True)), *args)
    grads, centre = step(*args)
    assert all((g != 0).any() for g in named(grads[0]).values())
    assert all((g == 0).all() for g in named(grads[1]).values())
    # With a momentum of 0 the centre is the mean over the rows that count.
    net = network(models.joint(mini_encoder()), dino_head((12, 12, 8), dtype=jnp.float64))
    target = state.extra["target"]
    args = target["params"], target["stats"], batch_of(0)["views"]
    z = compiled(jax.jit(lambda *args: net.apply(*args, True)[1]), *args)(*args)
    kernel = np.asarray(target["params"]["last_layer"]["kernel"])
    rows = np.asarray(losses.normalize(z)) @ (kernel / np.linalg.norm(kernel, axis=0))
    np.testing.assert_allclose(centre, rows[mask].mean((0, 1)), rtol=1e-10)


def test_the_teachers_temperature():
    """Fails if it moves within an epoch, or reaches its end an epoch late."""
    steps = jnp.arange(14)
    found = jax.vmap(warmed_up(0.04, 0.07, 4, 3))(steps)
    expected = np.repeat([*np.linspace(0.04, 0.07, 4), 0.07], 3)[:14]
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    np.testing.assert_allclose(jax.vmap(warmed_up(0.04, 0.07, 0, 3))(steps), 0.07)
    np.testing.assert_allclose(jax.vmap(warmed_up(0.04, 0.07, 1, 3))(steps)[2:4], (0.04, 0.07))


def test_the_teacher_has_no_stochastic_depth(monkeypatch):
    """Fails if the teacher drops blocks. (Give `dino` the student's encoder twice.)"""
    seen = {}
    monkeypatch.setattr(clusters, "dino", lambda *nets, **_: seen.update(nets=nets))
    encoder = models.make_encoder("resnet18", width=0.25, drop_path=0.5, channels=1)
    m = default_config().dino
    clusters.METHODS["dino"](m, Parts(encoder, lambda module: module), Facts(8, 0, 4, 2))
    student, teacher = (net.encoder.config for net in seen["nets"][:2])
    assert student == {**teacher, "drop_path": 0.5}
    assert teacher["drop_path"] == 0


# --- BYOL with local views -----------------------------------------------------------------------


def test_byol_with_local_views_equals_the_loops():
    """Fails if local views have targets, predict one target only, or a norm is over two sizes."""
    head = heads.mlp((12, 8), dtype=jnp.float64, param_dtype=jnp.float64)
    net = network(mini_encoder(), head)
    method = byol(net, head, tau=optim.constant(0.9), local=LOCAL)
    assert method.takes == {"views": 2, "local": LOCAL}
    state, batch = start(method, optim.sgd(optim.constant(0.1))), batch_of(0)
    params, extra = state.params, state.extra
    target = jax.tree.map(lambda p: 1.5 * p + 0.1, extra["target"])
    extra = {**extra, "target": target}

    def both(params):
        value, aux = method.loss(params, extra, batch, jax.random.key(0), jnp.int32(0))
        stats, online, found = extra["stats"], {k: params[k] for k in ("encoder", "projector")}, []
        for group in ("views", "local"):  # one pass per size
            _, z, _ = net.apply(online, stats, batch[group], True)
            found.append(head.apply(params["predictor"], stats["predictor"], z, True)[0])
        _, z, _ = net.apply(target["params"], target["stats"], batch["views"], True)
        return value, (found, z, aux.features["h"])

    (value, (found, z, h)), grads = compiled(
        jax.jit(jax.value_and_grad(both, has_aux=True)), params
    )(params)
    q = np.concatenate(found, 1)
    total = 0.0
    for i in range(8):
        for v in range(2 + LOCAL):
            for t in range(2):
                if v == t:
                    continue
                a, b = q[i, v], np.asarray(z)[i, t]
                cosine = (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())
                total += (2 - 2 * cosine) / (2 + 2 * LOCAL) / 8
    np.testing.assert_allclose(value, 2 * total, rtol=1e-10)
    assert h.shape[1] == 2 + LOCAL
    assert all((g != 0).any() for k, g in named(grads).items() if not k.endswith("fc1/bias"))
