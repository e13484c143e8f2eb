"""Evaluate the encoder of a run or of an export, and an untrained one for comparison.

python -m byol_jax.evaluate --workdir DIR --protocol NAME [--out DIR2] [--save DIR3] \\
    [--config.KEY=VALUE ...]
python -m byol_jax.evaluate --encoder EXPORT --protocol NAME --out DIR2 \\
    --config.data.name=NAME [--config.data.dir=DIR] [--config.KEY=VALUE ...]

docs/evaluation.md has the protocols.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict

from byol_jax import cli, log
from byol_jax.config import default_config, nearest, resolve
from byol_jax.config_file import load_config
from byol_jax.convert.classifier import FILE, save_classifier
from byol_jax.experiment.cache import Cache
from byol_jax.experiment.dense import DENSE, DenseData, open_dense_data
from byol_jax.experiment.evaluation import EvalData, open_eval_data
from byol_jax.experiment.protocols import NAMES, PROTOCOLS, SEVERAL, SUITE, UNLABELLED, check_reads
from byol_jax.experiment.suite import open_suite, run_suite
from byol_jax.faults import Damage
from byol_jax.processes import check_devices
from byol_jax.report.neighbours import draw_neighbours
from byol_jax.report.patches import draw_patches
from byol_jax.run_folder import RunEncoder, keep_compiled, read_export, read_run, same_precision
from byol_jax.writing import check_writable, write_json

# What the rows of a result are by.
_BY = {"fewshot": "labels per class", "lowshot": "labels per class", "stages": "percent by stage"}

# Figures that are no percentages -> their digits.
_DIGITS = {"rms": 3, "rel": 3}
_WIDTH = 12  # of a column


def table(protocol: str, result: dict[str, Any]) -> str:
    """The result as a table in plain text, accuracies in percent, depths in metres."""
    if "rows" in result:
        rows, title = result["rows"], _BY.get(protocol, protocol)
        columns = [c for c in next(iter(rows.values())) if not c.endswith("_std")]
        width = max(20, *(len(name) + 1 for name in rows))
        lines = [title.ljust(width) + "".join(c.rjust(_WIDTH) for c in columns)]
        for name, row in rows.items():
            shown = (
                f"{row[c]:{_WIDTH}.{_DIGITS.get(c, 1)}f}" if c in row else "-".rjust(_WIDTH)
                for c in columns
            )
            lines.append(name.ljust(width) + "".join(shown))
        if "summary" in result:
            skipped = ", ".join(f"{name} ({why})" for name, why in result["missing"].items())
            lines.append(f"{result['summary']}" + (f"; left out: {skipped}" if skipped else ""))
        if result.get("other_splits"):
            lines.append(f"not the recorded split: {', '.join(result['other_splits'])}")
        return "\n".join(lines)
    columns = [c for c in ("top1", "top5") if c in result]
    lines = [protocol.ljust(20) + "".join(c.rjust(9) for c in columns)]
    for name, prefix in (("untrained encoder", "untrained_"), (result["method"], "")):
        lines.append(name.ljust(20) + "".join(f"{result[prefix + c]:9.2f}" for c in columns))
    return "\n".join(lines)


def config_for_export() -> ConfigDict:
    """What an export is judged by unless told otherwise: the defaults, and no data."""
    config = default_config()
    config.data.name = ""
    return config


def evaluate(
    workdir: str | Path | None,
    protocol: str,
    overrides: ConfigDict | None = None,
    out: str | Path | None = None,
    save: str | Path | None = None,
    *,
    encoder: str | Path | None = None,
) -> dict[str, Any]:
    """Run a protocol on a run's newest checkpoint, or on an export; writes PROTOCOL.json.

    Args:
      workdir: folder of the run; None for an export.
      protocol: one of `NAMES`.
      overrides: the run's config, or `config_for_export`, with other values of what the protocol
        reads; None: the run's own. An export needs the data at least.
      out: folder of the result; None: `eval` in the folder of the run. An export needs it.
      save: folder to make, for the classifier that linear or finetune trains (`distill.teacher`).
      encoder: folder of an export (orbax, timm), in place of a run.

    Returns:
      What was written: `top1` and `untrained_top1` in percent, and what they were measured on:
      `train_images` and `test_images` are those with a label that could be read, `damaged` how many
      could not be read.

    Raises:
      ValueError: no such protocol, run or export, a key that the protocol does not read, data
        without labels, or no place for the result or the classifier: before anything is computed.
      TrainingError: more images than `data.max_damaged` cannot be read.
      OSError: the result, which is then printed, could not be written after all.
    """
    if protocol not in NAMES:
        raise ValueError(
            f"--protocol is {protocol!r}; expected one of {', '.join(NAMES)}: "
            f"{nearest(protocol, NAMES)}"
        )
    source = _one_source(workdir, encoder, out)
    folder = None if save is None else _new_folder(save, protocol)
    own = config_for_export() if encoder else load_config(source / "config.json")
    check_reads(protocol, own, own if overrides is None else overrides)
    config = resolve(own if overrides is None else overrides)
    place = (source / "eval" if out is None else Path(out).expanduser()) / f"{protocol}.json"
    keep_compiled(source if out is None else place.parent)
    check_devices()
    with same_precision():
        run = _read(source, bool(encoder), protocol, config)
        check_writable(place, "--out")
        # An export is left as it is; of a run, all results can use the same features.
        cache = _cache(config, source / "eval" if encoder is None else place.parent)
        judged = _open(run, protocol, place, folder is not None, cache)
        log.say(f"{protocol} of step {run.info.step} on {judged.what}")
        part = place.with_name(f"{place.name}.part")

        def headed(found: dict[str, Any]) -> dict[str, Any]:
            return {
                "protocol": protocol,
                "method": run.info.method,
                "step": run.info.step,
                "data": judged.name,
                "damaged": sum(len(d.seen) for d in judged.damage),
            } | found

        with log.busy(protocol):
            result = headed(judged.run(lambda found: _keep(part, headed(found))))
    try:
        write_json(place, result)
    except OSError as e:
        print(table(protocol, result), flush=True)
        reason = e.strerror or str(e)
        raise OSError(f"The result above could not be written to {place} ({reason}).") from e
    part.unlink(missing_ok=True)
    if folder is not None:
        params, stats, linear_layer = judged.kept[0]
        save_classifier(folder, params, stats, linear_layer, run.info)
        log.say(f"saved the classifier to {folder}")
    return result


def _keep(part: Path, result: dict[str, Any]) -> None:
    """Write what there is so far of a result, beside its place."""
    try:
        write_json(part, result)
    except OSError as e:  # there may be room at the end
        log.say(f"WARNING: {part} could not be written ({e.strerror or e})")


class _Judged(NamedTuple):
    """What a protocol reads, what runs it, and the classifiers that it has trained.

    name: of the data. what: the same in words. damage: counts of what could not be read. run: is
    given what writes a result that is not yet complete.
    """

    name: str
    what: str
    damage: tuple[Damage, ...]
    run: Callable[[Callable[[dict[str, Any]], Any]], dict[str, Any]]
    kept: list[Any]


def _cache(config: ConfigDict, folder: Path) -> Cache | None:
    most = int(config.eval.cache * 2**30)
    return Cache(folder / "features", most) if most else None


def _open(run: RunEncoder, protocol: str, place: Path, keeps: bool, cache: Cache | None) -> _Judged:
    """Open the data; `keeps`: whether a classifier is to be kept. cache: of features."""
    kept: list[Any] = []
    name = run.config.data.name
    if protocol == SUITE:
        suite = open_suite(run, cache)
        what = suite.summary()
        return _Judged(what, what, suite.damage, lambda save: run_suite(run, suite, save), kept)
    if protocol in DENSE:
        pairs = open_dense_data(run, protocol)
        what = _counts(pairs, name)
        return _Judged(name, what, pairs.damage, lambda _: DENSE[protocol](run, pairs), kept)
    data = open_eval_data(run, protocol not in UNLABELLED, several=protocol in SEVERAL)
    data = dataclasses.replace(data, cache=cache)
    if keeps:
        data = dataclasses.replace(data, keep=lambda *arrays: kept.append(arrays))
    draw = _draw(protocol, data)
    if draw is not None:
        show = functools.partial(_show, draw, place.with_suffix(".png"))
        data = dataclasses.replace(data, show=show)
    what = _counts(data, name)
    return _Judged(name, what, data.damage, lambda _: PROTOCOLS[protocol](run, data), kept)


def _counts(data: EvalData | DenseData, name: str) -> str:
    return (
        f"{data.train.num_examples:,} training and {data.test.num_examples:,} test images of {name}"
    )


def _one_source(workdir: Any, encoder: Any, out: Any) -> Path:
    """The folder of the run or export.

    Raises:
      ValueError: neither or both are given, or an export without a place for the result.
    """
    if bool(workdir) == bool(encoder):
        found = "both given" if workdir else "missing"
        raise ValueError(
            f"--workdir and --encoder are {found}; give --workdir, the folder of a run, or "
            "--encoder, the folder of an export."
        )
    if encoder and out is None:
        raise ValueError(
            "--out is missing; an export is left as it is: name a folder for the result."
        )
    return Path(workdir or encoder).expanduser()


def _read(source: Path, export: bool, protocol: str, config: ConfigDict) -> RunEncoder:
    """The encoder, with the config to judge it by.

    Raises:
      ValueError: it cannot be read, or lacks what the config asks for.
    """
    from_head = protocol == "finetune" and config.eval.finetune_from == "head1"
    if not export:
        run = read_run(source, from_head=from_head, projector=protocol == "attributes")
        return run._replace(config=config)
    if from_head:
        raise ValueError(
            "eval.finetune_from is 'head1', but an export has no projector; fine-tune from the run "
            "(--workdir), or set eval.finetune_from=encoder."
        )
    if not config.data.name and protocol != SUITE:
        raise ValueError(
            "data.name is missing: an export has no data of its own; name those to judge it on: "
            "--config.data.name (digits, npz, folder or a tfds name) and --config.data.dir."
        )
    return read_export(source, config)


def _draw(protocol: str, data: EvalData) -> Callable[..., None] | None:
    """(path, what there is to draw) -> nothing; None if a protocol draws nothing of such data."""
    if protocol == "patches":
        return draw_patches
    if protocol == "retrieval" and not data.test.is_stream:
        return lambda path, found, nearest: draw_neighbours(
            path, found, nearest, data.test, data.spec
        )
    return None


def _show(draw: Callable[..., None], path: Path, *found: Any) -> None:
    try:
        draw(path, *found)
    except OSError as e:  # the figures are worth more than the picture
        log.say(f"WARNING: {path} could not be written ({e.strerror or e})")
    else:
        log.say(f"picture: {path}")


def _new_folder(save: str | Path, protocol: str) -> Path:
    """The folder for a classifier.

    Raises:
      ValueError: the protocol trains none, or the folder has something in it.
    """
    folder = Path(save).expanduser()
    if protocol not in ("linear", "finetune"):
        raise ValueError(
            f"--save keeps a classifier, and --protocol={protocol} trains none; use finetune or "
            "linear."
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"--save is {folder}, which exists already, and nothing is overwritten; name another "
            "folder or remove it."
        )
    check_writable(folder / FILE, "--save")
    return folder


def main() -> int:
    """The command line."""
    f = flags.FLAGS
    result = evaluate(
        f.workdir or None,
        f.protocol,
        f.config,
        f.out or None,
        f.save or None,
        encoder=f.encoder or None,
    )
    print(table(f.protocol, result))
    return 0


def _workdir(argv: list[str]) -> str:
    for i, arg in enumerate(argv):
        name, has_value, value = arg.partition("=")
        if name in ("--workdir", "-workdir"):
            return value if has_value else (argv[i + 1] if i + 1 < len(argv) else "")
    return ""


if __name__ == "__main__":
    # The run's own config is the default that --config.KEY overrides; main refuses a folder that is
    # not a run.
    workdir = _workdir(sys.argv)
    try:
        start = load_config(Path(workdir).expanduser() / "config.json") if workdir else None
    except ValueError:
        start = None
    flags.DEFINE_string("workdir", "", "folder of the run")
    flags.DEFINE_string("encoder", "", "folder of an export, in place of a run")
    flags.DEFINE_string("protocol", "knn", ", ".join(NAMES))
    flags.DEFINE_string("out", "", "folder of the result; eval in the run folder by default")
    flags.DEFINE_string("save", "", "folder to make for the classifier of linear or finetune")
    flags.DEFINE_bool("debug", False, "show tracebacks and the libraries' logs")
    cli.run(main, config=start or config_for_export())
