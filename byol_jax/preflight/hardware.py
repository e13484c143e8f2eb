"""The machines that preflight knows: TPU slices that can be rented, and GPU hosts.

The latency of a hop between neighbouring chips is about 1 us (Austin et al. 2025, How to Scale Your
Model). GPU hosts have one 400 Gbit/s (H100, H200) or 200 Gbit/s (A100) adapter per card. Their
latencies (10 us per collective within a host, 5 us per level of a tree of hosts) are assumptions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from byol_jax.hardware import DEVICES, Device

# Device kinds of topologies, by their name in --topology.
KINDS = {k: DEVICES[k] for k in ("v2", "v3", "v4", "v5e", "v5p", "v6e", "h100", "a100", "cpu")}
KINDS["gpu"] = KINDS["h100"]

# Topologies that can be rented (v3:32x32 is a whole pod; libtpu compiles for larger ones too).
_FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16")
SLICES = {
    "v2": _FLAT,
    "v3": (*_FLAT, "16x32", "32x32"),
    "v4": (*_CUBES, "8x16x16", "16x16x16"),
    "v5e": ("1x1", *_FLAT),
    "v5p": (*_CUBES, "8x16x16", "16x16x16"),
    "v6e": ("1x1", *_FLAT),
}
GPUS_PER_HOST = 8
GPU_HOST_GBS = {"H100 SXM": 50.0, "A100 SXM 80 GB": 25.0}
GPU_LATENCY_US, GPU_TREE_US, HOP_US = 10.0, 5.0, 1.0


class Topology(NamedTuple):
    """The devices that a step is compiled for, and what they represent.

    sides: of the grid of chips, each with whether it is a ring; () for CPUs and GPUs.
    stand_in: "" if the compiler is the machine's own; else what was compiled instead.
    """

    name: str
    device: Device
    devices: list[Any]
    hosts: int
    sides: tuple[tuple[int, bool], ...] = ()
    stand_in: str = ""


def sides_of(generation: str, shape: str) -> tuple[tuple[int, bool], ...]:
    """The sides of a slice, and which of them are rings.

    For v2, v3, v5e and v6e, sides as long as the pod's; for v4 and v5p, all, if of whole cubes.
    """
    lengths = [int(n) for n in shape.split("x")]
    at = KINDS[generation].wraps_at
    rings = [n % at == 0 for n in lengths]
    if at == 4:
        rings = [all(rings)] * len(rings)
    return tuple((n, ring) for n, ring in zip(lengths, rings, strict=True) if n > 1)


def slice_devices(generation: str, shape: str) -> int:
    """How many devices a slice has."""
    count = KINDS[generation].per_chip
    for n in shape.split("x"):
        count *= int(n)
    return count
