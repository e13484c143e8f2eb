"""The benchmark that compiles the step for a TPU: here it compiles for CPU devices."""

import importlib.util

import jax
import numpy as np
import pytest

from benchmarks import tpu_step
from byol_jax import mesh
from byol_jax.build.experiment import batch_shapes, build
from byol_jax.build.feed import build_step
from byol_jax.config import default_config
from byol_jax.data.source import Source
from byol_jax.train_step import init_state


def digits():
    c = default_config()
    c.batch_size, c.image_size, c.data.name, c.views.recipe = 64, 8, "digits", "digits"
    c.encoder.name, c.encoder.width, c.encoder.dtype = "tiny", 0.25, "float32"
    c.method.hidden, c.method.out, c.optimizer.accumulate = 32, 8, 2
    return c


@pytest.mark.parametrize("placement", ["host", "device"])
def test_it_is_the_step_that_train_runs(placement):
    """Fails if the benchmark's batch or state is not what train puts on the devices."""
    config, images = digits(), 300
    config.views.placement = placement
    # As of files: images of many sizes, so that the host cuts the views.
    pictures = np.full(images, "no.png", object)
    e = build(config, Source("", images, 1, 10, paths=pictures), jax.devices()[:4])
    key = jax.device_put(jax.random.key(0), mesh.replicated(e.mesh))
    state = init_state(e.method, e.optimizer, key, batch_shapes(e), e.mesh)
    batch = {k: np.zeros(v.shape, v.dtype) for k, v in batch_shapes(e).items()}
    if placement == "device":
        batch["views"] = batch["views"].astype(np.uint8)
    expected = build_step(e, {}).lower(state, mesh.put_batch(batch, e.mesh), key).as_text()
    lowered = tpu_step.lower(config, jax.devices()[:4], 1, 10, images)
    assert lowered.as_text() == expected
    assert ("ui8>" in expected) == (placement == "device")


def test_what_it_reads_from_the_compiled_step():
    """Fails if the state is not donated, or collectives are not found."""
    lowered = tpu_step.lower(digits(), jax.devices()[:4], 1, 10, 1000)
    figures, text = tpu_step.model(lowered)
    assert figures["bytes_accessed_gb"] > 0
    memory = figures["memory_gib"]
    assert memory["alias"] == pytest.approx(memory["output"], rel=0.05)
    found = figures["collectives"]["all-reduce"]
    assert found["count"] == text.count(" all-reduce(") + text.count(" all-reduce-start(") > 0


def test_bytes_and_collectives_of_hlo_text():
    """Fails if a dtype is taken for another, or the result of a `-done` is counted again."""
    assert tpu_step.shape_bytes("(f32[2,3]{1,0:T(8,128)}, bf16[5]{0}, pred[4], s32[])") == 42
    text = """
  %ar.1 = (f32[8]{0}, bf16[4]{0}) all-reduce(f32[8]{0} %a, bf16[4]{0} %b), channel_id=1
  %s = bf16[16]{0} all-gather-start(bf16[8]{0} %c), dimensions={0}
  ROOT %d = bf16[16]{0} all-gather-done(bf16[16]{0} %s)
"""
    assert tpu_step.collectives(text) == {
        "all-reduce": {"count": 1, "mb": 40e-6},
        "all-gather": {"count": 1, "mb": 32e-6},
    }


def test_without_libtpu_it_says_what_to_install(monkeypatch):
    """Fails if the error is a traceback of jax."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="preflight"):
        tpu_step.describe_topology("v3:16x16")
