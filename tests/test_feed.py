"""Where images become views: every placement trains on the same data, to the same numbers."""

import dataclasses
import json
import subprocess
import sys
from itertools import islice
from pathlib import Path

import few_digits
import fork_server
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import first_devices, mini_encoder, named, start_state

from byol_jax import mesh as meshes
from byol_jax.config import default_config
from byol_jax.core import Aux
from byol_jax.experiment.build import batch_shapes, build_options
from byol_jax.experiment.build import build as build_experiment
from byol_jax.experiment.feed import build_feed, build_step, view_renderer
from byol_jax.experiment.methods import Parts, build_method
from byol_jax.loop import Hooks, Options, Program, fit
from byol_jax.train_step import make_train_step

ROOT = Path(__file__).parents[1]
STEPS = 20


@pytest.fixture(autouse=True)
def two_devices(monkeypatch):
    two = first_devices(2)
    monkeypatch.setattr(meshes, "make_mesh", lambda *_: two)


def photos(path, n=70, side=10):
    """A .npz of coloured noise, of which some is held out as the test part."""
    random = np.random.RandomState(0)
    images = random.randint(0, 256, (n, side, side, 3)).astype(np.uint8)
    np.savez(path, images=images, labels=np.arange(n) % 3)
    return str(path)


def config_of(tmp_path, dtype="float64", **more):
    c = default_config()
    c.batch_size, c.epochs, c.image_size = 8, 20, 8
    c.data.name, c.data.dir = "npz", photos(tmp_path / "photos.npz")
    c.views.placement = "device"
    c.encoder.name, c.encoder.width, c.encoder.dtype = "tiny", 0.25, dtype
    c.byol.hidden, c.byol.out = 12, 8
    c.optimizer.name, c.optimizer.lr, c.optimizer.weight_decay = "lars", 0.3, 1e-6
    c.optimizer.warmup_epochs = 1.0
    for key, value in more.items():
        group, name = key.split("__")
        c[group][name] = value
    return c


def build(config):
    """The experiment with an encoder that compiles in a second."""
    e = build_experiment(config)
    encoder = mini_encoder(config.encoder.dtype)
    encoder = encoder._replace(config={**encoder.config, "dtype": config.encoder.dtype})
    return e._replace(method=build_method(e.config, Parts(encoder, lambda module: module), e.facts))


def trained(e, *ends):
    """State and rows of metrics after fits that go on to each of `ends`."""
    feed, rows = build_feed(e), {}
    state = start_state(e.method, e.optimizer, batch_shapes(e), 2)
    step = build_step(e, feed, feed.load())
    root_key = jax.device_put(jax.random.key(1), meshes.replicated(e.mesh))
    most = feed.steps_per_dispatch
    for end in ends:
        state = fit(
            state,
            Program(step, feed.batches(int(state.position)), root_key, e.mesh),
            Options(end, 8, log_every=0, steps_per_dispatch=most, quiet=True),
            Hooks(write=lambda step, row: rows.update({step: row})),
        )
    return named(state), rows


def test_resident_is_streaming(tmp_path, x64):
    """Fails if order, crops, colours or keys depend on where the images lie: 20 steps, float64."""
    stream, _ = trained(build(config_of(tmp_path)), STEPS)
    one, _ = trained(build(config_of(tmp_path, data__placement="resident")), STEPS)
    five = build(config_of(tmp_path, data__placement="resident", data__steps_per_dispatch=5))
    many, _ = trained(five, STEPS)
    assert stream["position"] == 8 * STEPS
    for k, value in stream.items():
        np.testing.assert_allclose(one[k], value, rtol=1e-9, atol=1e-9, err_msg=k)
        np.testing.assert_allclose(many[k], value, rtol=1e-9, atol=1e-9, err_msg=k)


def test_dispatches_of_any_length_are_bitwise_equal(tmp_path):
    """Fails if a program is compiled for a length, or a chunk's end leaks into the numbers."""
    more = {"data__placement": "resident", "data__steps_per_dispatch": 6}
    e = build(config_of(tmp_path, "float32", **more))
    whole, rows = trained(e, 9)
    cut, _ = trained(e, 1, 2, 4, 9)
    for k, value in whole.items():
        np.testing.assert_array_equal(cut[k], value, err_msg=k)
    assert rows[9]["time/steps_per_dispatch"] == 6


