"""The train step of a config on a TPU that is not there: compiled ahead of time, and modelled.

    JAX_PLATFORMS=cpu python -m benchmarks.tpu_step --config configs/byol_imagenet_r50.py:300

Builds the very step that `byol_jax.train` would run, without opening data, and compiles it for a
topology by libtpu (`pip install "byol_jax[preflight]"`; one or two minutes). Every figure is the
compiler's model of one core, not a measurement: bytes count padded layouts; the optimal time knows
memory and arithmetic, but no network; estimated cycles are the scheduler's, and always more.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.sharding import Sharding
from ml_collections import ConfigDict, config_flags

from byol_jax import cli, mesh
from byol_jax.build import experiment, feed
from byol_jax.data.source import Source
from byol_jax.train_step import init_state

BYTES = {"pred": 1, "bf16": 2, "f16": 2, "f64": 8, "c64": 8}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


def shape_bytes(text: str) -> int:
    """Bytes of all array shapes in a piece of HLO text, without the padding of their layouts."""
    total = 0
    for kind, dims in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", text):
        digits = re.sub(r"\D", "", kind)
        size = BYTES.get(kind, int(digits) // 8 if digits else 0)
        total += size * int(np.prod([int(d) for d in dims.split(",") if d], initial=1))
    return total


def describe_topology(name: str) -> Any:
    """The devices of a TPU topology.

    Raises:
      ValueError: libtpu is not installed, or does not know the name.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError('libtpu is not installed; run `pip install "byol_jax[preflight]"`.')
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name)
    except Exception as e:
        raise ValueError(f"--topology {name}: {e}") from e


def lower(
    config: ConfigDict, devices: Sequence[Any], channels: int, classes: int, examples: int
) -> Any:
    """The step that `byol_jax.train` would run on these devices, traced; no data are opened.

    Where the device makes the views, of images of many sizes: the host hands over uint8 crops.
    """
    if config.data.placement != "stream":
        raise ValueError("Resident data cannot be modelled; set --config.data.placement=stream.")
    source = Source("no data", examples, channels, classes, paths=np.empty(0, object))
    e = experiment.build(config, source, devices)
    rows, whole = mesh.rows(e.mesh), mesh.replicated(e.mesh)
    shapes = experiment.batch_shapes(e)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(lambda k: init_state(e.method, e.optimizer, k, shapes, e.mesh), key)

    def place(x: Any, sharding: Sharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    batch = {k: place(v, rows) for k, v in shapes.items()}
    if config.views.placement == "device":
        batch["views"] = batch["views"].update(dtype=jnp.uint8)
    step: Any = feed.build_step(e, {})
    state = jax.tree.map(place, state, mesh.divided(state, e.mesh))
    return step.lower(state, batch, place(key, whole))


def collectives(text: str) -> dict[str, dict[str, float]]:
    """Count and bytes of results of every kind of collective in an HLO module."""
    found: dict[str, dict[str, float]] = {}
    for line in text.splitlines():
        match = re.match(r"\s*(?:ROOT )?%?[\w.-]+ = (.*?) ([a-z-]+)\(", line)
        if match and match[2].removesuffix("-start") in COLLECTIVES:
            entry = found.setdefault(match[2].removesuffix("-start"), {"count": 0, "mb": 0.0})
            entry["count"] += 1
            entry["mb"] += shape_bytes(match[1]) / 1e6
    return found


def model(lowered: Any) -> tuple[dict[str, Any], str]:
    """Compile, and read the compiler's model of one core: the figures and the HLO text."""
    start = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - start
    cost, memory, text = compiled.cost_analysis(), compiled.memory_analysis(), compiled.as_text()
    # For some topologies the compiler gives a negative time, which means none.
    optimal = cost.get("optimal_seconds", -1.0)
    kinds = ("argument", "output", "temp", "alias")
    cycles = sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', text)))
    figures = {
        "bytes_accessed_gb": cost["bytes accessed"] / 1e9,
        "optimal_ms": optimal * 1e3 if optimal >= 0 else None,
        "tflop": cost.get("flops", float("nan")) / 1e12,
        "estimated_mcycles": cycles / 1e6,
        "memory_gib": {k: getattr(memory, f"{k}_size_in_bytes") / 2**30 for k in kinds},
        "collectives": collectives(text),
        "compile_s": seconds,
    }
    return figures, text


def report(figures: dict[str, Any]) -> str:
    """The figures as a table."""
    optimal = figures["optimal_ms"]
    rows = [
        ("bytes accessed a core", f"{figures['bytes_accessed_gb']:.3f} GB"),
        ("optimal time", "not given" if optimal is None else f"{optimal:.2f} ms"),
        ("estimated cycles", f"{figures['estimated_mcycles']:.2f} M"),
        ("arithmetic a core", f"{figures['tflop']:.3f} TFLOP"),
    ]
    rows += [(f"memory, {k}", f"{v:.3f} GiB") for k, v in figures["memory_gib"].items()]
    rows += [
        (f"{k}, {v['count']:.0f} instructions", f"{v['mb']:.1f} MB")
        for k, v in figures["collectives"].items()
    ]
    rows += [("trace, here", f"{figures['trace_s']:.1f} s")]
    rows += [("compile, here", f"{figures['compile_s']:.1f} s")]
    title = f"{figures['step']} on {figures['topology']} ({figures['cores']} cores), MODELLED"
    return "\n".join([title, *(f"  {name:<36}{value:>14}" for name, value in rows)])


def main() -> int:
    """The command line."""
    f = flags.FLAGS
    if f.config is None:
        raise ValueError("--config is missing; give one, e.g. configs/byol_imagenet_r50.py:300.")
    devices = describe_topology(f.topology).devices
    start = time.perf_counter()
    lowered = lower(f.config, devices, f.channels, f.classes, f.train_examples)
    traced = time.perf_counter() - start
    figures, text = model(lowered)
    figures |= {
        "modelled": True,
        "step": f"{f.config.method.name}, {f.config.encoder.name}, batch {f.config.batch_size}, "
        f"views {f.config.views.placement}",
        "topology": f.topology,
        "cores": len(devices),
        "trace_s": traced,
    }
    print(report(figures))
    if f.json:
        Path(f.json).write_text(json.dumps(figures, indent=2) + "\n")
    if f.hlo:
        Path(f.hlo).write_text(text)
    return 0


if __name__ == "__main__":
    # Without this, libtpu would look for a TPU of this machine, and wait for another process's.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    config_flags.DEFINE_config_file("config", None, "config file[:argument]")
    flags.DEFINE_string("topology", "v3:16x16", "TPU topology, e.g. v3:16x16, v4:4x4x8, v5e:8x16")
    flags.DEFINE_integer("channels", 3, "image channels of the data")
    flags.DEFINE_integer("classes", 1000, "classes of the data, for the probe")
    flags.DEFINE_integer("train_examples", 1281167, "images of the data, for the schedules")
    flags.DEFINE_string("json", "", "file for the figures")
    flags.DEFINE_string("hlo", "", "file for the compiled module's text")
    flags.DEFINE_bool("debug", False, "show tracebacks and the libraries' logs")
    cli.run(main)
