"""Devices and processes: one mesh, and how arrays are placed on it."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from byol_jax.core import ViT

SHARD_FROM = 1024
"""Elements that each device must hold for an array to be sharded: a TPU tile, 8 x 128."""

Module = TypeVar("Module", bound=Any)  # a NamedTuple with `apply`: an encoder or a head; or a ViT


def make_mesh(devices: Sequence[Any] | None = None, fsdp: int = 1) -> Mesh:
    """A mesh over all devices with the axes `data` and `fsdp`.

    Args:
      devices: the devices; by default, all devices of the process group.
      fsdp: devices that share one copy of the state, see `state_sharding`.

    Raises:
      ValueError: the number of devices is not a multiple of `fsdp`.
    """
    devices = jax.devices() if devices is None else devices
    if fsdp < 1 or len(devices) % fsdp:
        raise ValueError(
            f"mesh.fsdp is {fsdp}, but {len(devices)} devices cannot be divided by it; expected a "
            "divisor of their number."
        )
    return Mesh(np.asarray(devices).reshape(-1, fsdp), ("data", "fsdp"))


def platform(mesh: Mesh) -> str:
    """The platform of the mesh's devices, not necessarily this host's: "cpu", "gpu", "tpu"."""
    return mesh.devices.flat[0].platform


@functools.cache
def compiler_options(platform: str) -> dict[str, str | bool] | None:
    """XLA options that make training faster on a platform; None if there are none.

    On a CPU: convolutions and matmuls by Eigen. Those of YNNPACK, XLA's choice since jax 0.10, are
    slower, above all for gradients, and use a single core if they have 64 channels.
    """
    if platform != "cpu":
        return None
    options: dict[str, str | bool] = {
        "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"
    }
    try:
        jax.jit(lambda: 0).lower().compile(compiler_options=options)
    except jax.errors.JaxRuntimeError:  # an experimental option, missing in other versions of jax
        return None
    return options


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def state_sharding(tree: Any, mesh: Mesh, sharded: Sequence[str] = ()) -> Any:
    """Shardings of a train state: large arrays are sharded over `fsdp`, all others replicated.

    Args:
      tree: arrays or their shapes.
      mesh: made by `make_mesh`; if its `fsdp` is 1, all arrays but those below are replicated.
      sharded: names of entries of the state's `extra` (`Method.sharded`) whose axis 0 is sharded
        over all devices, if their number divides it.

    Returns:
      A tree of shardings.
    """
    shares = mesh.shape["fsdp"]

    def of_rows(path: Any, x: Any) -> bool:
        names = [getattr(k, "name", getattr(k, "key", None)) for k in path[:2]]
        return names[0] == "extra" and names[-1] in sharded and not x.shape[0] % mesh.size

    def sharding(path: Any, x: Any) -> NamedSharding:
        if of_rows(path, x):
            return batch_sharding(mesh)
        axes = [i for i, side in enumerate(x.shape) if side % shares == 0]
        if shares == 1 or x.size < shares * SHARD_FROM or not axes:
            return replicated(mesh)
        names: list[str | None] = [None] * x.ndim
        names[min(axes, key=lambda i: _padded(x.shape, i, shares))] = "fsdp"
        return NamedSharding(mesh, PartitionSpec(*names))

    return jax.tree_util.tree_map_with_path(sharding, tree)


def gathered(module: Module, mesh: Mesh) -> Module:
    """An encoder or a head that gathers its arrays from a state sharded over the mesh.

    Every device gathers the parameters before its forward pass, and needs only its shard of their
    gradients; optimizer and moving average work on the shards. The results are the same.

    Args:
      module: with apply(params, stats, ...); or a `ViT`.
      mesh: see `state_sharding`.

    Reference: Xu et al. 2020, Automatic Cross-Replica Sharding of Weight Update.
    """
    put = jax.lax.with_sharding_constraint

    @jax.custom_vjp
    def whole(tree: Any) -> Any:
        return put(tree, replicated(mesh))

    # The transpose of the constraint would put whole gradients on every device.
    def share(_: None, grads: Any) -> tuple[Any]:
        return (put(grads, state_sharding(grads, mesh)),)

    whole.defvjp(lambda tree: (whole(tree), None), share)

    if isinstance(module, ViT):
        plain = module.tokens

        def tokens(params: Any, *args: Any, **options: Any) -> Any:
            return plain(whole(params), *args, **options)

        return module._replace(encoder=gathered(module.encoder, mesh), tokens=tokens)

    def apply(params: Any, stats: Any, *args: Any, **options: Any) -> Any:
        return module.apply(whole(params), whole(stats), *args, **options)

    return module._replace(apply=apply)


def _padded(shape: tuple[int, ...], axis: int, shares: int) -> int:
    """Elements that a shard of an array takes on a TPU, in whole tiles of 8 x 128."""
    share = [1, *shape]
    share[axis + 1] //= shares
    *outer, rows, columns = share
    return math.prod(outer) * -(-rows // 8) * -(-columns // 128)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Axis 0 sharded over all devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def steps_sharding(mesh: Mesh) -> NamedSharding:
    """Axis 0 is steps; axis 1 is sharded over all devices."""
    return NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp")))


def check_batch(batch_size: int, mesh: Mesh) -> None:
    """Refuse a global batch that cannot be sharded evenly over the devices.

    Raises:
      ValueError: gives the nearest batch sizes that work.
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
    return _put(batch, batch_sharding(mesh))


