"""The machines that preflight knows: published figures of each device, and its networks.

A device is what jax calls one: half a chip (a core) on TPU v2 and v3, a chip on all others (v4 as
"megacore", as on its virtual machines), a card of a GPU. Sources of the table:

- Arithmetic (bfloat16, dense), memory bandwidth and network of a TPU chip: its page under
  cloud.google.com/tpu/docs (v3, v4, v5e, v5p, v6e). A link carries, one way, the page's
  bidirectional bandwidth a chip / (2 x ports); of v4 the page has the all-reduce bandwidth of a pod
  (1.1 PB/s / 4,096 chips / 6 ports). Links of v2 and v3, and v2's figures: Jouppi et al. 2020, A
  Domain-Specific Supercomputer for Training Deep Neural Networks (496 and 656 Gbit/s).
- Memory: what the TPU compiler (libtpu 0.0.52) calls available when a program does not fit: the
  capacity less what the system keeps.
- Clock: arithmetic / (2 x 128 x 128 x matrix units); known for v2, v3 and v4 to be 0.7, 0.94, 1.05.
  Trillium (v6e) has units of another size, so none is given.
- Latency of a hop between neighbouring chips: about 1 us (Austin et al. 2025, How to Scale Your
  Model).
- GPUs: NVIDIA's data sheets of the SXM boards; between hosts, one 400 Gbit/s (H100) or 200 Gbit/s
  (A100) adapter a card. Their latencies (10 us a collective in a host, 5 us a level of a tree of
  hosts) are assumptions.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Device(NamedTuple):
    """One device as jax sees it.

    tflops: bfloat16, dense. hbm_gib: usable memory. hbm_gbs: its bandwidth, GB/s.
    clock_ghz: 0.0 unknown. per_chip: devices that share a chip and its links.
    link_gbs: GB/s one way over one link. wraps_at: sides of a slice that are a multiple of it are
    rings; 4 means that all sides must be. chip_config: libtpu's name of the way cores are joined.
    """

    name: str
    platform: str
    tflops: float
    hbm_gib: float
    hbm_gbs: float
    clock_ghz: float = 0.0
    per_chip: int = 1
    link_gbs: float = 0.0
    wraps_at: int = 0
    chip_config: str = "default"


DEVICES = {
    "v2": Device("TPU v2 core", "tpu", 23.0, 7.48, 350, 0.70, 2, 62, 16),
    "v3": Device("TPU v3 core", "tpu", 61.5, 15.48, 450, 0.94, 2, 82, 32),
    "v4": Device("TPU v4 chip", "tpu", 275, 30.75, 1200, 1.05, 1, 45, 4, "megacore"),
    "v5e": Device("TPU v5e chip", "tpu", 197, 15.75, 819, 1.50, 1, 50, 16),
    "v5p": Device("TPU v5p chip", "tpu", 459, 95.73, 2765, 1.75, 1, 100, 4),
    "v6e": Device("TPU v6e chip", "tpu", 918, 31.24, 1638, 0.0, 1, 100, 16),
    "h100": Device("H100 SXM", "gpu", 989, 78.0, 3350, link_gbs=450),
    "a100": Device("A100 SXM 80 GB", "gpu", 312, 78.0, 2039, link_gbs=300),
    "cpu": Device("CPU device", "cpu", 0.0, 0.0, 0.0),
}
DEVICES["gpu"] = DEVICES["h100"]

# Topologies that can be rented (v3:32x32 is a whole pod; libtpu compiles for larger ones as well).
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
    """Devices that a step is compiled for, and what they stand for.

    sides: of the grid of chips, with whether each is a ring; () for CPUs and GPUs.
    stand_in: "" where the compiler is the machine's own; else what was compiled in its place.
    """

    name: str
    device: Device
    devices: list[Any]
    hosts: int
    sides: tuple[tuple[int, bool], ...] = ()
    stand_in: str = ""


def sides_of(generation: str, shape: str) -> tuple[tuple[int, bool], ...]:
    """The sides of a slice, and which of them are rings.

    Of v2, v3, v5e and v6e a side as long as the pod's; of v4 and v5p all, of slices of whole cubes.
    """
    lengths = [int(n) for n in shape.split("x")]
    at = DEVICES[generation].wraps_at
    rings = [n % at == 0 for n in lengths]
    if at == 4:
        rings = [all(rings)] * len(rings)
    return tuple((n, ring) for n, ring in zip(lengths, rings, strict=True) if n > 1)


def slice_devices(generation: str, shape: str) -> int:
    """How many devices a slice has."""
    count = DEVICES[generation].per_chip
    for n in shape.split("x"):
        count *= int(n)
    return count
