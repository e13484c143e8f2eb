"""Every method through the same properties: it learns, reaches what it should, and shards."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import (
    compiled,
    filled,
    first_devices,
    make_batch,
    mini_encoder,
    named,
    numpy_state,
    placed,
    start_state,
)
from small_vit import small_vit

from byol_jax import losses, models, optim
from byol_jax.checkpoint import Checkpoints
from byol_jax.core import TrainState, starting_from
from byol_jax.mesh import put_batch, replicated
from byol_jax.methods.barlow import barlow
from byol_jax.methods.byol import byol
from byol_jax.methods.classify import classify
from byol_jax.methods.colorize import colorize
from byol_jax.methods.correspond import correspond
from byol_jax.methods.dino import dino, warmed_up
from byol_jax.methods.distill import Teacher, distill
from byol_jax.methods.mae import mae
from byol_jax.methods.moco import moco
from byol_jax.methods.nnclr import nnclr
from byol_jax.methods.npid import npid
from byol_jax.methods.probe import with_probe
from byol_jax.methods.regress import regress
from byol_jax.methods.several import several
from byol_jax.methods.siamese import siamese
from byol_jax.methods.simclr import contrastive, simclr
from byol_jax.methods.supcon import supcon
from byol_jax.methods.supervised import supervised
from byol_jax.methods.swav import swav
from byol_jax.methods.vicreg import vicreg
from byol_jax.models import heads
from byol_jax.models.dino_head import dino_head
from byol_jax.models.mae_decoder import mae_decoder
from byol_jax.models.network import network
from byol_jax.models.pixel_decoder import pixel_decoder
from byol_jax.train_step import jit_step, make_train_step
from byol_jax.views.tasks.avc import avc
from byol_jax.views.tasks.colorization import bins, colorization
from byol_jax.views.tasks.exemplar import exemplar
from byol_jax.views.tasks.inpainting import inpainting
from byol_jax.views.tasks.jigsaw import jigsaw
from byol_jax.views.tasks.relative import relative
from byol_jax.views.tasks.rotation import rotation
from byol_jax.views.tasks.shuffle import shuffle

STEPS, CLASSES = 20, 3


def make_head(dtype, widths=(12, 8), **options):
    return heads.mlp(widths, dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(dtype), **options)


def probed(method, dtype):
    return with_probe(method, heads.linear(CLASSES, dtype=jnp.dtype(dtype)), 16)


def byol_of(dtype, wrap=lambda module: module, **options):
    head = wrap(make_head(dtype))
    options = {"tau": optim.cosine_tau(0.9, STEPS)} | options
    return byol(network(wrap(mini_encoder(dtype)), head), head, **options)


def siamese_of(dtype, predictor=True, **options):
    head = make_head(dtype)
    return siamese(network(mini_encoder(dtype), head), head if predictor else None, **options)


def joint_network(dtype, layers):
    head = make_head(dtype, (12,) * layers + (8,), hidden_bias=False, norm_last=True)
    return network(models.joint(mini_encoder(dtype)), models.joint(head))


def simclr_of(dtype, layers):
    return simclr(joint_network(dtype, layers), temperature=0.5)


def contrastive_of(dtype, loss, **options):
    return contrastive(joint_network(dtype, 0), functools.partial(loss, **options))


def barlow_of(dtype):
    return barlow(network(mini_encoder(dtype), make_head(dtype, hidden_bias=False)))


def vicreg_of(dtype):
    # The published weights over 25: the float32 test has an absolute tolerance.
    net = network(mini_encoder(dtype), make_head(dtype))
    return vicreg(net, invariance=1.0, variance=1.0, covariance=0.04)


def moco_of(dtype, layers=2, **options):
    # On one batch the loss falls only against a queue that does not fill with that batch's keys.
    head = make_head(dtype, (12,) * (layers - 1) + (8,), norm=False, last_bias=True)
    encoder = models.grouped(mini_encoder(dtype), 2)
    options = {"tau": optim.constant(0.9), "temperature": 0.5, "queue": 2048} | options
    return moco(network(encoder, head), network(models.shuffled(encoder), head), **options)


def mocov3_of(dtype):
    head = make_head(dtype, hidden_bias=False, norm_last=True, scale_last=False)
    net, predictor = network(mini_encoder(dtype), head), make_head(dtype, hidden_bias=False)
    objective = functools.partial(losses.symmetric_info_nce, temperature=1.0)
    return byol(net, predictor, tau=optim.constant(0.9), objective=objective, copy=True)


def simsiam_of(dtype):
    widths = (12, 12, 8)
    head = make_head(dtype, widths, hidden_bias=False, norm_last=True, scale_last=False)
    predictor = make_head(dtype, hidden_bias=False, last_bias=True)
    net = network(mini_encoder(dtype), head)
    return siamese(net, predictor, objective=losses.negative_cosine)


def nnclr_of(dtype):
    head = make_head(dtype, (12, 12, 8), hidden_bias=False, norm_last=True)
    predictor = make_head(dtype, hidden_bias=False, last_bias=True)
    return nnclr(network(mini_encoder(dtype), head), predictor, temperature=0.5, queue=32)


def swav_of(dtype, **options):
    encoder, head = (
        models.joint(mini_encoder(dtype)),
        models.joint(make_head(dtype, last_bias=True)),
    )
    return swav(network(encoder, head), 6, temperature=0.5, epsilon=0.25, **options)


def dino_of(dtype):
    head = dino_head((12, 8), dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(dtype))
    net = network(models.joint(mini_encoder(dtype)), head)
    schedules = {"tau": optim.constant(0.9), "teacher_temperature": warmed_up(0.1, 0.2, 3, 5)}
    return dino(net, net, 6, temperature=0.5, local=3, **schedules)


def npid_of(dtype, negatives):
    net = network(mini_encoder(dtype), make_head(dtype, (8,), last_bias=True))
    return npid(net, examples=40, negatives=negatives, temperature=0.5)


def distill_of(dtype):
    linear = {"kernel": np.ones((16, CLASSES), dtype), "bias": np.zeros(CLASSES, dtype)}
    teacher = Teacher(mini_encoder(dtype), *encoder_start(dtype), linear)
    classifier = heads.linear(CLASSES, dtype=jnp.dtype(dtype))
    return distill(mini_encoder(dtype), classifier, teacher, temperature=0.5, alpha=0.75)


def mae_of(dtype, **options):
    dtypes = {"dtype": jnp.dtype(dtype), "param_dtype": jnp.dtype(dtype)}
    decoder = mae_decoder(16, 12, dim=8, depth=1, heads=2, **dtypes)
    return mae(small_vit(dtype, image_size=8, depth=1), decoder, **options)


def classify_of(dtype, quiz, widths=(), projector=None):
    head = make_head(dtype, (*widths, quiz.choices), hidden_bias=False, last_bias=True)
    net = network(models.joint(mini_encoder(dtype)), projector or make_head(dtype, ()))
    return classify(net, head, quiz)


def jigsaw_of(dtype):
    dtypes = {"dtype": jnp.dtype(dtype), "param_dtype": jnp.dtype(dtype)}
    quiz = jigsaw(24, grid=2, tile=3, jitter=1, shift=0)
    return classify_of(dtype, quiz, (), heads.first_layer(8, bias=False, **dtypes))


def relative_of(dtype):
    return classify_of(dtype, relative(3, tile=2, jitter=0), (12,))


def inpainting_of(dtype):
    dtypes = {"dtype": jnp.dtype(dtype), "param_dtype": jnp.dtype(dtype)}
    decoder = pixel_decoder(8, 3, bottleneck=8, width=16, **dtypes)
    return regress(mini_encoder(dtype), decoder, inpainting(band=1))


def colorization_of(dtype):
    dtypes = {"dtype": jnp.dtype(dtype), "param_dtype": jnp.dtype(dtype)}
    decoder = pixel_decoder(4, len(bins()), bottleneck=0, width=2, **dtypes)
    prior = np.ones(len(bins())) / len(bins())
    return colorize(mini_encoder(dtype), decoder, colorization(2), prior)


def avc_of(dtype):
    pairs = avc(40, fft=16, window=16, hop=4)
    head = make_head(dtype, (8, 2), hidden_bias=False, last_bias=True)
    return correspond(mini_encoder(dtype), mini_encoder(dtype, channels=1), head, pairs)


def several_of(dtype):
    # Done in the step, with rows that are filled from other devices.
    copies = classify_of(dtype, exemplar(5, 8, patch=4))
    tasks = {"exemplar": copies, "colorization": colorization_of(dtype)}
    return several(mini_encoder(dtype), tasks, (0, 1))


def supervised_of(dtype, **options):
    return supervised(mini_encoder(dtype), CLASSES, **options)


def frozen_of(dtype):
    encoder = starting_from(mini_encoder(dtype), *encoder_start(dtype))
    return supervised(encoder, CLASSES, frozen=True, lr_factors=(1.0, 0.5))


def with_negatives(beta, temperature):
    return functools.partial(losses.regression_with_negatives, beta=beta, temperature=temperature)


@functools.cache
def encoder_start(dtype):
    """A pre-trained encoder, so to speak: NumPy (params, stats)."""
    images = jax.ShapeDtypeStruct((1, 1, 8, 8, 3), dtype)
    return filled(jax.eval_shape(mini_encoder(dtype).init, jax.random.key(0), images), seed=3)


METHODS = {
    "byol": byol_of,
    "byol probed": lambda dtype: probed(byol_of(dtype), dtype),
    "byol, fixed target": lambda dtype: byol_of(dtype, tau=optim.constant(1.0)),
    "byol, with negatives": lambda dtype: byol_of(dtype, objective=with_negatives(0.5, 0.5)),
    "byol, groups": lambda dtype: byol_of(dtype, lambda module: models.grouped(module, 2)),
    "siamese": siamese_of,
    "siamese, SimCLR's form": lambda dtype: siamese_of(
        dtype, predictor=False, objective=with_negatives(1.0, 0.5), stop_gradient=False
    ),
    "simclr v1": lambda dtype: simclr_of(dtype, 1),
    "simclr v2 probed": lambda dtype: probed(simclr_of(dtype, 2), dtype),
    "moco v1 symmetric": lambda dtype: moco_of(dtype, 1, symmetric=True),
    "moco v2 probed": lambda dtype: probed(moco_of(dtype), dtype),
    "mocov3": mocov3_of,
    "simsiam": simsiam_of,
    "nnclr": nnclr_of,
    "simclr, semi-hard logistic": lambda dtype: contrastive_of(
        dtype, losses.nt_logistic, temperature=0.5, semi_hard=True
    ),
    "simclr, semi-hard triplet": lambda dtype: contrastive_of(
        dtype, losses.margin_triplet, margin=0.8, semi_hard=True
    ),
    "simclr, N-pair": lambda dtype: contrastive_of(dtype, losses.n_pair, l2=0.002),
    "supcon probed": lambda dtype: probed(supcon(joint_network(dtype, 1)), dtype),
    "barlow": barlow_of,
    "vicreg": vicreg_of,
    "swav": lambda dtype: swav_of(dtype, queue=16, queue_start=0, local=3),
    "dino probed": lambda dtype: probed(dino_of(dtype), dtype),
    "distill": distill_of,
    "npid": lambda dtype: npid_of(dtype, 5),
    "npid probed, softmax": lambda dtype: probed(npid_of(dtype, 0), dtype),
    "mae probed": lambda dtype: probed(mae_of(dtype), dtype),
    "rotation probed": lambda dtype: probed(classify_of(dtype, rotation()), dtype),
    "jigsaw": jigsaw_of,
    "relative": relative_of,
    "inpainting probed": lambda dtype: probed(inpainting_of(dtype), dtype),
    "several": several_of,
    "shuffle": lambda dtype: classify_of(dtype, shuffle(6, span=2, apart=1)),
    "avc": avc_of,
    "supervised": supervised_of,
    "supervised, frozen": frozen_of,
}
# LARS at BYOL's own rate for 100 epochs, SGD as in fine-tuning.
OPTIMIZERS = {name: lambda: optim.sgd(optim.constant(0.1)) for name in METHODS}
OPTIMIZERS["inpainting probed"] = lambda: optim.sgd(optim.constant(0.005))
OPTIMIZERS["byol"] = lambda: optim.lars(optim.constant(0.45), eta=1e-3)
OPTIMIZERS["barlow"] = lambda: optim.lars(optim.constant(0.2))
OPTIMIZERS["vicreg"] = lambda: optim.lars(optim.constant(0.3))
OPTIMIZERS["swav"] = lambda: optim.lars(optim.constant(0.5), larc=True, exclude=())
OPTIMIZERS["simclr v1"] = lambda: optim.lars(optim.constant(0.3), lr_inside=True)


TREES = ("params", "extra", "opt_state")


class Run(NamedTuple):
    """What twenty steps on one batch left, in NumPy but for `state`."""

    states: dict[int, Any]  # named leaves before step 0, after steps 1 and 20
    losses: list[float]
    state: Any
    method: Any
    flops: float  # of a step, per device


def after_task(task, batch):
    """What a task makes of a batch, by shape: noise, and answers 0 and 1; a task takes longer."""
    random, found = np.random.RandomState(5), dict(batch)
    like = jax.eval_shape(task, batch, jax.random.key(0))
    for k in ("views", "spectrogram", "target", "weight"):
        if k in like:
            whole = like[k].dtype == np.int32
            draws = random.randint(0, 2, like[k].shape) if whole else random.randn(*like[k].shape)
            draws = 30 * draws if like[k].shape[-1] == 2 and not whole else draws  # colours
            found[k] = (np.abs(draws) if k == "weight" else draws).astype(like[k].dtype)
    return found


def batch_for(method, dtype="float64"):
    if method.task:
        batch = make_batch(8, dtype, views=1)
        if method.reads:
            sound = np.random.RandomState(6).randn(8, 40).astype(np.float32)
            batch |= {"frames": np.repeat(batch["views"], 6, 1), "sound": sound}
        return after_task(method.task, batch)
    batch = make_batch(8, dtype, size=4, views=method.takes["views"])
    if "local" in method.takes:
        local = make_batch(8, dtype, seed=1, size=3, views=method.takes["local"])
        batch["local"] = local["views"]
    return batch


class Made(NamedTuple):
    """A method and what its tests share: a step that is traced once for any devices."""

    method: Any
    optimizer: Any
    batch: Any
    start: Any  # NumPy
    step: Any


@functools.cache
def made(name, dtype="float64", devices=1):
    """`devices`: of a method whose trace knows them."""
    method, optimizer = METHODS[name](dtype), OPTIMIZERS[name]()
    batch = batch_for(method, dtype)
    step = jax.jit(make_train_step(method, optimizer), inline=True)
    return Made(method, optimizer, batch, numpy_state(method, optimizer, batch), step)


@functools.cache
def trained(name, devices=1, dtype="float64", steps=STEPS):
    method, _, batch, start, step = made(name, dtype, devices if "moco v" in name else 1)
    mesh = first_devices(devices)
    state = placed(start, devices, method.sharded)
    states, losses, batch = {0: named(state)}, [], put_batch(batch, mesh)
    step = compiled(jit_step(step, mesh, method.sharded), state, batch, jax.random.key(1))
    for i in range(steps):
        state, metrics = step(state, batch, jax.random.key(1))
        losses.append(float(metrics["train/loss"]))
        if i in (0, steps - 1):
            states[i + 1] = named(state)
    return Run(states, losses, state, method, step.cost_analysis()["flops"])


def a_turn(name):
    """Steps after which each part has been trained."""
    return STEPS if name == "several" else 1


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_falls(x64, name):
    """Fails if gradients have the wrong sign, or are not of this loss."""
    losses = trained(name).losses
    assert np.isfinite(losses).all()
    last = -2 if name == "several" else -3  # whose two tasks take turns
    assert np.mean(losses[last:]) < np.mean(losses[:2]) - 1e-3


# A batch norm right behind takes any constant off again: these biases then have no gradient.
BEFORE_A_NORM = ("params/projector/fc1/bias", "params/predictor/fc1/bias")


@pytest.mark.parametrize("name", METHODS)
def test_gradients_reach_every_parameter(x64, name):
    """Fails if a stop-gradient is too wide, or a part is left out of the optimizer."""
    before, after = (trained(name).states[i] for i in (0, a_turn(name)))
    params = [k for k in before if k.startswith("params/")]
    for k in params:
        moved = np.abs(after[k] - before[k]).max()
        if k in BEFORE_A_NORM and k.replace("fc1/bias", "bn1/scale") in before:
            assert moved < 1e-12, k
        else:
            assert moved > 1e-8, k


@pytest.mark.parametrize("name", METHODS)
def test_extra_gets_no_gradient(x64, name):
    """Fails if the optimizer moves a target or a queue, or a step moves what should stay."""
    run = trained(name)
    before, after = (run.states[i] for i in (0, a_turn(name)))
    assert set(run.method.moving) <= {k.split("/")[1] for k in before if k.startswith("extra/")}
    extra = {k for k in before if k.startswith("extra/")}
    assert {k for k in before if k.startswith(("opt_state/", "params/"))} | extra | {
        "step",
        "position",
    } == set(before)
    inside = {k.split("/")[1] for k in extra}
    assert not [k for k in before if k.startswith("opt_state/") and inside & set(k.split("/"))]
    for k in extra:
        if k.split("/")[1] not in run.method.moving:
            np.testing.assert_array_equal(after[k], before[k], err_msg=k)
        elif k.startswith("extra/target/params/"):
            online = after[k.replace("extra/target/", "")]
            tau = 1.0 if "fixed" in name else 0.9
            expected = tau * before[k] + (1 - tau) * online
            np.testing.assert_allclose(after[k], expected, rtol=1e-13, atol=1e-15, err_msg=k)
        else:
            assert (after[k] != before[k]).any(), k


def types(tree):
    """What a compilation depends on: shapes, dtypes and weak types."""
    return jax.tree.map(lambda x: (x.shape, x.dtype, jax.typeof(x).weak_type), tree)


@pytest.mark.parametrize("name", METHODS)
def test_the_state_keeps_its_types(x64, name):
    """Fails if a dtype, a shape or a weak type changes in a step: every call would compile."""
    before = placed(made(name).start)
    assert types(trained(name).state) == types(before)


@pytest.mark.parametrize("name", METHODS)
def test_float32_stays_float32_where_float64_is_enabled(x64, name):
    """Fails if a schedule's value, or a constant, drags a part of the state along to float64."""
    _, _, batch, before, step = made(name, "float32")
    after, _ = jax.eval_shape(step, before, batch, jax.random.key(0))
    dtypes = (jax.tree.map(lambda x: x.dtype, state) for state in (before, after))
    assert next(dtypes) == next(dtypes)


