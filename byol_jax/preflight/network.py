"""How long collectives take: rings over the axes of a torus, bandwidth and latency.

An all-reduce of V bytes over n chips is a reduce-scatter and an all-gather: each chip sends
2 V (n - 1) / n bytes over all of its links at once, and the last hop waits for the longest path.

    seconds = 2 V (n - 1) / n / (links x link bandwidth) + 2 x hops x latency of a hop

A side of the torus that is a ring has two links per chip and half its length as hops; a side that
is a line counts as one link and its length minus one. Devices that share a chip also add up in its
memory before and after, which is left out. So is overlap with arithmetic: these times are added.

Reference: Patarasuk and Yuan 2009, Bandwidth optimal all-reduce algorithms; Austin et al. 2025.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from byol_jax.preflight.hardware import (
    GPU_HOST_GBS,
    GPU_LATENCY_US,
    GPU_TREE_US,
    GPUS_PER_HOST,
    HOP_US,
    Topology,
)

# How often a kind of collective sends its bytes around, in units of V (n - 1) / n.
ROUNDS = {"all-reduce": 2, "all-gather": 1, "reduce-scatter": 1, "all-to-all": 1}


class Path(NamedTuple):
    """The path within a group of chips: GB/s out of each, hops to the farthest, number of chips."""

    gbs: float
    hops: float
    chips: int


def path(topology: Topology, group: int) -> Path:
    """The path between the devices of a group.

    Args:
      topology: any except CPUs.
      group: number of devices; if not all, assumed to be neighbours in a line.
    """
    device = topology.device
    chips = -(-group // device.per_chip)
    if group < len(topology.devices):
        return Path(device.link_gbs, chips - 1, chips)
    links = sum(2 if ring else 1 for _, ring in topology.sides)
    hops = sum(n / 2 if ring else n - 1 for n, ring in topology.sides)
    return Path(links * device.link_gbs, hops, chips)


def seconds(kind: str, size: float, group: int, topology: Topology) -> float:
    """Modelled time of one collective.

    Args:
      kind: as in `hlo.COLLECTIVES`.
      size: bytes V of the whole array: a device's operand of an all-reduce or reduce-scatter, the
        result of an all-gather.
      group: number of devices that take part.
      topology: the devices.
    """
    if topology.device.platform == "cpu" or group <= 1:
        return 0.0
    if topology.device.platform == "gpu":
        return _gpu_seconds(kind, size, group, topology)
    gbs, hops, chips = path(topology, group)
    if kind == "collective-permute":
        return size / (topology.device.link_gbs * 1e9) + HOP_US * 1e-6
    rounds = ROUNDS[kind]
    if chips == 1:
        return rounds * size / (topology.device.hbm_gbs * 1e9)
    return rounds * (size * (chips - 1) / chips / (gbs * 1e9) + hops * HOP_US * 1e-6)


def _gpu_seconds(kind: str, size: float, group: int, topology: Topology) -> float:
    """A ring over the cards of a host, then one over hosts for the part that each card keeps."""
    rounds = ROUNDS.get(kind, 1)
    local = min(group, GPUS_PER_HOST)
    hosts = -(-group // GPUS_PER_HOST)
    inside = rounds * size * (local - 1) / local / (topology.device.link_gbs * 1e9)
    between = GPU_HOST_GBS[topology.device.name] * 1e9
    outside = rounds * size / local * (hosts - 1) / hosts / between
    latency = GPU_LATENCY_US + GPU_TREE_US * 2 * math.ceil(math.log2(hosts)) if hosts else 0.0
    return inside + outside + latency * 1e-6
