"""Changes that would make a config fit: each is tried with the compiler, none is guessed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from byol_jax.preflight.hardware import SLICES, slice_devices
from byol_jax.preflight.topology import parse

# Figures of a config on a named topology.
Examine = Callable[[ConfigDict, str], dict[str, Any]]


class Way(NamedTuple):
    """One change: its description, keys to change, the topology; or why it is not worth trying."""

    change: str
    keys: dict[str, Any]
    topology: str
    skipped: str = ""


def search(
    config: ConfigDict,
    failed: dict[str, Any],
    examine: Examine,
    say: Callable[[str], None],
    tries: int,
) -> list[dict[str, Any]]:
    """Try changes to make a config fit, the simplest first, and all of them together last.

    Args:
      config: one that does not fit. failed: its figures.
      examine: compiles a config.
      say: reports what is being tried.
      tries: largest number of compilations.

    Returns:
      For each change: {"change", "keys", "topology", "skipped", "figures" (None if skipped)}.
    """
    tried: list[dict[str, Any]] = []
    left = tries
    for way in ways(config, failed):
        figures = None
        if not way.skipped and left > 0:
            say(f"trying {way.change} ({tries - left + 1} of at most {tries})")
            left -= 1
            try:
                figures = examine(changed(config, way.keys), way.topology)
            except ValueError as e:  # an encoder without remat, for example
                way = way._replace(keys={}, skipped=str(e))
        elif not way.skipped:
            way = way._replace(skipped=f"--tries={tries} are used up")
        tried.append({**way._asdict(), "figures": figures})
    keys = {
        k: v for t in tried if t["topology"] == failed["topology"] for k, v in t["keys"].items()
    }
    if left > 0 and len(keys) > 1 and not any(t["figures"] and t["figures"]["fits"] for t in tried):
        way = Way(_says(keys), keys, failed["topology"])
        say(f"trying {way.change} (the last)")
        figures = examine(changed(config, keys), way.topology)
        tried.append({**way._asdict(), "figures": figures})
    return tried


def changed(config: ConfigDict, keys: dict[str, Any]) -> ConfigDict:
    """A copy of a config with other values for some keys."""
    config = copy.deepcopy(config)
    config.update_from_flattened_dict(keys)
    return config


def _says(keys: dict[str, Any]) -> str:
    return " ".join(f"--config.{k}={v}" for k, v in keys.items())


def ways(config: ConfigDict, failed: dict[str, Any]) -> Iterator[Way]:
    """All single changes. Their initial sizes follow from how much memory is missing."""
    factor = max(failed["hbm_gib"] / failed["hbm_limit_gib"], 1.0)
    same = failed["topology"]
    yield _larger(config, failed, factor)
    if not config.encoder.remat:
        keys: dict[str, Any] = {"encoder.remat": True}
        yield Way(_says(keys), keys, same)
    yield _micro_batches(config, failed, factor)
    yield _sharded(config, failed)


def _larger(config: ConfigDict, failed: dict[str, Any], factor: float) -> Way:
    """The smallest slice of the generation with enough memory, if the load is spread evenly."""
    kind, shape = parse(failed["topology"])
    rows = config.batch_size // config.optimizer.accumulate
    if kind in SLICES:
        larger = [(slice_devices(kind, s), f"{kind}:{s}") for s in SLICES[kind]]
    else:
        larger = [(int(shape) * 2**i, f"{kind}:{int(shape) * 2**i}") for i in range(1, 4)]
    for devices, name in sorted(larger):
        enough = devices > failed["devices"] and devices >= factor * failed["devices"]
        if enough and rows % devices == 0:
            return Way(f"--topology={name}", {}, name)
    return Way("a larger pod", {}, "", f"none of {kind} divides batch {rows} and is large enough")


def _micro_batches(config: ConfigDict, failed: dict[str, Any], factor: float) -> Way:
    """A power of two of micro-batches, the factor by which temporary memory is too large."""
    state = failed["hbm_gib"] - failed["memory_gib"]["temporary"]
    room = failed["hbm_limit_gib"] - state
    wanted = failed["memory_gib"]["temporary"] / room if room > 0 else factor
    parts = 2
    while parts < wanted:
        parts *= 2
    accumulate = parts * config.optimizer.accumulate
    keys = {"optimizer.accumulate": accumulate}
    if config.batch_size % (accumulate * failed["devices"]):
        return Way(
            _says(keys), {}, "", f"batch {config.batch_size} does not split evenly on every device"
        )
    return Way(_says(keys), keys, failed["topology"])


def _sharded(config: ConfigDict, failed: dict[str, Any]) -> Way:
    """The state sharded over up to 8 devices; only if the state is what is too large."""
    shares = min(8, failed["devices"])
    keys = {"mesh.fsdp": shares}
    state = failed["state_gib"]
    lacks = failed["hbm_gib"] - failed["hbm_limit_gib"]
    if config.mesh.fsdp > 1 or shares == 1 or failed["devices"] % shares:
        return Way(_says(keys), {}, "", "the state is sharded already, or cannot be")
    if state * (1 - 1 / shares) < lacks:
        why = f"the whole state is {state:.2f} GiB, but {lacks:.2f} GiB are missing"
        return Way(_says(keys), keys, "", why)
    return Way(_says(keys), keys, failed["topology"])
