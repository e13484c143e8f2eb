"""config.json: the config of a run, as stored in the run folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from byol_jax.config import all_keys, default_config, flatten, group_of, nearest, put
from byol_jax.untrusted import read_json
from byol_jax.writing import to_json

_OVERRIDES = "views.overrides."


def save_config(config: ConfigDict, path: Path) -> None:
    """Write the resolved config as JSON, atomically.

    Raises:
      ValueError: a number is not finite, so the file could not be read back.
    """
    for key, value in flatten(config).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{key} is {value}; expected a finite number.")
    temporary = path.with_suffix(".tmp")
    temporary.write_text(to_json(config.to_dict(), 2, sort_keys=True) + "\n")
    temporary.replace(path)


def load_config(path: Path) -> ConfigDict:
    """Read a config back from JSON; keys of earlier versions are renamed.

    Returns:
      The config with all groups; those missing from the file have their defaults, but
      `eval.antialias` is false: runs whose file does not have it evaluated so.

    Raises:
      ValueError: the file does not exist or is not JSON, a key is unknown, or a key of an
        earlier version has no equivalent now.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist; expected the folder of a run made by train.")
    try:
        values = read_json(path)
    except (OSError, ValueError) as e:
        raise ValueError(f"{path} is not JSON ({e}); restore it or start a new run.") from e
    if not isinstance(values, dict):
        raise ValueError(
            f"{path} is not a config but {type(values).__name__}; restore it or start a new run."
        )
    config = default_config()
    known = flatten(config)
    put(config, "eval.antialias", False)  # of files that do not have the key
    for key, value in _renamed(flatten(values), path).items():
        override = key.removeprefix(_OVERRIDES) if key not in known else ""
        if key not in known and (
            override == key or not override.isidentifier() or override[0] == "_"
        ):
            raise ValueError(
                f"{path}: {key[:80]} cannot be {repr(value)[:80]}; unknown config key {key[:80]}: "
                f"{nearest(key, known)}"
            )
        if not _fits(known.get(key), value):
            kind = type(known[key]).__name__ if key in known else "number, text or list of them"
            raise ValueError(f"{path}: {key} cannot be {repr(value)[:80]}; expected a {kind}.")
        try:
            put(config, key, _tuples(value))
        except (TypeError, KeyError, ValueError, AttributeError) as e:
            raise ValueError(f"{path}: {key} cannot be {repr(value)[:80]} ({e}).") from e
    return config


# Keys of version 0.1.0 that are now in the group of the choice they belong to.
_MOVED = {
    "method": (
        "hidden", "out", "predictor", "target", "tau", "tau_schedule", "beta", "temperature",
        "stop_gradient", "bn", "head",
    ),
    "optimizer": ("momentum", "nesterov", "eta", "lr_inside"),
    "encoder": ("stem", "zero_init_last", "project_first", "space_to_depth"),
}  # fmt: skip
_RENAMED = {"simclr.head": "simclr.layers", "adamw.momentum": "adamw.b1"}
_LAYERS = {"v1": 2, "v2": 3}  # of what was method.head


def _renamed(flat: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Rename keys of version 0.1.0 to their present names; leave others as they are.

    Raises:
      ValueError: what a key selected is now a method of its own; names that method.
    """
    if flat.get("method.target") is False and flat.get("method.name") == "byol":
        raise ValueError(
            f"{path}: method.target=False is now method.name=siamese, with siamese.predictor and "
            "siamese.stop_gradient; start a new run with them."
        )
    known, found = all_keys(), {}
    for key, value in flat.items():
        group, _, name = key.partition(".")
        if name not in _MOVED.get(group, ()):
            found[key] = value
            continue
        choice = f"{group}.name"
        new = f"{group_of(choice, str(flat.get(choice)))}.{name}"
        new = _RENAMED.get(new, new)
        if new in known:  # else it belonged to another choice than the run's, and had no effect
            found[new] = _LAYERS.get(str(value), value) if name == "head" else value
    return found


def _fits(default: Any, value: Any) -> bool:
    """Whether a JSON value has its default's type; None: any type that an override may have."""
    if isinstance(value, list):
        return (default is None or isinstance(default, list)) and all(_fits(None, x) for x in value)
    if isinstance(value, str) and len(value) > 4096:  # no path is longer, and errors show values
        return False
    if default is None:
        return type(value) in (bool, int, float, str)
    return type(value) in ((int, float) if isinstance(default, float) else (type(default),))


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
