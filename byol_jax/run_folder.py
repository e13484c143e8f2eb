"""The folder of a run: where the encoder is in its checkpoints, and how it is read back.

An export gives the same, without the run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from byol_jax import log
from byol_jax.checkpoint import Checkpoints
from byol_jax.config_file import load_config
from byol_jax.convert.classifier import with_first_layer
from byol_jax.convert.info import EncoderInfo, build_encoder, check_arrays, info_from_json
from byol_jax.convert.load import read_encoder
from byol_jax.core import Encoder, Method, Tree
from byol_jax.data.source import counted
from byol_jax.events import read_events
from byol_jax.untrusted import one_error


def encoder_location(method: Method, params: Tree, extra: Tree) -> dict[str, str | list[str]]:
    """Where in a checkpoint the online encoder is, found through the method itself.

    Returns:
      {"params": "params/encoder/", "stats": ...}; "" for a part that has no arrays, a list for one
      that is in several places.
    """

    def names(prefix: str, tree: Tree) -> Tree:
        def name(path: Any, _: Any) -> str:
            return f"{prefix}/{jax.tree_util.keystr(path, simple=True, separator='/')}"

        return jax.tree_util.tree_map_with_path(name, tree)

    found = method.encoder(names("params", params), names("extra", extra))
    location: dict[str, str | list[str]] = {}
    for part, tree in zip(("params", "stats"), found, strict=True):
        leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
        places = {
            name.removesuffix(jax.tree_util.keystr(path, simple=True, separator="/"))
            for path, name in leaves
        }
        location[part] = sorted(places) if len(places) > 1 else "".join(places)
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


@contextlib.contextmanager
def same_precision() -> Iterator[None]:
    """Leave `jax_enable_x64` as it was: a run of float64 must not change what comes after it."""
    before = jax.config.values["jax_enable_x64"]
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


def data_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two `Source.fingerprint`s, in words with both values; "" if nothing."""
    found = []
    if before.get("examples") != now["examples"]:
        then = before.get("examples")
        images = counted(then, "image") if isinstance(then, int) else f"{then} images"
        found.append(f"{images} then, {now['examples']:,} now")
    old, new = before.get("classes"), now["classes"]
    if isinstance(old, list) and isinstance(new, list) and old != new:
        gone, come = [c for c in old if c not in new], [c for c in new if c not in old]
        if len(old) != len(new):
            found.append(f"{counted(len(old), 'class', 'classes')} then, {len(new):,} now")
        found += [f"class {c!r} is missing" for c in gone[:3]]
        found += [f"class {c!r} is new" for c in come[:3]]
        if not gone and not come:
            found.append(f"classes in another order: {old[:3]} then, {new[:3]} now")
    elif old != new:
        found.append(f"{_classes(old)} then, {_count(new)} now")
    if before.get("digest") and now["digest"] and before["digest"] != now["digest"] and not found:
        digests = f"digest {before['digest']} then, {now['digest']} now"
        found.append(f"as many images, but others or under other names: {digests}")
    return "; ".join(found)


def _classes(classes: Any) -> str:
    count = _count(classes)
    return counted(count, "class", "classes") if isinstance(count, int) else f"{count} classes"


def _count(classes: Any) -> Any:
    return len(classes) if isinstance(classes, list) else classes


def check_data(workdir: Path, meta: Mapping[str, Any], now: Mapping[str, Any], steps: int) -> None:
    """Refuse to go on with a run on other data, or under another schedule.

    Args:
      workdir: folder of the run.
      meta: of the checkpoint to go on from, with its `step`.
      now: fingerprint of the training data.
      steps: total of the run, as these data make it.

    Raises:
      ValueError: with both values.
    """
    before = meta.get("data")
    if isinstance(before, Mapping):
        changes, planned = data_changes(before, now), meta.get("total_steps")
    else:
        log.say(
            "the checkpoint is of a version that kept no record of its data: take care that they "
            "are the same"
        )
        starts = [e for e in read_events(workdir) if e["event"] == "start"]
        changes, planned = "", starts[-1].get("total_steps") if starts else None
    if changes:
        raise ValueError(
            f"The training data of {workdir} changed since it began: {changes}. Its schedule, "
            "order and labels belong to the data it began with: put them back, or start a new run "
            "in another --workdir (init_from starts it from an export of this one's encoder)."
        )
    if (planned is not None and planned != steps) or meta["step"] > steps:
        was = f"of {planned} steps" if planned is not None else f"at step {meta['step']}"
        raise ValueError(
            f"The run in {workdir} was {was}, and would now be of {steps}: its data, or the number "
            "of processes that read them, changed. Put them back, or start a new run in another "
            "--workdir."
        )


