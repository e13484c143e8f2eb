"""The folder of a run: where the encoder is in its checkpoints, and how it is read back."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from byol_jax import log
from byol_jax.checkpoint import Checkpoints
from byol_jax.config_file import load_config
from byol_jax.convert.info import EncoderInfo, build_encoder, check_arrays, info_from_json
from byol_jax.core import Encoder, Method, Tree
from byol_jax.untrusted import one_error


def encoder_location(method: Method, params: Tree, extra: Tree) -> dict[str, str]:
    """Where in a checkpoint the online encoder is, found through the method itself."""

    def names(prefix: str, tree: Tree) -> Tree:
        def name(path: Any, _: Any) -> str:
            return f"{prefix}/{jax.tree_util.keystr(path, simple=True, separator='/')}"

        return jax.tree_util.tree_map_with_path(name, tree)

    found = method.encoder(names("params", params), names("extra", extra))
    location = {}
    for part, tree in zip(("params", "stats"), found, strict=True):
        path, name = jax.tree_util.tree_flatten_with_path(tree)[0][0]
        own = jax.tree_util.keystr(path, simple=True, separator="/")
        location[part] = name.removesuffix(own)
    return location


def keep_compiled(workdir: Path) -> None:
    """Cache what XLA compiles next to the run folder, so that a second start need not compile.

    JAX's own settings take precedence: JAX_COMPILATION_CACHE_DIR names another folder, and
    JAX_ENABLE_COMPILATION_CACHE=false turns it off.
    """
    if not jax.config.values["jax_compilation_cache_dir"]:
        folder = workdir.absolute().parent / ".jax_cache"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


class RunEncoder(NamedTuple):
    """The online encoder of a run's newest checkpoint, with all it needs."""

    config: ConfigDict
    encoder: Encoder
    params: Tree
    stats: Tree
    info: EncoderInfo


def read_run(workdir: Path) -> RunEncoder:
    """Read the encoder of a run folder from its checkpoint alone, whatever trained it.

    Raises:
      ValueError: the folder is not a run, or has no checkpoint yet.
    """
    config = load_config(workdir / "config.json")
    if not (workdir / "checkpoints").is_dir():
        raise ValueError(f"{workdir} has no checkpoints yet; train it first.")
    with one_error(f"The checkpoints of {workdir} cannot be read ({{}}); restore their files."):
        saved = Checkpoints(workdir)
        step, wrong = saved.newest_good()
    if step is None and wrong:
        raise ValueError(f"No checkpoint in {workdir} is good: {wrong[0]}. Restore its files.")
    if step is None:
        raise ValueError(f"{workdir} has no checkpoints yet; train it first.")
    for problem in wrong:
        log.say(f"WARNING: {problem}; using an older one")
    where = f"Checkpoint {step} in {workdir}"
    unreadable = f"{where} cannot be read ({{}}); restore its files, or remove it."
    with one_error(unreadable):
        meta = saved.meta(step)
        described, location = meta["encoder"], dict(meta["location"])
    info = info_from_json(described, where)
    encoder = build_encoder(info.encoder, where)
    trees: list[dict[str, Any]] = []
    with one_error(unreadable):
        for part in ("params", "stats"):
            tree: dict[str, Any] = {}
            for name, array in saved.arrays(step, location[part]).items():
                *folders, leaf = name.split("/")
                functools.reduce(lambda t, k: t.setdefault(k, {}), folders, tree)[leaf] = array
            trees.append(tree)
    saved.close()
    if encoder.config["dtype"] == "float64":
        jax.config.update("jax_enable_x64", True)
    else:
        check_arrays(encoder, trees[0], trees[1], where)
    return RunEncoder(config, encoder, trees[0], trees[1], info)
