"""Devices and processes: one mesh, and how arrays lie on it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def make_mesh(devices: Sequence[Any] | None = None, fsdp: int = 1) -> Mesh:
    """A mesh over all devices with the axes `data` and `fsdp`.

    Args:
      devices: the devices; all of the process group's by default.
      fsdp: size of the axis over which parameters may be sharded.

    Raises:
      ValueError: the devices cannot be divided by `fsdp`.
    """
    devices = jax.devices() if devices is None else devices
    if len(devices) % fsdp:
        raise ValueError(f"{len(devices)} devices cannot be divided into an fsdp axis of {fsdp}.")
    return Mesh(np.asarray(devices).reshape(-1, fsdp), ("data", "fsdp"))


def platform(mesh: Mesh) -> str:
    """The platform of the mesh's devices, which need not be this host's: "cpu", "gpu", "tpu"."""
    return mesh.devices.flat[0].platform


@functools.cache
def compiler_options(platform: str) -> dict[str, str | bool] | None:
    """XLA options that make training faster on a platform; None where there are none.

    On a CPU: convolutions and matmuls by Eigen. YNNPACK's, XLA's choice since jax 0.10, are slower,
    the gradients' above all, and use one core where they have 64 channels.
    """
    if platform != "cpu":
        return None
    options: dict[str, str | bool] = {
        "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"
    }
    try:
        jax.jit(lambda: 0).lower().compile(compiler_options=options)
    except jax.errors.JaxRuntimeError:  # an experimental option: other versions of jax lack it
        return None
    return options


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def rows(mesh: Mesh) -> NamedSharding:
    """Axis 0 divided over all devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def check_batch(batch_size: int, mesh: Mesh) -> None:
    """Refuse a global batch that the devices cannot share evenly.

    Raises:
      ValueError: with the nearest batch sizes that would do.
    """
    n = mesh.devices.size
    if batch_size < n or batch_size % n:
        below, above = batch_size // n * n, (batch_size // n + 1) * n
        remedy = f"{below} or {above}" if below else f"{above}"
        raise ValueError(
            f"batch_size {batch_size} cannot be shared evenly by {n} devices; use {remedy}."
        )


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Put this process's rows of a global batch onto its devices, asynchronously."""
    sharding = rows(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}
