"""A recipe of two sizes, from the config to a step: every placement, preflight and benchmark."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import mesh as meshes
from byol_jax.bench import input as feeding
from byol_jax.config import default_config
from byol_jax.core import Aux, Method
from byol_jax.data.source import Source
from byol_jax.experiment import methods
from byol_jax.experiment.build import batch_shapes, build
from byol_jax.experiment.feed import build_feed, build_step
from byol_jax.preflight.lower import lower
from byol_jax.train_step import init_state

ROWS, LARGE, SMALL, COUNT = 8, 10, 6, 3
GROUPS = {"views": (ROWS, 2, LARGE, LARGE, 3), "local": (ROWS, COUNT, SMALL, SMALL, 3)}


def toy(config, parts, facts):
    """A method that takes both groups; its metrics are the means and squares that it was given."""
    del config, parts, facts

    def init(key, batch):
        assert {k: batch[k].shape for k in GROUPS} == GROUPS
        return {"w": jnp.ones((1, 1, 1, 1, 3))}, {}

    def loss(params, extra, batch, key, step):
        assert {k: batch[k].shape for k in GROUPS} == GROUPS
        means = {k: (batch[k] * params["w"]).mean() for k in GROUPS}
        metrics = {f"mean/{k}": v for k, v in means.items()}
        metrics |= {f"square/{k}": jnp.square(batch[k]).mean() for k in GROUPS}
        return sum(means.values()), Aux(extra, {"h": batch["views"].mean((2, 3))}, metrics)

    return Method(init, loss, None, None, {"views": 2, "local": COUNT})


@pytest.fixture(autouse=True)
def toy_method(monkeypatch):
    monkeypatch.setitem(methods.METHODS, "siamese", toy)
    two = meshes.make_mesh(jax.devices()[:2])
    monkeypatch.setattr(meshes, "make_mesh", lambda *_: two)


def config_of(views, data="stream"):
    c = default_config()
    c.batch_size, c.epochs, c.image_size = ROWS, 1, LARGE
    c.views.recipe, c.views.placement, c.data.placement = "multi_crop", views, data
    c.multi_crop.small, c.multi_crop.count = SMALL, COUNT
    c.data.steps_per_dispatch = 1
    # Crops alone: they compile in a tenth of the time.
    c.views.overrides.update(dict.fromkeys(("jitter", "grey", "blur", "solarize"), 0.0))
    c.method.name, c.method.probe, c.encoder.name = "siamese", False, "tiny"
    return c


def images(count=20):
    """Smooth noise in memory: all crops of an image have about its mean."""
    random = np.random.RandomState(0)
    colours = random.randint(60, 200, (count, 1, 1, 3))
    made = np.clip(colours + random.randint(-20, 20, (count, 12, 12, 3)), 0, 255).astype(np.uint8)
    return Source("noise", count, 3, images=made)


def first_step(e):
    """(the first batch of the host, the metrics of one step on it)."""
    feed = build_feed(e)
    init_key, key = jax.random.split(jax.random.key(0))
    state = init_state(e.method, e.optimizer, init_key, batch_shapes(e), e.mesh)
    batch, most = next(feed.batches(0)), feed.steps_per_dispatch
    assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
        k: (v.shape, v.dtype) for k, v in feed.shapes.items()
    }
    rows = meshes.put_steps([batch], most, e.mesh) if most else meshes.put_batch(batch, e.mesh)
    step = build_step(e, feed, feed.load())
    state, metrics = step(state, rows, jax.device_put(key, meshes.replicated(e.mesh)))
    assert int(state.step) == 1
    return batch, {k: float(np.ravel(v)[0]) for k, v in metrics.items()}


def test_one_step_in_every_placement(quick):
    """Fails if a group is lost on its way, has another's size, or depends on where views are made.

    (Let `batch_shapes` see the first group alone, or `_without_views` keep "local".)
    """
    batch, host = first_step(build(config_of("host"), images()))
    for group, shape in GROUPS.items():
        assert batch[group].shape == shape
        assert host[f"mean/{group}"] == pytest.approx(batch[group].mean(), abs=1e-5)
        assert host[f"square/{group}"] == pytest.approx(np.square(batch[group]).mean(), rel=1e-5)
    _, device = first_step(build(config_of("device"), images()))
    _, resident = first_step(build(config_of("device", "resident"), images()))
    assert resident == pytest.approx(device, abs=1e-5)
    assert device.keys() == host.keys()
    for group in GROUPS:  # other random numbers, of the same views
        assert device[f"mean/{group}"] == pytest.approx(host[f"mean/{group}"], abs=0.1)
        assert device[f"square/{group}"] == pytest.approx(host[f"square/{group}"], rel=0.1)
    assert device["square/local"] != pytest.approx(device["square/views"], abs=1e-4)


def encoded():
    """The same images as files would give them, of no common size: PNG in memory."""
    import tensorflow as tf

    source = images()
    data = tf.stack([tf.io.encode_png(image) for image in source.images])
    return Source("encoded", source.num_examples, 3, encoded=data)


def test_windows_of_two_sizes_cut_by_the_host():
    """Fails if the host cuts both groups at one size, or the device leaves one as it comes."""
    e = build(config_of("device"), encoded())
    feed = build_feed(e)
    batch = next(feed.batches(0))
    for group, shape in GROUPS.items():
        assert (batch[group].shape, batch[group].dtype) == (shape, np.uint8)
        assert (feed.shapes[group].shape, feed.shapes[group].dtype) == (shape, np.uint8)
    made = jax.eval_shape(feed.views, batch, jax.random.key(0))
    assert {k: (made[k].shape, made[k].dtype) for k in GROUPS} == {
        k: (shape, np.float32) for k, shape in GROUPS.items()
    }


@pytest.mark.parametrize("placement", ["host", "windows", "device", "resident"])
def test_preflight_lowers_the_same_step(placement):
    """Fails if preflight leaves a group of the batch out, or counts it with another's size."""
    views = "host" if placement == "host" else "device"
    config = config_of(views, "resident" if placement == "resident" else "stream")
    source = encoded() if placement == "windows" else images()
    found = lower(config, source, jax.devices()[:2])
    e = found.experiment
    feed = build_feed(e)
    batch, whole = next(feed.batches(0)), meshes.replicated(e.mesh)
    rows = (
        meshes.put_steps([batch], 1, e.mesh) if feed.constants else meshes.put_batch(batch, e.mesh)
    )
    nbytes = sum(x.nbytes for k, x in rows.items() if k != "count") / 2
    assert found.arguments["batch"] == nbytes
    key = jax.random.key(0)
    state = jax.eval_shape(lambda: init_state(e.method, e.optimizer, key, batch_shapes(e), e.mesh))
    step = build_step(e, feed, feed.load())
    expected = step.lower(state, rows, jax.device_put(key, whole)).as_text()
    assert found.step.as_text() == expected


def test_the_benchmark_of_the_input_knows_both_sizes(monkeypatch):
    """Fails if it feeds one group only, or its title does not name both."""
    monkeypatch.setattr(feeding, "cores", lambda: 1)
    monkeypatch.setattr(feeding, "_passes", lambda e: itertools.repeat({"index": [0]}))
    text, found = feeding.run(build(config_of("device"), images()), 1, 0.02)
    assert f"2 views of {LARGE} px and {COUNT} views of {SMALL} px, 1 of 1 cores" in text
    rates = found["by_cores"]["1"]
    assert set(rates) == {"views.placement=device", "views.placement=host", "evaluation"}
    assert all(r.median > 0 for r in rates.values())
