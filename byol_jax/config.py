"""The configuration: groups of keys, the checks on them, and how two configs differ.

`config_table.py` has the keys. Those that belong to one choice (a method, an optimizer, an encoder,
a recipe of views) are in a group of their own: `byol.tau`, `lars.eta`. `default_config` has all
groups; `resolve` keeps those that the config's choices name, and refuses a change in any other.
Only `experiment/` turns values into objects.
"""

from __future__ import annotations

import difflib
import os
from typing import Any

from ml_collections import ConfigDict

from byol_jax.config_table import GROUPS, KEYS, TASKS, Key
from byol_jax.views.spec import check_overrides

# Keys that may differ when a run is resumed: they do not change what is trained.
MAY_CHANGE = (
    "log_every",
    "checkpoint_every",
    "keep",
    "keep_every",
    "evaluate_every",
    "hang_seconds",
    "rollbacks",
    "data.dir",
    "data.max_damaged",
    "data.threads",
    "mesh.fsdp",
    "collapse.",
    "eval.",
)

PATHS = ("data.dir", "init_from", "distill.teacher")
"""Keys that name a file or folder; a ~ at their beginning stands for the home folder."""

_OF_RESIDENT = ("eval.resize", "eval.antialias")
"""Of those, the keys that with resident data shape the squares that training crops are cut from."""

_FREE = "views.overrides."
"""Prefix of keys that are fields of `views.spec.ViewSpec`, for every view."""


def all_keys() -> dict[str, Key]:
    """Every key, including those of all groups."""
    found = dict(KEYS)
    for groups in GROUPS.values():
        for group, keys in groups.items():
            found |= {f"{group}.{name}": key for name, key in keys.items()}
    return found


def default_config() -> ConfigDict:
    """All keys of all groups with their defaults."""
    config = ConfigDict()
    for key, row in all_keys().items():
        put(config, key, row.default)
    config.views.overrides = ConfigDict()  # fields of views.spec.ViewSpec, for every view
    return config