def test_one_compilation(x64, quick):
    """Fails if the second call compiles again."""
    method, optimizer, batch = METHODS["byol probed"]("float64"), OPTIMIZERS["byol"](), make_batch()
    mesh = first_devices(4)
    step = jit_step(make_train_step(method, optimizer), mesh)
    state = start_state(method, optimizer, batch, 4)
    for _ in range(3):
        state, _ = step(state, put_batch(batch, mesh), jax.random.key(1))
        assert step._cache_size() == 1


@pytest.mark.parametrize("name", METHODS)
def test_one_device_is_four_devices(x64, name):
    """Fails if statistics, negatives or means are taken per device."""
    one, four = trained(name, 1), trained(name, 4)
    for k, value in one.states[STEPS].items():
        np.testing.assert_allclose(four.states[STEPS][k], value, rtol=1e-9, atol=1e-9, err_msg=k)
    np.testing.assert_allclose(four.losses, one.losses, rtol=1e-9)


@pytest.mark.parametrize("name", METHODS)
def test_devices_share_the_work(x64, name):
    """Fails if a pass is done by every device for all rows: a gather of rows is not sharded."""
    most = 0.35 if name == "several" else 0.3  # it fills rows from others before they are cut
    assert trained(name, 4).flops < most * trained(name, 1).flops