@pytest.mark.parametrize("placement", ["stream", "resident"])
def test_the_picture_shows_the_views_of_the_first_step(tmp_path, placement):
    """Fails if views.png draws with another key, or from other images."""
    e = build(config_of(tmp_path, "float32", data__placement=placement))
    feed, key = build_feed(e), jax.random.key(4)
    constants = feed.load()
    batch = next(feed.batches(0))
    shown = view_renderer(feed, constants, key, 5)(batch)
    assert shown.shape == (5, 2, 8, 8, 3)

    def loss(params, extra, batch, key, step):
        value = jnp.sum(params["predictor"]["fc1"]["bias"])
        views = batch["views"]
        return value, Aux(extra, {"h": views.mean((2, 3))}, {"train/loss": value, "views": views})

    step = make_train_step(e.method._replace(loss=loss), e.optimizer, feed.views)
    state = start_state(e.method, e.optimizer, batch_shapes(e))
    _, metrics = jax.jit(step)(state, {**batch, **constants}, key)
    np.testing.assert_allclose(metrics["views"][:5], shown, rtol=0, atol=1e-5)


def test_resident_data_that_do_not_fit_are_refused(tmp_path, monkeypatch):
    """Fails if the run ends in an out-of-memory error instead, or names no sizes."""
    monkeypatch.setattr(meshes, "free_memory", lambda mesh: (20_000, "a TPU v3"))
    with pytest.raises(ValueError, match=r"images of .*10, 10, 3.* GiB .* free on a TPU v3; set"):
        build(config_of(tmp_path, data__placement="resident"))
    build(config_of(tmp_path, data__placement="stream"))


def test_resident_data_need_views_on_the_device(tmp_path):
    """Fails if the combination is taken and does something else."""
    with pytest.raises(ValueError, match=r"set views\.placement to device"):
        build(config_of(tmp_path, data__placement="resident", views__placement="host"))
    with pytest.raises(
        ValueError, match=r"views\.placement is 'gpu'; expected one of host, device\."
    ):
        build(config_of(tmp_path, views__placement="gpu"))


def test_many_steps_a_dispatch_only_where_that_is_faster(tmp_path):
    """Fails if CPUs get a loop by themselves, or streams get one at all."""
    assert build_feed(build(config_of(tmp_path))).steps_per_dispatch == 0
    e = build(config_of(tmp_path, data__placement="resident"))
    feed = build_feed(e)
    assert feed.steps_per_dispatch == 1
    assert build_options(e, feed.steps_per_dispatch).steps_per_dispatch == 1


def test_damaged_images_are_substituted_in_every_placement(tmp_path):
    """Fails if a resident row of mask 0 shows the image that did not decode."""
    e = build(config_of(tmp_path, "float32", data__placement="resident"))
    intact = np.ones(e.source.num_examples, bool)
    intact[::5] = False
    e = e._replace(source=dataclasses.replace(e.source, intact=intact))
    streamed = e._replace(config=config_of(tmp_path, "float32"))
    pairs = zip(islice(build_feed(e).batches(0), 8), build_feed(streamed).batches(0), strict=False)
    for resident, stream in pairs:
        for key in ("index", "label", "mask"):
            np.testing.assert_array_equal(resident[key], stream[key])
        np.testing.assert_array_equal(e.source.images[resident["row"]], stream["image"])
        assert intact[resident["row"]].all()
        np.testing.assert_array_equal(resident["mask"] > 0, intact[resident["index"]])


WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = sys.modules["tensorflow_datasets"] = None
sys.argv = ["train", "--config", "configs/digits.py", "--workdir", sys.argv[1],
            "--config.epochs=1", "--config.encoder.width=0.25", "--config.views.placement=device",
            "--config.data.placement=resident", *sys.argv[2:]]
import runpy
runpy.run_module("byol_jax.train", run_name="__main__")
"""


def test_resident_training_without_tensorflow(tmp_path):
    """Fails if TensorFlow is imported from the config to the last checkpoint."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW, str(tmp_path / "run"), *few_digits.flags()],
        env=fork_server.environment(), cwd=ROOT, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert "knn/test_top1" in json.loads(rows[-1])
    assert (tmp_path / "run" / "checkpoints" / "10").is_dir()
    assert (tmp_path / "run" / "views.png").is_file()