class RunEncoder(NamedTuple):
    """The online encoder of a run's newest checkpoint, or of an export, with all it needs.

    config: of the run; of an export, what it is to be judged by. data: fingerprint of
    what it was trained on; {} if not known. projector: (params, stats) of a run's, if it was asked
    for and there is one.
    """

    config: ConfigDict
    encoder: Encoder
    params: Tree
    stats: Tree
    info: EncoderInfo
    data: Mapping[str, Any]
    projector: tuple[Tree, Tree] | None = None


def read_run(workdir: Path, *, from_head: bool = False, projector: bool = False) -> RunEncoder:
    """Read the encoder of a run folder from its checkpoint alone, whatever trained it.

    Args:
      workdir: folder of the run.
      from_head: the encoder goes on through the first layer of the method's projector, its ReLU
        included, as SimCLR v2 fine-tunes it.
      projector: read the method's projector too.

    Raises:
      ValueError: the folder is not a run, or has no checkpoint yet; or, for `from_head`, the
        projector has no layer but the last.
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
    with one_error(unreadable):
        places = (location["params"], location["stats"])
        trees = [_arrays(saved, step, place) for place in places]
        wanted = from_head or projector
        head = [nested(saved.arrays(step, place)) for place in _PROJECTOR] if wanted else []
    saved.close()
    if encoder.config["dtype"] == "float64":
        jax.config.update("jax_enable_x64", True)
    else:
        check_arrays(encoder, trees[0], trees[1], where)
    data = meta.get("data")
    known = data if isinstance(data, Mapping) else {}
    own = (head[0], head[1]) if projector and head[0] else None
    run = RunEncoder(config, encoder, trees[0], trees[1], info, known, own)
    return _from_head(run, *head) if from_head else run


def read_export(folder: Path, config: ConfigDict) -> RunEncoder:
    """Read the encoder of an export (orbax, timm), to be judged as that of a run is.

    Args:
      folder: of the export.
      config: resolved: the data, and how to judge.

    Raises:
      ValueError: the folder is no export, or a damaged one.
    """
    encoder, params, stats, info = read_encoder(folder)
    info = dataclasses.replace(info, method=info.method or "encoder")
    return RunEncoder(config, encoder, params, stats, info, {})


def _arrays(saved: Checkpoints, step: int, place: str | list[str]) -> Tree:
    """The arrays of a checkpoint in a place, or in several; {} if there is none."""
    places = [place] if isinstance(place, str) else place
    found: dict[str, Any] = {}
    for name in filter(None, places):
        found |= nested(saved.arrays(step, name))
    return found


_PROJECTOR = ("params/projector/", "extra/stats/projector/")


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{"a/b": x} as {"a": {"b": x}}."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *folders, leaf = name.split("/")
        functools.reduce(lambda t, k: t.setdefault(k, {}), folders, tree)[leaf] = value
    return tree


def _from_head(run: RunEncoder, params: Tree, stats: Tree) -> RunEncoder:
    """The run with the first layer of a projector as the last of its encoder.

    Raises:
      ValueError: the projector has no hidden layer.
    """
    if "fc2" not in params:
        found = "a linear one" if params else "none"
        raise ValueError(
            "eval.finetune_from is 'head1', the first layer of a projector of two layers or more, "
            f"but {run.info.method!r} of this run has {found}; set eval.finetune_from=encoder."
        )
    own, own_stats = ({k: v for k, v in t.items() if k in ("fc1", "bn1")} for t in (params, stats))
    return run._replace(
        encoder=with_first_layer(run.encoder, params),
        params={"encoder": run.params, "head": own},
        stats={"encoder": run.stats, "head": own_stats},
    )
