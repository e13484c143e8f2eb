"""Preflight: the step that train runs, compiled here for CPU devices and, by libtpu, for TPUs."""

import importlib.util
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from byol_jax import mesh
from byol_jax.config import default_config
from byol_jax.data.source import Source
from byol_jax.experiment.build import batch_shapes, build
from byol_jax.experiment.feed import build_feed, build_step
from byol_jax.preflight import hlo, model, topology
from byol_jax.preflight.__main__ import with_value
from byol_jax.preflight.lower import lower, no_data
from byol_jax.train_step import init_state

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason='libtpu is missing: `pip install ".[dev]"`'
)


def digits():
    c = default_config()
    c.batch_size, c.image_size, c.data.name, c.views.recipe = 64, 8, "digits", "digits"
    c.encoder.name, c.encoder.width, c.encoder.dtype = "tiny", 0.25, "float32"
    c.byol.hidden, c.byol.out = 32, 8
    c.optimizer.name, c.optimizer.lr, c.optimizer.weight_decay = "lars", 0.3, 1e-6
    return c


PLACEMENTS = ("host", "windows", "images", "resident")


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_it_is_the_step_that_train_runs(placement):
    """Fails if the batch or the state are not what train puts on the devices."""
    config, count = digits(), 300
    config.optimizer.accumulate = 2
    config.views.placement = "host" if placement == "host" else "device"
    # As of files: images of many sizes, so that the host cuts the views.
    blank = Source("", count, 1, 10, paths=np.full(count, "no.png", object))
    source = blank
    if placement in ("images", "resident"):
        real = np.zeros((count, 8, 8, 1), np.uint8)
        source = Source("", count, 1, 10, images=real, labels=np.zeros(count, np.int32))
    if placement == "images":
        blank = source
    if placement == "resident":
        config.data.placement, config.data.steps_per_dispatch = "resident", 1
    e = build(config, source, jax.devices()[:4])
    key = jax.device_put(jax.random.key(0), mesh.replicated(e.mesh))
    state = init_state(e.method, e.optimizer, key, batch_shapes(e), e.mesh)
    # What the host hands over, written out: not asked of the feed.
    batch = {
        "index": np.zeros(64, np.int32),
        "label": np.zeros(64, np.int32),
        "mask": np.zeros(64, np.float32),
    }
    if placement in ("host", "windows"):
        dtype = np.float32 if placement == "host" else np.uint8
        batch["views"] = np.zeros((64, 2, 8, 8, 1), dtype)
    elif placement == "images":
        batch["image"] = np.zeros((64, 8, 8, 1), np.uint8)
    if placement == "resident":
        batch["row"] = batch["index"]
        rows = mesh.put_steps([batch], 1, e.mesh)
    else:
        rows = mesh.put_batch(batch, e.mesh)
    feed = build_feed(e)
    expected = build_step(e, feed, feed.load()).lower(state, rows, key).as_text()
    found = lower(config, blank, jax.devices()[:4])
    assert found.step.as_text() == expected
    assert ("ui8>" in expected) == (placement != "host")
    nbytes = sum(x.nbytes for x in jax.tree.leaves(state))
    counters = state.step.nbytes + state.position.nbytes
    assert sum(found.arguments[k] for k in KINDS) == nbytes - counters
    assert found.state == nbytes
    assert found.arguments["batch"] == sum(x.nbytes for x in batch.values()) / 4
    assert found.arguments["resident images"] == (count * 64 if placement == "resident" else 0)


KINDS = ("parameters", "stats", "target", "optimizer")


def test_arguments_are_told_by_the_methods_own_names():
    """Fails if something of a method's extra is left out, or stands under another name."""
    byol = digits()
    devices = jax.devices()[:4]
    lowered = lower(byol, no_data(byol, 0, -1), devices)
    assert tuple(lowered.arguments) == (*KINDS, "batch", "resident images")
    state = jax.eval_shape(
        lambda k: init_state(
            lowered.experiment.method,
            lowered.experiment.optimizer,
            k,
            batch_shapes(lowered.experiment),
            lowered.experiment.mesh,
        ),
        jax.random.key(0),
    )
    for kind, tree in {"parameters": state.params, "target": state.extra["target"]}.items():
        assert lowered.arguments[kind] == sum(x.size * 4 for x in jax.tree.leaves(tree))
    simclr = digits()
    simclr.method.name = "simclr"
    simclr.simclr.hidden, simclr.simclr.out = 32, 8
    simclr.byol.hidden, simclr.byol.out = 4096, 256
    found = lower(simclr, no_data(simclr, 0, -1), devices).arguments
    assert tuple(found) == ("parameters", "stats", "optimizer", "batch", "resident images")


def compiled_for(name):
    """The figures of `digits` with views on the device, for a topology."""
    config = digits()
    config.views.placement = "device"
    where = topology.find(name)
    lowered = lower(config, no_data(config, 0, -1), where.devices)
    compiled = model.compile_step(lowered.step)
    return model.figures(lowered, where, compiled), compiled