# One of every kind of loss and network; each is a compilation.
IN_FLOAT32 = (
    "byol probed",
    "byol, groups",
    "siamese, SimCLR's form",
    "simclr v2 probed",
    "moco v2 probed",
    "simclr, semi-hard logistic",
    "supcon probed",
    "barlow",
    "vicreg",
    "swav",
    "dino probed",
    "npid",
    "mae probed",
    "jigsaw",
    "supervised",
    "supervised, frozen",
)


@pytest.mark.parametrize("name", IN_FLOAT32)
def test_a_float32_step_on_four_devices_is_the_float64_step_on_one(name, x64):
    """Fails if something is computed below float32, or differently when sharded."""
    exact = trained(name).states[1]
    jax.config.update("jax_enable_x64", False)
    four = trained(name, 4, "float32", 1).states[1]
    for k, value in exact.items():
        assert four[k].dtype == (np.int32 if value.dtype == np.int32 else np.float32), k
        np.testing.assert_allclose(four[k], value, rtol=1e-5, atol=1e-5, err_msg=k)


def test_the_states_survive_a_checkpoint_bitwise(x64, tmp_path):
    """Fails if an array of a state is not saved, or comes back in another dtype."""
    runs = {name: trained(name) for name in METHODS}
    first = runs["byol"].state
    # Those of all methods, in one checkpoint: each costs the time of a hundred arrays.
    parts = ({n: getattr(run.state, part) for n, run in runs.items()} for part in TREES)
    state = TrainState(first.step, first.position, *parts)
    saved = Checkpoints(tmp_path)
    saved.save(STEPS, state, {})
    saved.wait()
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    back = saved.restore(STEPS, like, replicated(first_devices(4)))
    saved.close()
    assert jax.tree.structure(back) == jax.tree.structure(state)
    for name, run in runs.items():
        found = {part: getattr(back, part)[name] for part in TREES}
        values = {k: v for k, v in run.states[STEPS].items() if k.split("/")[0] in TREES}
        assert named(found).keys() == values.keys()
        for k, value in named(found).items():
            assert value.dtype == values[k].dtype, (name, k)
            np.testing.assert_array_equal(value, values[k], err_msg=f"{name}: {k}")