def put(config: ConfigDict, key: str, value: Any) -> None:
    """Set a key given with its groups; missing groups are created."""
    *groups, name = key.split(".")
    for group in groups:
        if group not in config:
            config[group] = ConfigDict()
        config = config[group]
    config[name] = value


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """The config as {"group.key": value}, tuples as lists, in the config's key order."""
    flat: dict[str, Any] = {}
    for key in sorted(config):
        value = config[key]
        if isinstance(value, ConfigDict | dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def nearest(key: str, keys: Any) -> str:
    """A hint that names the most similar of `keys`, or the keys there are."""
    return _close(key, keys) or "the keys are listed in byol_jax/config_table.py."


def _close(word: str, words: Any) -> str:
    # Compare whole keys first, then last parts: optimizer.leraning_rate, batchsize. A correct last
    # part says more than a correct group: optimizer.momentum.
    close = difflib.get_close_matches(word, list(words), 1, 0.85)
    tail = word.rsplit(".", 1)[-1]
    same = [k for k in words if "." in word and "." in k and k.rsplit(".", 1)[-1] == tail]
    if same and not close:
        return f"did you mean {' or '.join(same)}?"
    close = close or difflib.get_close_matches(word, list(words), 1, 0.5)
    if not close:
        tails = {k.rsplit(".", 1)[-1]: k for k in words}
        close = [tails[m] for m in difflib.get_close_matches(tail, list(tails), 1, 0.5)]
    return f"did you mean {close[0]}?" if close else ""


def group_of(choice: str, name: str) -> str:
    """The group of keys that belongs to a choice: ("encoder.name", "resnet50") -> "resnet"."""
    families = ("resnet", "vit") if choice == "encoder.name" else ()
    return next((family for family in families if name.startswith(family)), name)


def names_in(text: str) -> tuple[str, ...]:
    """The names in a text like "relative,colorization"."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def resolve(config: ConfigDict) -> ConfigDict:
    """The config with only the groups that its choices name, all its values checked.

    Args:
      config: complete, or already resolved.

    Returns:
      A copy.

    Raises:
      ValueError: a key is unknown or missing, a value is not allowed, or a key was changed in a
        group that is not in use.
    """
    config, known = ConfigDict(config.to_dict()), all_keys()
    flat = flatten(config)
    unknown = sorted(k for k in flat.keys() - known.keys() if not k.startswith(_FREE))
    if unknown:
        raise ValueError(f"Unknown config key {unknown[0]}: {nearest(unknown[0], known)}")
    names = {choice: group_of(choice, flat.get(choice, "")) for choice in GROUPS}
    # A recipe of views may have the name of a method: each choice has its own groups.
    used = {name for choice, name in names.items() if name in GROUPS[choice]}
    for group in sorted(used):  # a method made of others
        used |= set(names_in(str(flat.get(f"{group}.tasks", ""))))
    unused = {group: choice for choice, groups in GROUPS.items() for group in groups}
    for key, row in known.items():
        group = key.split(".")[0]
        if group in unused and group not in used:
            if key in flat and not _same(flat[key], row.default):
                choice = unused[group]
                users = [n for n in KEYS[choice].choices if group_of(choice, n) == group]
                raise ValueError(
                    f"{key} has no effect: {choice} is {flat[choice]!r}; leave it at "
                    f"{row.default!r}, or set {choice}={users[0]}."
                )
        elif key not in flat:
            raise ValueError(f"The config has no key {key}; start from default_config().")
        elif not row.allows(flat[key]):
            hint = _close(flat[key], row.choices) if row.choices else ""
            end = f"; {hint}" if hint else "."
            expected = "at least one number" if flat[key] == [] else row.expected()
            raise ValueError(f"{key} is {flat[key]!r}; expected {expected}{end}")
        elif isinstance(row.default, tuple):  # pairs typed as lists are pairs
            put(config, key, tuple(tuple(v) if isinstance(v, list) else v for v in flat[key]))
    for group in unused.keys() - used:
        if group in config:
            del config[group]
    _check_together(config)
    for key in PATHS:
        if key.split(".")[0] in config:  # a group that is in use
            put(config, key, os.path.expanduser(flat[key]))
    return config


def _same(value: Any, default: Any) -> bool:
    return value == (list(default) if isinstance(default, tuple) else default)


def _check_together(config: ConfigDict) -> None:
    """Check what depends on more than one key, and the fields of the views."""
    check_overrides(config.views.overrides.to_dict())
    if config.batch_size % config.optimizer.accumulate:
        raise ValueError(
            f"batch_size {config.batch_size} cannot be divided into optimizer.accumulate "
            f"{config.optimizer.accumulate} micro-batches."
        )
    if config.data.placement == "resident" and config.views.placement != "device":
        raise ValueError(
            "data.placement is 'resident', but views.placement is 'host'; images kept on the "
            "device are augmented there: set views.placement to device."
        )
    name = config.method.name
    own = config.get(name, ConfigDict())
    tasks = names_in(own.get("tasks", ""))
    if "tasks" in own:
        _check_tasks(name, own, tasks)
    rows = config.batch_size // config.optimizer.accumulate
    for group in (name, *tasks):
        groups = config.get(group, ConfigDict()).get("bn_groups", 1)
        if rows % groups:
            raise ValueError(
                f"{group}.bn_groups is {groups}; expected a divisor of the {rows} rows of a "
                "(micro-)batch."
            )


def _check_tasks(name: str, own: ConfigDict, tasks: tuple[str, ...]) -> None:
    """Check the tasks that a method is made of."""
    wrong = [task for task in tasks if task not in TASKS]
    if wrong or len(tasks) < 2 or len(set(tasks)) < len(tasks):
        hint = _close(wrong[0], TASKS) if wrong else ""
        raise ValueError(
            f"{name}.tasks is {own.tasks!r}; expected two or more of {', '.join(TASKS)}, each "
            f"once, with commas between them{'; ' + hint if hint else '.'}"
        )
    if len(own.turns) not in (1, len(tasks)):
        raise ValueError(
            f"{name}.turns is {list(own.turns)}; expected one number of steps for all, or one for "
            f"each of the {len(tasks)} tasks {', '.join(tasks)}."
        )


def _lists(value: Any) -> Any:
    """JSON makes lists of tuples, those inside tuples too."""
    return [_lists(v) for v in value] if isinstance(value, tuple | list) else value


def difference(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Lines "key: old -> new" for keys that differ and may not change on resume."""
    missing = object()
    lines = []
    resident = new.get("data.placement") == "resident"
    for key in sorted(old.keys() | new.keys()):
        before, after = _lists(old.get(key, missing)), _lists(new.get(key, missing))
        fixed = not any(key == k or (k.endswith(".") and key.startswith(k)) for k in MAY_CHANGE)
        fixed = fixed or (resident and key in _OF_RESIDENT)
        if before != after and fixed:
            shown = ["(none)" if v is missing else repr(v) for v in (before, after)]
            lines.append(f"  {key}: {shown[0]} -> {shown[1]}")
    return lines