def test_collectives_on_cpus():
    """Fails if a step sends more messages or bytes than it did: BN statistics of both networks once
    each way, gradients, and the sums that metrics take. Or if the state is not donated.
    """
    figures, compiled = compiled_for("cpu:4")
    found = {k: (v["count"], round(1e6 * v["mb"])) for k, v in figures["collectives"].items()}
    assert found == {"all-reduce": (26, 89704)}
    assert figures["fits"]
    assert figures["gb_moved"] > 0
    assert figures["modelled_ms"] is None
    assert compiled.memory["alias"] == pytest.approx(compiled.memory["output"], rel=0.05)
    assert abs(figures["memory_gib"]["padding of arguments"]) < 1e-5


@needs_libtpu
def test_collectives_on_a_tpu():
    """Fails if a step sends more messages or bytes than it did. 17 is the least there can be: 8
    norms in a row forward, 8 backward, and one message of all gradients. Or if the compiler's
    times are not found.
    """
    figures, _ = compiled_for("v2:2x2")
    found = {k: (v["count"], round(1e6 * v["mb"])) for k, v in figures["collectives"].items()}
    assert found == {"all-reduce": (17, 89692)}
    assert (figures["devices"], figures["hosts"], figures["fits"]) == (8, 1, True)
    assert all(figures["ms"][k] > 0 for k in ("compiler", "schedule", "roofline", "network"))


@needs_libtpu
def test_a_tpu_without_enough_memory():
    """Fails if the compiler's words for too little memory are not understood."""
    where = SingleDeviceSharding(topology.find("v2:2x2").devices[0])
    x = jax.ShapeDtypeStruct((2**21, 1024), jnp.float32, sharding=where)
    found = model.compile_step(jax.jit(lambda x: (x[::-1] * 2).sum(0)).lower(x))
    needed, available = hlo.out_of_memory(found.error)
    assert needed >= 8
    assert available == 7.48


@needs_libtpu
def test_a_slice_that_cannot_be():
    """Fails if libtpu's refusal is a traceback, or names nothing near."""
    with pytest.raises(ValueError, match=r"v5e:3x3.*nearest are .*v5e:"):
        topology.find("v5e:3x3")


def test_the_command(tmp_path):
    """Fails if a key of the JSON file is missing, or several topologies are not compared."""
    file = tmp_path / "found.json"
    command = [sys.executable, "-m", "byol_jax.preflight", "--config", "configs/digits.py"]
    command += ["--topology", "cpu:2,gpu:2", "--json", str(file), "--config.encoder.width=0.25"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert [f["topology"] for f in found] == ["cpu:2", "gpu:2"]
    keys = "topology devices fits hbm_gib tflop gb_moved modelled_ms collectives hours modelled"
    for f in found:
        assert set(keys.split()) <= f.keys()
        assert f["devices"] == 2
        assert f["fits"] is True
    assert found[0]["modelled_ms"] is None
    assert found[1]["modelled_ms"] > 0
    assert "CPU devices" in found[1]["stand_in"]
    assert found[1]["steps"] == 60 * (1297 // 128)
    assert "STAND-IN" in done.stdout
    assert done.stdout.count("gpu:2") == 2


def test_topology_without_a_value_lists():
    """Fails if the list needs a config, or another flag is taken for the value."""
    assert with_value(["x", "--topology", "--debug"]) == ["x", "--topology=", "--debug"]
    assert with_value(["x", "--topology", "v3:2x2"]) == ["x", "--topology", "v3:2x2"]
    text = topology.listing()
    for name in ("v2:2x2=8", "v3:16x16=512", "v4:4x4x8=128", "v5e:16x16=256", "v6e:4x4=16"):
        assert name in text


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v3:17y", "KIND:SHAPE.*nearest are v3:"),
        ("v9:2x2", "kinds are v2, v3"),
        ("cpu:2x2", "cpu takes a number, at least 1"),
        ("gpu:0", "gpu takes a number, at least 1"),
        ("", "KIND:SHAPE"),
    ],
)
def test_unknown_topologies(name, said):
    """Fails if a wrong name is a traceback, or the message names no right one."""
    with pytest.raises(ValueError, match=said):
        topology.parse(name)


def test_without_libtpu_it_says_what_to_install(monkeypatch):
    """Fails if the error is a traceback of jax."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install .byol_jax\[preflight\]"):
        topology.find("v3:16x16")


def test_more_devices_than_there_are():
    """Fails if fewer devices are taken in silence."""
    with pytest.raises(ValueError, match="needs 64 virtual CPU devices"):
        topology.find("cpu:64")
    assert topology.virtual_devices(["v3:2x2", "cpu:4", "gpu:16"]) == 16


def test_no_data_is_opened():
    """Fails if the size of a data set is guessed, or a known one must be given."""
    c = default_config()
    known = no_data(c, 0, -1)
    assert known.images is None
    assert (known.num_examples, known.channels, known.classes) == (1281167, 3, 1000)
    assert no_data(digits(), 0, -1).images.shape == (1297, 8, 8, 1)
    c.data.name = "cifar10:3.0.2"
    cifar = no_data(c, 0, -1)
    assert (cifar.images.shape, cifar.classes) == ((50_000, 32, 32, 3), 10)
    assert cifar.images.base.nbytes <= 8
    c.data.name, c.data.dir = "folder", "/nowhere"
    with pytest.raises(ValueError, match=r"data\.train_examples=100000"):
        no_data(c, 0, -1)
    c.data.train_examples = 5000
    given = no_data(c, 1, 7)
    assert (given.num_examples, given.channels, given.classes) == (5000, 1, 7)
