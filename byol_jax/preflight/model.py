"""Compile a traced step, and model one of its devices: memory, traffic, time.

Four times, none of them measured, in ms per step:

- compiler: XLA's own optimal time for all instructions except collectives. For some programs it is
  negative by whole seconds, or below the time of the arithmetic; it is then left out.
- schedule: the cycles that XLA's scheduler estimates for all instructions except collectives,
  divided by the clock. Not available for v6e, GPUs and CPUs.
- roofline: the longer of arithmetic at peak and bytes at memory bandwidth.
- network: all collectives by `network.seconds`, one after another.

`modelled_ms` is network plus the first available of schedule, compiler and roofline:
docs/scaling.md shows how far they are from measurements, and why they are in this order.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from jax.errors import JaxRuntimeError

from byol_jax import mesh
from byol_jax.experiment.build import Experiment
from byol_jax.preflight import hlo, network
from byol_jax.preflight.hardware import Topology
from byol_jax.preflight.lower import Lowered


class Compiled(NamedTuple):
    """What is read from a compiled step; `error` is the compiler's if it does not fit."""

    memory: dict[str, float]
    cost: dict[str, float]
    text: str
    seconds: float
    error: str = ""


def compile_step(lowered: Any) -> Compiled:
    """Compile a traced step for its topology.

    Raises:
      JaxRuntimeError: for anything but too little memory.
    """
    start = time.perf_counter()
    try:
        compiled = lowered.compile()
    except JaxRuntimeError as e:
        if hlo.out_of_memory(str(e)) is None:
            raise
        return Compiled({}, {}, "", time.perf_counter() - start, str(e))
    seconds = time.perf_counter() - start
    analysis = compiled.memory_analysis()
    kinds = ("argument", "output", "temp", "alias", "generated_code")
    memory = {k: getattr(analysis, f"{k}_size_in_bytes") for k in kinds}
    return Compiled(memory, dict(compiled.cost_analysis()), compiled.as_text(), seconds)


def figures(lowered: Lowered, topology: Topology, compiled: Compiled) -> dict[str, Any]:
    """All figures of one topology in the JSON file, per device unless stated otherwise.

    Args:
      lowered: the traced step.
      topology: what it was compiled for.
      compiled: the compiled step.
    """
    e = lowered.experiment
    found: dict[str, Any] = {
        "topology": topology.name,
        "modelled": True,
        "device": topology.device.name,
        "devices": len(topology.devices),
        "hosts": topology.hosts,
        "stand_in": topology.stand_in,
        "step": f"{e.config.method.name}, {e.config.encoder.name} x{e.config.encoder.width:g}, "
        f"{e.config.image_size} px, views {e.config.views.placement}",
        "data": e.config.data.placement,
        "batch": e.config.batch_size,
        "batch_per_device": e.config.batch_size / len(topology.devices),
        "steps": e.facts.steps,
        **_memory(lowered, topology, compiled),
        "state_gib": lowered.state / 2**30,
        "compile_s": compiled.seconds,
    }
    nothing = ("tflop", "gb_moved", "collectives", "modelled_ms")
    if compiled.error:
        return found | dict.fromkeys(nothing)
    found |= _work(e, topology, compiled)
    return found | _run(e, topology, found)


def _memory(lowered: Lowered, topology: Topology, compiled: Compiled) -> dict[str, Any]:
    """Whether it fits, and GiB of each kind of memory."""
    gib = {k: v / 2**30 for k, v in lowered.arguments.items()}
    limit = topology.device.hbm_gib
    if topology.device.platform == "cpu":
        limit = mesh.free_memory(lowered.experiment.mesh)[0] / 2**30
    if compiled.error:
        lacking = hlo.out_of_memory(compiled.error)
        assert lacking is not None
        gib["temporary"], limit = lacking
    else:
        m = {k: v / 2**30 for k, v in compiled.memory.items()}
        gib["padding of arguments"] = m["argument"] - sum(gib.values())
        gib["temporary"] = m["temp"]
        gib["output, not in place"] = m["output"] - m["alias"]
        gib["program"] = m["generated_code"]
    total = sum(gib.values())
    fits = not compiled.error and total <= limit
    return {"fits": fits, "hbm_gib": total, "hbm_limit_gib": limit, "memory_gib": gib}


def _work(e: Experiment, topology: Topology, compiled: Compiled) -> dict[str, Any]:
    """Arithmetic, bytes, collectives, and the times that follow from them."""
    # XLA counts the loop over micro-batches once. (So the update is counted as often as they are.)
    rounds = e.config.optimizer.accumulate
    device = topology.device
    flops = rounds * compiled.cost.get("flops", 0.0)
    moved = rounds * compiled.cost.get("bytes accessed", 0.0)
    found = hlo.collectives(compiled.text, len(topology.devices))
    table: dict[str, dict[str, float]] = hlo.summary(found, rounds)
    for kind, entry in table.items():
        entry["ms"] = 1e3 * sum(
            network.seconds(kind, c.size, c.group, topology) * (rounds if c.in_loop else 1)
            for c in found
            if c.kind == kind
        )
    times: dict[str, float | None] = dict.fromkeys(("compiler", "schedule", "roofline"))
    if device.tflops:
        arithmetic, memory = flops / device.tflops / 1e9, moved / device.hbm_gbs / 1e6
        times["roofline"] = max(arithmetic, memory)
        optimal = rounds * 1e3 * compiled.cost.get("optimal_seconds", -1.0)
        cycles = hlo.estimated_cycles(compiled.text, rounds)
        if device.platform == "tpu" and optimal >= arithmetic:
            times["compiler"] = optimal
        if device.clock_ghz and cycles:
            times["schedule"] = cycles / device.clock_ghz / 1e6
    over = sum(entry["ms"] for entry in table.values())
    base = next((times[k] for k in ("schedule", "compiler", "roofline") if times[k]), None)
    return {
        "tflop": flops / 1e12,
        "gb_moved": moved / 1e9,
        "collectives": table,
        "ms": {**times, "network": over if device.tflops else None},
        "modelled_ms": None if base is None else base + over,
    }


def _run(e: Experiment, topology: Topology, found: dict[str, Any]) -> dict[str, Any]:
    """What the modelled time of a step implies for the whole run."""
    ms = found["modelled_ms"]
    names = ("share_of_peak", "pairs_per_s", "pairs_per_s_host", "hours", "device_hours")
    if ms is None:
        return dict.fromkeys(names)
    rate = e.config.batch_size / ms * 1e3
    hours = found["steps"] * ms / 3.6e6
    share = found["tflop"] / topology.device.tflops / ms * 1e3
    values = (share, rate, rate / topology.hosts, hours, hours * len(topology.devices))
    return dict(zip(names, values, strict=True))
