"""The processes of a run: how they find each other, and how they exit.

One process per host on TPUs, one or more elsewhere. Every process runs the same command; only
process 0 writes (except for checkpoints, of which each process writes its part).
"""

from __future__ import annotations

import contextlib
import glob
import importlib.util
import json
import os
import sys
import threading
import time
import zlib
from collections.abc import Mapping
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

RESTART = 75
"""Exit code, EX_TEMPFAIL of sysexits.h: the command is fine; restart all processes."""

SHUTDOWN_SECONDS = 60
NEWS_SECONDS = 5.0


def join(
    coordinator: str = "",
    num_processes: int = 0,
    process_id: int = -1,
    *,
    port: int = 0,
    wait_seconds: float = 60.0,
    heartbeat_seconds: int = 30,
) -> str:
    """Join the process group given by the arguments or, failing that, by the environment.

    A single process (no cluster is detected) joins nothing. If the others do not connect within
    `wait_seconds`, it prints so and exits with `RESTART`: the usual reason is a command that was
    started on only one of several hosts, for which jax itself would wait for minutes and abort.

    Args:
      coordinator: HOST:PORT of process 0; "": by detection (TPU VM, GKE, SLURM, OpenMPI).
      num_processes: 0: by detection.
      process_id: 0 to num_processes - 1; -1: by detection.
      port: of the coordinator, if its host is detected; 0: the cluster's usual one.
      wait_seconds: how far apart the processes may start.
      heartbeat_seconds: after which a silent process counts as lost, and all others exit.

    Returns:
      A description of the group; "" for a single process.

    Raises:
      ValueError: the arguments do not fit together, or the environment is that of a job of many
        processes, of which only this one was started.
    """
    given = {
        "--coordinator": bool(coordinator),
        "--num_processes": num_processes > 0,
        "--process_id": process_id >= 0,
    }
    detected = "" if all(given.values()) else detect(os.environ)
    if not any(given.values()) and not detected:
        return ""
    if detected == "OpenMPI":
        num_processes = num_processes or int(os.environ["OMPI_COMM_WORLD_SIZE"])
        process_id = process_id if process_id >= 0 else int(os.environ["OMPI_COMM_WORLD_RANK"])
        if not coordinator and "OMPI_MCA_orte_hnp_uri" not in os.environ:
            raise ValueError(
                "This version of OpenMPI does not say where process 0 is; add "
                "--coordinator=HOST:PORT with the host of rank 0 and a free port."
            )
    elif not detected and not all(given.values()):
        missing = [name for name, there in given.items() if not there]
        raise ValueError(
            f"{', '.join(missing)} is missing, and no cluster was detected; give "
            "--coordinator=HOST:PORT --num_processes=N --process_id=I to every process."
        )
    _check(coordinator, num_processes, process_id)
    if num_processes == 1:
        return ""
    if port:
        os.environ["JAX_COORDINATOR_PORT"] = str(port)
    here = threading.Event()
    waiting = threading.Thread(target=_complain, args=(here, wait_seconds), daemon=True)
    waiting.start()
    try:
        jax.distributed.initialize(
            coordinator_address=coordinator or None,
            num_processes=num_processes or None,
            process_id=process_id if process_id >= 0 else None,
            # jax's own limit aborts without saying what to do, so ours comes first.
            initialization_timeout=round(wait_seconds) + SHUTDOWN_SECONDS,
            heartbeat_timeout_seconds=heartbeat_seconds,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    finally:
        here.set()
        waiting.join()
    how = detected or "flags"
    return f"process {jax.process_index()} of {jax.process_count()} ({how})"


def _check(coordinator: str, num_processes: int, process_id: int) -> None:
    if num_processes > 0 and process_id >= num_processes:
        raise ValueError(
            f"--process_id is {process_id}; expected 0 to {num_processes - 1}, one below "
            "--num_processes."
        )
    if coordinator and not coordinator.rpartition(":")[2].isdigit():
        raise ValueError(f"--coordinator is {coordinator!r}; expected HOST:PORT.")


def detect(env: Mapping[str, str]) -> str:
    """The name of the cluster of several processes that the environment shows; "" for none.

    Raises:
      ValueError: the environment is that of a job of many nodes, but not of a job step.
    """
    if "SLURM_JOB_ID" in env:
        tasks = int(env.get("SLURM_NTASKS", env.get("SLURM_NNODES", "1")))
        if tasks > 1 and "SLURM_STEP_NODELIST" not in env:
            raise ValueError(
                f"This is one process inside a SLURM job of {tasks} tasks; start it with srun, as "
                "launch/slurm.sbatch does: srun python -m byol_jax.train ..."
            )
        return "SLURM" if tasks > 1 and "SLURM_STEP_NODELIST" in env else ""
    if int(env.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        return "OpenMPI"
    if env.get("JAX_PLATFORMS", "tpu") not in ("", "tpu") or not importlib.util.find_spec("libtpu"):
        return ""
    # By the chips, not by the variables: libtpu sets those even if there is no TPU.
    if not glob.glob("/dev/accel[0-9]*") + glob.glob("/dev/vfio/[0-9]*"):
        return ""
    if "TPU_WORKER_HOSTNAMES" in env or "TPU_PROCESS_ADDRESSES" in env:
        return "GKE"
    return "" if "TPU_SKIP_MDS_QUERY" in env else "TPU VM"


def _complain(here: threading.Event, limit: float) -> None:
    """Report that others are awaited; at the limit, report what to do, and exit."""
    start = time.monotonic()
    while not here.wait(min(NEWS_SECONDS, max(limit - (time.monotonic() - start), 0.01))):
        seconds = time.monotonic() - start
        if seconds < limit:
            _print(
                f"waiting for the other processes of the run: {seconds:.0f} s ... "
                "(the same command must be started on every host)"
            )
            continue
        _print(
            f"error: the other processes of the run did not connect within {limit:.0f} s. Start "
            "the same command on every host (on a TPU pod: gcloud compute tpus tpu-vm ssh NAME "
            "--worker=all), check that they reach the coordinator's port (--coordinator_port), or "
            "wait longer with --wait_for_processes."
        )
        os._exit(RESTART)


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def check_devices() -> None:
    """Start JAX's backend.

    Raises:
      ValueError: JAX does not find the devices that it was told to use.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as e:  # the second where jax has no plugin for them
        wanted = jax.config.values["jax_platforms"]
        reason = (str(e).splitlines() or ["there is no such device, or no jax for it"])[0]
        raise ValueError(
            f"JAX_PLATFORMS is {wanted!r}, but JAX cannot start there ({reason[:200]}); unset it, "
            "or install what it needs (for NVIDIA: pip install 'byol_jax[cuda]')."
        ) from e


def main_process() -> bool:
    """Whether this process logs and writes for all."""
    return jax.process_index() == 0


def gather(values: np.ndarray, longest: int) -> np.ndarray:
    """The values of all processes; waits for all of them.

    Args:
      values: int [n] of this process, none of them negative.
      longest: the largest n of any process.
    """
    if jax.process_count() == 1:
        return values
    padded = np.full(longest, -1, np.int32)
    padded[: len(values)] = values
    found = np.asarray(multihost_utils.process_allgather(padded)).reshape(-1)
    return found[found >= 0]


def from_main(value: int) -> int:
    """The value that process 0 passes; waits for all."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.asarray(value, np.int32)))


def check_same(what: str, value: Any, shown: Any = None) -> None:
    """Refuse to continue if this process has another value than process 0.

    Args:
      what: the value's name, for the message.
      value: as JSON takes it.
      shown: what the message has of it; None: all.

    Raises:
      ValueError: on the processes that differ.
    """
    own = zlib.crc32(json.dumps(value, sort_keys=True).encode()) >> 1
    if from_main(own) != own:
        raise ValueError(
            f"{what} of process {jax.process_index()} is not that of process 0; start the same "
            f"command with the same files on every host. Here: {value if shown is None else shown}"
        )


def leave(code: int) -> NoReturn:
    """Exit the program with an exit code.

    A process that failed must not wait for the others, as Python's normal exit would, because they
    wait for it.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed by whoever read it
            stream.flush()
    if code and jax.distributed.is_initialized():
        os._exit(code)
    sys.exit(code)
