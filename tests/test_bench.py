"""The benchmarks run on real data, and say what they measured."""

import json
import subprocess
import sys
import time
import types
from pathlib import Path

import fork_server
import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from byol_jax import mesh
from byol_jax.bench import __main__ as command
from byol_jax.bench import end_to_end, step, views
from byol_jax.bench import input as feeding
from byol_jax.bench.measure import Rate, machine, plain, rates, table
from byol_jax.bench.noise import noise
from byol_jax.config import default_config
from byol_jax.experiment.build import build
from byol_jax.hardware import DEVICES, find_device
from byol_jax.writing import write_json

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    original = mesh.make_mesh
    monkeypatch.setattr(mesh, "make_mesh", lambda *_: original(jax.devices()[:1]))


def config_of(**data):
    c = default_config()
    c.batch_size, c.epochs, c.image_size = 4, 100, 8
    c.encoder.name, c.encoder.width, c.encoder.dtype = "tiny", 0.25, "float32"
    c.byol.hidden, c.byol.out = 12, 8
    c.data.update(data)
    return c


def test_rates_compare_within_a_round(monkeypatch):
    """Fails if the ratio is of medians over rounds, or pieces of work are miscounted."""
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(time, "process_time", lambda: clock[0] / 2)
    round_of = {"slow": 0, "fast": 0}

    def work(name, seconds, images):
        def run():
            # The machine gets slower from round to round.
            clock[0] += seconds * (1 + round_of[name] // 5)
            round_of[name] += 1
            return images

        return run

    found = rates({"slow": work("slow", 1.0, 10), "fast": work("fast", 1.0, 30)}, 3, 4.0, settle=1)
    assert found["slow"].ratio == 1
    assert found["fast"].ratio == pytest.approx(3)
    assert found["slow"].high == pytest.approx(10)
    assert found["slow"].low < found["slow"].median < found["slow"].high
    assert found["fast"].cpu == pytest.approx(2 * found["fast"].median)
    text = table("title", "images/s", found)
    assert "fast" in text
    assert "3.000" in text


def test_what_a_folder_can_feed(tmp_path):
    """Fails if a feed is left out, or counts views for images."""
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
        for i, pixels in enumerate(load_sample_images().images):
            Image.fromarray(pixels[: 200 + i]).save(tmp_path / part / f"{i}.jpg")
            Image.fromarray(pixels[:, :150]).save(tmp_path / part / f"{i}b.jpg")
    e = build(config_of(name="folder", dir=str(tmp_path)))
    text, found = feeding.run(e, 1, 0.05)
    names = {"raw decode", "views.placement=device", "views.placement=host", "evaluation"}
    assert set(found["by_cores"]["1"]) == names
    assert all(r.median > 0 for r in found["by_cores"]["1"].values())
    assert found["memory_mib"] > 0
    one = found["by_cores"]["1"]["views.placement=host"].median
    advice = feeding.advice(found, 8 * one, 2)
    assert "views.placement=host: needs 8.0 cores" in advice
    assert "NOT enough" in advice
    assert "raw decode" in text
    json.dumps(plain(found))


def test_step_views_and_the_whole_way(quick):
    """Fails if a figure is missing, zero, or of another batch than the config's."""
    config = config_of()
    # Crops and flips alone: they compile in a tenth of the time.
    config.views.overrides.update(dict.fromkeys(("jitter", "grey", "blur", "solarize"), 0.0))
    e = build(config, noise(40, 10))
    _, found = step.run(e, 2)
    assert found["images_per_s"] == pytest.approx(4e3 / found["step_ms"])
    assert found["step_ms_low"] <= found["step_ms"] <= found["step_ms_high"]
    assert found["first_call_s"] > found["step_ms"] / 1e3
    assert 0 < found["cached_s"] < found["compile_s"]
    assert found["trace_s"] > 0
    assert found["gflop_per_image"] > 0
    _, found = views.run(e, 1, 0.05)
    assert set(found["step"]) == {
        "step, views by the host", "step, views on the device", "step, resident data",
    }  # fmt: skip
    assert found["cost"] > 0
    text, found = end_to_end.run(e, 2, 2)
    assert found["low"] <= found["images_per_s"] <= found["high"]
    assert 0 <= found["wait_share"] <= 1
    assert "data stream" in text


def test_the_rate_to_be_fed_may_be_given(monkeypatch):
    """Fails if --target_rate is not read, or the step is measured all the same."""
    rate = Rate(100.0, 90.0, 110.0, 100.0, 1.0)
    found = {"by_cores": {"1": {"views.placement=host": rate}}}
    monkeypatch.setattr(feeding, "run", lambda *_: ("the table", found))
    measured = []
    monkeypatch.setattr(step, "run", lambda *_: measured.append(1) or ("", {"images_per_s": 500.0}))

    def asked(target_rate):
        f = types.SimpleNamespace(rounds=1, seconds=0.1, steps=1, target_rate=target_rate)
        monkeypatch.setattr(command, "flags", types.SimpleNamespace(FLAGS=f))
        return command._measure("input", None)

    text, results = asked(250.0)
    assert results["target_rate"] == 250.0
    assert "the step needs 250 images/s" in text
    assert "views.placement=host: needs 2.5 cores" in text
    assert not measured
    text, results = asked(0.0)
    assert results["target_rate"] == 500.0
    assert "views.placement=host: needs 5.0 cores" in text


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v2", "v2"),
        ("TPU v3", "v3"),
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("Tesla V100-SXM2-32GB", "v100"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA GeForce GTX 1080", None),
        ("TPU7x", None),
        ("cpu", None),
        ("", None),
    ],
)
def test_devices_by_the_kind_that_jax_reports(kind, name):
    """Fails if a v5e is taken for a v5p (its row stands first), or an unknown device for a known.

    An unknown one must be None: a share of another device's peak would be wrong in silence.
    """
    assert find_device(kind) == (name and DEVICES[name])


def test_noise_is_no_flat_image():
    """Fails if images to measure with are zeros, or alike."""
    source = noise(6, 30)
    assert source.images.shape == (6, 30, 30, 3)
    assert source.images.std((1, 2, 3)).min() > 20
    assert len({image.tobytes() for image in source.images}) == 6


def test_results_are_json(tmp_path):
    """Fails if a result cannot be read back, or the machine is not named."""
    found = rates({"a": lambda: time.sleep(0.001) or 1}, 1, 0.01)
    write_json(tmp_path / "out.json", {"machine": machine(), "rates": plain(found), "n": 1})
    back = json.loads((tmp_path / "out.json").read_text())
    assert back["rates"]["a"]["ratio"] == 1
    assert back["machine"]["jax"] == jax.__version__
    assert np.isfinite(back["rates"]["a"]["median"])
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speed", "--config", "configs/digits.py"], "expected one of input, views, step"),
        (["step"], "--config is missing"),
    ],
)
def test_wrong_command_lines(arguments, message):
    """Fails if a wrong word ends in a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "byol_jax.bench", *arguments],
        env=fork_server.environment(), cwd=ROOT, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
