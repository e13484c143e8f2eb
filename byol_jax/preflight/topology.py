"""Turns a name such as v3:16x16 into the devices of a machine that need not exist."""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
from typing import Any

import jax

from byol_jax.preflight.hardware import (
    GPUS_PER_HOST,
    KINDS,
    SLICES,
    Topology,
    sides_of,
    slice_devices,
)

# Without these, libtpu searches for a TPU and prints on stderr that there is none.
NO_TPU_HERE = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v3-8",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
NO_LIBTPU = 'libtpu, the TPU compiler, is not installed; run `pip install "byol_jax[preflight]"`.'


def listing() -> str:
    """The known topologies as a table: name, devices, memory of each."""
    lines = ["TPU topologies (name=devices):"]
    for kind, shapes in SLICES.items():
        device = KINDS[kind]
        lines.append(f"  {device.name}, {device.hbm_gib:g} GiB usable per device")
        names = [f"{kind}:{s}={slice_devices(kind, s)}" for s in shapes]
        lines += [f"    {'  '.join(names[i : i + 6])}" for i in range(0, len(names), 6)]
    lines += [
        "Others:",
        "  cpu:N   N devices of this machine",
        "  h100:N, a100:N, gpu:N (h100)   N cards; partitioned as for N CPU devices, a stand-in",
        "To compare several: --topology v3:16x16,v5e:16x16",
    ]
    return "\n".join(lines)


def nearest_topology(name: str) -> str:
    """A hint for a name that does not work."""
    kind = name.split(":")[0]
    same = [f"{kind}:{shape}" for shape in SLICES.get(kind, ())]
    close = difflib.get_close_matches(name, same, 3, 0.0) if same else []
    hint = f"the nearest are {', '.join(close)}" if close else f"kinds are {', '.join(KINDS)}"
    return f"{hint}; --topology without a value lists all."


def parse(name: str) -> tuple[str, str]:
    """A name as (kind, shape): ("v3", "16x16"), ("cpu", "8").

    Raises:
      ValueError: it is not of that form, or of an unknown kind.
    """
    match = re.fullmatch(r"([a-z]\w*):(\d+(?:x\d+)*)", name)
    if not match or match[1] not in KINDS:
        raise ValueError(
            f"--topology {name!r} is unknown; expected KIND:SHAPE, e.g. v3:16x16 or cpu:8; "
            + nearest_topology(name)
        )
    kind, shape = match[1], match[2]
    flat = KINDS[kind].platform != "tpu"
    if (flat and "x" in shape) or not all(int(n) for n in shape.split("x")):
        raise ValueError(f"--topology {name!r}: {kind} takes a number, at least 1, e.g. {kind}:8.")
    return kind, shape


def virtual_devices(names: list[str]) -> int:
    """CPU devices that the topologies need; 0 if they are all TPUs."""
    counts = [int(shape) for kind, shape in map(parse, names) if KINDS[kind].platform != "tpu"]
    return max(counts, default=0)


def find(name: str) -> Topology:
    """The devices of a topology.

    Raises:
      ValueError: the name is unknown, or libtpu is not installed, or refuses it.
    """
    kind, shape = parse(name)
    device = KINDS[kind]
    if device.platform == "tpu":
        devices = _tpu_devices(name, device.chip_config)
        hosts = len({d.process_index for d in devices})
        return Topology(name, device, devices, hosts, sides_of(kind, shape))
    count = int(shape)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise ValueError(
            f"--topology {name} needs {count} virtual CPU devices, but this process has "
            f"{len(devices)}; set them before jax starts: jax_num_cpu_devices."
        )
    if device.platform == "cpu":
        return Topology(name, device, devices[:count], 1)
    return Topology(
        name,
        device,
        devices[:count],
        -(-count // GPUS_PER_HOST),
        stand_in=f"partitioned and compiled for {count} CPU devices: arguments and collectives as "
        f"for {count} cards, temporary memory and bytes as on a CPU",
    )


def _tpu_devices(name: str, chip_config: str) -> list[Any]:
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(NO_LIBTPU)
    from jax.experimental import topologies

    for key, value in NO_TPU_HERE.items():
        os.environ.setdefault(key, value)
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=name, chip_config_name=chip_config
        )
    except jax.errors.JaxRuntimeError as e:
        reason = str(e).splitlines()[0].removeprefix("INVALID_ARGUMENT: ")
        raise ValueError(f"--topology {name}: {reason}; {nearest_topology(name)}") from e
    return list(found.devices)
