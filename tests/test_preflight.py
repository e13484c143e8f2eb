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
from byol_jax.build.experiment import batch_shapes, build
from byol_jax.build.feed import build_step, resident
from byol_jax.config import default_config
from byol_jax.data.source import Source
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
    c.method.hidden, c.method.out = 32, 8
    return c


@pytest.mark.parametrize("placement", ["host", "device", "resident"])
def test_it_is_the_step_that_train_runs(placement):
    """Fails if the batch or the state are not what train puts on the devices."""
    config, images = digits(), 300
    config.optimizer.accumulate = 2
    config.views.placement = "host" if placement == "host" else "device"
    # As of files: images of many sizes, so that the host cuts the views.
    source = Source("", images, 1, 10, paths=np.full(images, "no.png", object))
    blank = source
    if placement == "resident":
        config.data.placement, config.data.steps_per_dispatch = "resident", 1
        real = np.zeros((images, 8, 8, 1), np.uint8)
        source = Source("", images, 1, 10, images=real, labels=np.zeros(images, np.int32))
    e = build(config, source, jax.devices()[:4])
    key = jax.device_put(jax.random.key(0), mesh.replicated(e.mesh))
    state = init_state(e.method, e.optimizer, key, batch_shapes(e), e.mesh)
    batch = {k: np.zeros(v.shape, v.dtype) for k, v in batch_shapes(e).items()}
    if placement == "device":
        batch["views"] = batch["views"].astype(np.uint8)
    if placement == "resident":
        del batch["views"]
        batch["row"] = batch["index"]
        rows = mesh.put_steps([batch], 1, e.mesh)
    else:
        rows = mesh.put_batch(batch, e.mesh)
    expected = build_step(e, resident(e)).lower(state, rows, key).as_text()
    found = lower(config, blank, jax.devices()[:4])
    assert found.step.as_text() == expected
    assert ("ui8>" in expected) == (placement != "host")
    kinds = ("parameters", "target", "optimizer", "statistics and counters")
    nbytes = sum(x.nbytes for x in jax.tree.leaves(state))
    assert sum(found.arguments[k] for k in kinds) == nbytes
    assert found.arguments["resident images"] == (images * 64 if placement == "resident" else 0)


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
        ("cpu:2x2", "counted"),
        ("gpu:0", "counted"),
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
    assert (known.num_examples, known.channels, known.classes) == (1281167, 3, 1000)
    assert no_data(digits(), 0, -1).images.shape == (1297, 8, 8, 1)
    c.data.name, c.data.dir = "folder", "/nowhere"
    with pytest.raises(ValueError, match=r"data\.train_examples=100000"):
        no_data(c, 0, -1)
    c.data.train_examples = 5000
    given = no_data(c, 1, 7)
    assert (given.num_examples, given.channels, given.classes) == (5000, 1, 7)