def put_steps(batches: Sequence[Mapping[str, np.ndarray]], most: int, mesh: Mesh) -> dict[str, Any]:
    """Put the rows of several global batches onto the devices, asynchronously.

    Args:
      batches: n of them, 1 <= n <= most.
      most: K, to which they are padded.
      mesh: the devices.

    Returns:
      {key: [K, B, ...]}, and "count" [], n.
    """
    stacked = {}
    for key in batches[0]:
        parts = [batch[key] for batch in batches]
        stacked[key] = np.stack(parts + [np.zeros_like(parts[0])] * (most - len(parts)))
    count = np.asarray(len(batches), np.int32)
    return {**_put(stacked, steps_sharding(mesh)), **_put({"count": count}, replicated(mesh))}


def _put(batch: Mapping[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def put_whole(array: np.ndarray, mesh: Mesh) -> jax.Array:
    """Put a whole array onto every device."""
    sharding = replicated(mesh)
    return jax.make_array_from_process_local_data(sharding, array, array.shape)


class Placement(NamedTuple):
    """Where the step computes with an array: functions that return the same array.

    whole: on every device. rows: axis 0 sharded over all devices.
    """

    whole: Callable[[Any], Any]
    rows: Callable[[Any], Any]


ANYWHERE = Placement(lambda x: x, lambda x: x)
"""Left to the compiler."""


def placement(mesh: Mesh) -> Placement:
    """The `Placement` on the devices of a mesh."""
    put = jax.lax.with_sharding_constraint
    return Placement(
        lambda x: put(x, replicated(mesh)),
        lambda x: put(x, batch_sharding(mesh)),
    )


def place(x: Any, sharding: Any) -> Any:
    """Place a value, the same in all processes, on the devices of all of them.

    Args:
      x: arrays (typed keys too).
      sharding: one, or a tree as `state_sharding` returns.
    """
    return jax.jit(lambda x: x, out_shardings=sharding)(x)


def all_max(mesh: Mesh) -> Callable[[Sequence[int]], Any]:
    """The maximum over all processes, without waiting for each other.

    Returns:
      values -> the elementwise maximum over all processes, int32 [len(values)]. Every process must
      call it equally often. It is computed on the devices: fetch it together with the step that was
      dispatched before it. A single process gets its own values back.
    """
    if jax.process_count() == 1:
        return lambda values: np.asarray(values, np.int32)
    largest = jax.jit(lambda x: x.max(0), out_shardings=replicated(mesh))
    devices = len(mesh.local_devices)

    def of_all(values: Sequence[int]) -> jax.Array:
        own = np.tile(np.asarray(values, np.int32), (devices, 1))
        return largest(jax.make_array_from_process_local_data(batch_sharding(mesh), own))

    return of_all


def fetched(arrays: Mapping[str, jax.Array], mesh: Mesh) -> dict[str, np.ndarray]:
    """Arrays sharded over all devices, gathered on the host of every process."""
    if jax.process_count() > 1:
        arrays = jax.jit(dict, out_shardings=replicated(mesh))(arrays)
    return {name: np.asarray(x) for name, x in arrays.items()}


def check_fits(size: int, what: str, mesh: Mesh) -> None:
    """Refuse data that would take more than half of each device's free memory.

    Args:
      size: bytes. what: for the message. mesh: the devices, each of which holds a copy.

    Raises:
      ValueError: gives both sizes.
    """
    free, where = free_memory(mesh)
    if size > free / 2:
        raise ValueError(
            f"{what} takes {size / 2**30:.3g} GiB on each device, more than half of the "
            f"{free / 2**30:.3g} GiB that are free on {where}; set data.placement to stream."
        )


def free_memory(mesh: Mesh) -> tuple[int, str]:
    """Bytes free on one of this process's devices, and the device's name.

    The devices of a CPU share the machine's memory.
    """
    device = mesh.local_devices[0]
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0), f"a {device.device_kind}"
    return _free_of_machine() // len(mesh.local_devices), "this machine"


def _free_of_machine() -> int:
    """Bytes available on the machine; where it does not report them (macOS), half of its memory."""
    info = Path("/proc/meminfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
