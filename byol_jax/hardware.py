"""Published figures of devices, in one table for benchmarks and preflight.

A device is what jax calls one: half a chip (a core) on TPU v2 and v3, a chip on all others (v4 as
"megacore", as on its virtual machines), one card of GPUs. Sources:

- Arithmetic (bfloat16, dense), memory bandwidth and network of a TPU chip: its page under
  cloud.google.com/tpu/docs (v3, v4, v5e, v5p, v6e). A link carries in one direction the page's
  bidirectional bandwidth per chip / (2 x ports); for v4 the page gives a pod's all-reduce bandwidth
  (1.1 PB/s / 4,096 chips / 6 ports). Links of v2 and v3, and v2's figures: Jouppi et al. 2020,
  A Domain-Specific Supercomputer for Training Deep Neural Networks (496 and 656 Gbit/s).
- Memory: what the TPU compiler (libtpu 0.0.52) reports as available when a program does not fit:
  the capacity minus what the system reserves.
- Clock: arithmetic / (2 x 128 x 128 x matrix units); known for v2, v3 and v4 to be 0.7, 0.94, 1.05.
  Trillium (v6e) has units of another size, so no clock is given.
- GPUs: NVIDIA's data sheets, for the SXM boards where they exist; usable memory is what jax reports
  for an 80 GB card, and for the others the board's memory minus 2 GiB.
"""

from __future__ import annotations

from typing import NamedTuple


class Device(NamedTuple):
    """One device, as jax sees it.

    kind: what `jax.Device.device_kind` contains. tflops: bfloat16, dense. hbm_gib: usable memory.
    hbm_gbs: its bandwidth, GB/s. clock_ghz: 0.0 if unknown. per_chip: devices that share a chip and
    its links. link_gbs: GB/s in one direction over one link. wraps_at: sides of a slice that are a
    multiple of it are rings; 4 means that all sides must be. chip_config: libtpu's name for how
    cores are joined.
    """

    name: str
    platform: str
    kind: str
    tflops: float
    hbm_gib: float
    hbm_gbs: float
    clock_ghz: float = 0.0
    per_chip: int = 1
    link_gbs: float = 0.0
    wraps_at: int = 0
    chip_config: str = "default"


DEVICES = {
    "v2": Device("TPU v2 core", "tpu", "TPU v2", 23.0, 7.48, 350, 0.70, 2, 62, 16),
    "v3": Device("TPU v3 core", "tpu", "TPU v3", 61.5, 15.48, 450, 0.94, 2, 82, 32),
    "v4": Device("TPU v4 chip", "tpu", "TPU v4", 275, 30.75, 1200, 1.05, 1, 45, 4, "megacore"),
    "v5e": Device("TPU v5e chip", "tpu", "TPU v5 lite", 197, 15.75, 819, 1.50, 1, 50, 16),
    "v5p": Device("TPU v5p chip", "tpu", "TPU v5", 459, 95.73, 2765, 1.75, 1, 100, 4),
    "v6e": Device("TPU v6e chip", "tpu", "TPU v6", 918, 31.24, 1638, 0.0, 1, 100, 16),
    "h200": Device("H200 SXM", "gpu", "H200", 989, 139.0, 4800, link_gbs=450),
    "h100": Device("H100 SXM", "gpu", "H100", 989, 78.0, 3350, link_gbs=450),
    "a100": Device("A100 SXM 80 GB", "gpu", "A100", 312, 78.0, 2039, link_gbs=300),
    "v100": Device("V100 SXM 32 GB", "gpu", "V100", 125, 30.0, 900, link_gbs=150),
    "rtx4090": Device("RTX 4090", "gpu", "RTX 4090", 165, 22.0, 1008),
    "cpu": Device("CPU device", "cpu", "cpu", 0.0, 0.0, 0.0),
}


def find_device(kind: str) -> Device | None:
    """The row of a device by its `device_kind`; None if it is not in the table."""
    found = (d for d in DEVICES.values() if d.platform != "cpu" and d.kind in kind)
    return next(found, None)
