"""The train step by itself: time, images per second, share of the peak, memory, compilation."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import jax
from jax import Array
from jax.experimental.compilation_cache import compilation_cache

from byol_jax import mesh
from byol_jax.core import Step, TrainState
from byol_jax.experiment.build import Experiment, batch_shapes
from byol_jax.experiment.feed import build_feed, build_step
from byol_jax.hardware import find_device
from byol_jax.train_step import init_state, jit_step, make_train_step


def prepare(e: Experiment) -> tuple[TrainState, Step, dict[str, Any], Array, int]:
    """What a dispatch needs: (state, step, a batch on the devices, key, number of images in it)."""
    feed = build_feed(e)
    root, step_key = jax.random.split(jax.random.key(e.config.seed))
    state = init_state(e.method, e.optimizer, root, batch_shapes(e), e.mesh)
    batches, most = feed.batches(0), feed.steps_per_dispatch
    some = [next(batches) for _ in range(max(most, 1))]
    batch = mesh.put_steps(some, most, e.mesh) if most else mesh.put_batch(some[0], e.mesh)
    key = jax.device_put(step_key, mesh.replicated(e.mesh))
    return state, build_step(e, feed, feed.load()), batch, key, max(most, 1) * e.config.batch_size


class Runner:
    """One train step that can be called again and again."""

    def __init__(self, e: Experiment) -> None:
        self.state, self.step, self.batch, self.key, self.images = prepare(e)
        start = time.perf_counter()
        self()
        self.first_call = time.perf_counter() - start
        """Seconds of the first call: tracing, compiling (or reading the cache), one step."""

    def __call__(self) -> int:
        """Run one dispatch, wait for it, and return its number of images."""
        self.state, metrics = self.step(self.state, self.batch, self.key)
        jax.block_until_ready(metrics)
        return self.images


def run(e: Experiment, rounds: int) -> tuple[str, dict[str, Any]]:
    """Measure the step of a run on its own data, on all devices.

    Args:
      e: the run.
      rounds: repeats, each with as many dispatches as fit into a second.

    Returns:
      (text, figures).
    """
    runner = Runner(e)
    start = time.perf_counter()
    runner()
    calls = max(1, round(1.0 / (time.perf_counter() - start)))
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(calls):
            runner()
        seconds.append((time.perf_counter() - start) / calls)
    steps = runner.images / e.config.batch_size
    median = statistics.median(seconds) / steps
    rate = e.config.batch_size / median
    start_up = compilation(e, runner)
    cost = start_up.pop("flop")
    device = e.mesh.devices.flat[0]
    known = find_device(device.device_kind)
    peak = known.tflops if known else None
    memory = (device.memory_stats() or {}).get("peak_bytes_in_use")
    found = {
        "step_ms": 1e3 * median,
        "step_ms_low": 1e3 * min(seconds) / steps,
        "step_ms_high": 1e3 * max(seconds) / steps,
        "images_per_s": rate,
        "first_call_s": runner.first_call,
        **start_up,
        "gflop_per_image": cost / e.config.batch_size / 1e9,
        "tflop_per_s": cost / median / 1e12,
        "peak_share": cost / median / 1e12 / peak / e.mesh.devices.size if peak else None,
        "memory_gib": memory / 2**30 if memory else None,
        "steps_per_dispatch": steps,
    }
    c = e.config
    lines = [
        f"{c.method.name}, {c.encoder.name}, {c.image_size} px, {c.encoder.dtype}, batch "
        f"{c.batch_size}, views {c.views.placement}, data {c.data.placement}",
        f"step {found['step_ms']:.2f} ms ({found['step_ms_low']:.2f} to "
        f"{found['step_ms_high']:.2f}), {rate:,.0f} images/s, "
        f"{found['tflop_per_s']:.2f} TFLOP/s (as counted by XLA)",
        f"trace {start_up['trace_s']:.1f} s, compile {start_up['compile_s']:.1f} s, from the cache "
        f"{start_up['cached_s']:.1f} s ({start_up['cached_s'] / start_up['compile_s']:.2f})",
    ]
    if peak:
        lines.append(f"{100 * found['peak_share']:.1f}% of the peak of {device.device_kind}")
    if memory:
        lines.append(f"at most {found['memory_gib']:.2f} GiB per device")
    return "\n".join(lines), found


def compilation(e: Experiment, runner: Runner) -> dict[str, float]:
    """Seconds to start the step, without views: to trace, to compile, and to read from the cache.

    Returns:
      {"flop" of one step over all devices, as counted by XLA before fusion, "trace_s", "compile_s",
      "cached_s": the same compilation from the persistent cache}.
    """
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), runner.state)
    key = jax.ShapeDtypeStruct(runner.key.shape, runner.key.dtype)
    found = {}
    with tempfile.TemporaryDirectory() as folder, _cache(folder):
        for name in ("compile_s", "cached_s"):
            jax.clear_caches()
            # A new function each time, so that nothing is found in the in-memory cache.
            step = make_train_step(e.method, e.optimizer, accumulate=e.config.optimizer.accumulate)
            start = time.perf_counter()
            jitted: Any = jit_step(step, e.mesh, e.method.sharded)
            lowered = jitted.lower(shapes, batch_shapes(e), key)
            found["trace_s"] = time.perf_counter() - start
            start = time.perf_counter()
            lowered.compile()
            found[name] = time.perf_counter() - start
    # Without micro-batches, because XLA counts the body of a loop only once.
    whole = jax.jit(make_train_step(e.method, e.optimizer)).lower(shapes, batch_shapes(e), key)
    found["flop"] = float((whole.cost_analysis() or {}).get("flops", 0.0))
    return found


@contextlib.contextmanager
def _cache(folder: str) -> Iterator[None]:
    """Cache compiled programs in a separate folder."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: jax.config.values[name] for name in names}
    try:
        for name, value in zip(names, (folder, 0.0), strict=True):
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