@pytest.mark.parametrize("name", METHODS)
def test_the_online_encoder_is_found(x64, name):
    """Fails if a wrapper hides the encoder, or the target is evaluated in its place."""
    run = trained(name)
    params, stats = run.method.encoder(run.state.params, run.state.extra)
    frozen, flat = "frozen" in name, name.startswith(("supervised", "distill", "mae"))
    home = run.state.extra if frozen else run.state.params
    assert params is home["encoder"]
    assert stats is (run.state.extra["stats"] if flat else run.state.extra["stats"]["encoder"])
    images = make_batch(4, "float64")["views"][:, :1]
    found = run.method.features(run.state.params, run.state.extra, images)
    encoder = small_vit(image_size=8, depth=1).encoder if "mae" in name else mini_encoder()
    h = encoder.apply(params, stats, images, False)[0].pooled
    np.testing.assert_allclose(found["h"], h, rtol=1e-12)
    if "probed" in name:
        probe = run.state.params["probe"]
        logits = np.asarray(h) @ np.asarray(probe["kernel"]) + np.asarray(probe["bias"])
        np.testing.assert_allclose(found["probe"], logits, rtol=1e-10)


@pytest.mark.parametrize("name", METHODS)
def test_it_says_what_it_takes(x64, name):
    """Fails if a loss reads another number of views than its method says, or none at all."""
    method, _, batch, start, _ = made(name)
    params, extra = start.params, start.extra
    assert set(method.takes) - {"local"} == {"views"}
    count = method.takes["views"]
    assert np.isfinite(trained(name).losses[0])  # of so many
    args = (jax.random.key(0), jnp.int32(0))
    if count == 1 or method.task:  # a task makes what the method takes
        assert batch["views"].shape[1] == count
        return
    for other in (1, 3):
        changed = {**batch, "views": make_batch(8, views=other)["views"]}
        with pytest.raises(ValueError, match=rf"compares 2 views; got .* \(8, {other}, 8"):
            jax.eval_shape(method.loss, params, extra, changed, *args)
    if "local" in method.takes:
        with pytest.raises(KeyError, match="local"):
            jax.eval_shape(method.loss, params, extra, make_batch(8), *args)


def test_a_state_is_arrays_only(x64):
    """Fails if a number or a key slips into the state."""
    state = trained("byol probed").state
    assert [f.name for f in dataclasses.fields(state)] == [
        "step", "position", "params", "extra", "opt_state",
    ]  # fmt: skip
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(state))
    assert not any(
        jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) for x in jax.tree.leaves(state)
    )
