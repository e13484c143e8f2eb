"""Evaluate the encoder of a run, and an untrained one for comparison.

python -m byol_jax.evaluate --workdir DIR --protocol knn|linear|finetune|fewshot \\
    [--out DIR2] [--save DIR3] [--config.KEY=VALUE ...]
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from byol_jax import cli, log
from byol_jax.config import default_config, nearest, resolve
from byol_jax.config_file import load_config
from byol_jax.convert.classifier import FILE, save_classifier
from byol_jax.experiment.evaluation import open_eval_data
from byol_jax.experiment.protocols import PROTOCOLS, check_reads
from byol_jax.processes import check_devices
from byol_jax.run_folder import keep_compiled, read_run, same_precision
from byol_jax.writing import check_writable, write_json


def table(protocol: str, result: dict[str, Any]) -> str:
    """The result as a table in plain text, accuracies in percent."""
    if protocol == "fewshot":
        rows = result["rows"]
        columns = [c for c in next(iter(rows.values())) if not c.endswith("_std")]
        lines = ["labels per class".ljust(20) + "".join(c.rjust(9) for c in columns)]
        for name, row in rows.items():
            lines.append(name.ljust(20) + "".join(f"{row[c]:9.1f}" for c in columns))
        return "\n".join(lines)
    columns = [c for c in ("top1", "top5") if c in result]
    lines = [protocol.ljust(20) + "".join(c.rjust(9) for c in columns)]
    for name, prefix in (("untrained encoder", "untrained_"), (result["method"], "")):
        lines.append(name.ljust(20) + "".join(f"{result[prefix + c]:9.2f}" for c in columns))
    return "\n".join(lines)


def evaluate(
    workdir: str | Path,
    protocol: str,
    overrides: ConfigDict | None = None,
    out: str | Path | None = None,
    save: str | Path | None = None,
) -> dict[str, Any]:
    """Run a protocol on a run's newest checkpoint; writes PROTOCOL.json.

    Args:
      workdir: folder of the run.
      protocol: knn, linear, finetune or fewshot.
      overrides: the run's config with other values of what the protocol reads; None: the run's own.
      out: folder of the result; None: `eval` in the folder of the run.
      save: folder to make, for the classifier that linear or finetune trains (`distill.teacher`).

    Returns:
      What was written: `top1` and `untrained_top1` in percent, and what they were measured on:
      `train_images` and `test_images` are those with a label that could be read, `damaged` how many
      could not be read.

    Raises:
      ValueError: no such protocol or run, a key that the protocol does not read, data without
        labels, or no place for the result or the classifier: before anything is computed.
      TrainingError: more images than `data.max_damaged` cannot be read.
      OSError: the result, which is then printed, could not be written after all.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(
            f"--protocol is {protocol!r}; expected one of {', '.join(PROTOCOLS)}: "
            f"{nearest(protocol, PROTOCOLS)}"
        )
    folder = None if save is None else _new_folder(save, protocol)
    workdir = Path(workdir).expanduser()
    own = load_config(workdir / "config.json")
    check_reads(protocol, own, own if overrides is None else overrides)
    config = resolve(own if overrides is None else overrides)
    place = (workdir / "eval" if out is None else Path(out).expanduser()) / f"{protocol}.json"
    keep_compiled(workdir)
    check_devices()
    with same_precision():
        from_head = protocol == "finetune" and config.eval.finetune_from == "head1"
        run = read_run(workdir, from_head=from_head)._replace(config=config)
        check_writable(place, "--out")
        data = open_eval_data(run)
        kept: list[Any] = []
        if folder is not None:
            data = dataclasses.replace(data, keep=lambda *arrays: kept.append(arrays))
        log.say(
            f"{protocol} of step {run.info.step} on {data.train.num_examples:,} training and "
            f"{data.test.num_examples:,} test images of {config.data.name}"
        )
        with log.busy(protocol):
            result = PROTOCOLS[protocol](run, data)
    result = {
        "protocol": protocol,
        "method": run.info.method,
        "step": run.info.step,
        "data": config.data.name,
        "damaged": sum(len(d.seen) for d in data.damage),
    } | result
    try:
        write_json(place, result)
    except OSError as e:
        print(table(protocol, result), flush=True)
        reason = e.strerror or str(e)
        raise OSError(f"The result above could not be written to {place} ({reason}).") from e
    if folder is not None:
        params, stats, linear_layer = kept[0]
        save_classifier(folder, params, stats, linear_layer, run.info)
        log.say(f"saved the classifier to {folder}")
    return result


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
    if not flags.FLAGS.workdir:
        raise ValueError("--workdir is missing; give the folder of a run.")
    protocol = flags.FLAGS.protocol
    f = flags.FLAGS
    result = evaluate(f.workdir, protocol, f.config, f.out or None, f.save or None)
    print(table(protocol, result))
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
    path = Path(_workdir(sys.argv)).expanduser() / "config.json"
    try:
        start = load_config(path)
    except ValueError:
        start = default_config()
    flags.DEFINE_string("workdir", "", "folder of the run")
    flags.DEFINE_string("protocol", "knn", "knn, linear, finetune or fewshot")
    flags.DEFINE_string("out", "", "folder of the result; eval in the run folder by default")
    flags.DEFINE_string("save", "", "folder to make for the classifier of linear or finetune")
    flags.DEFINE_bool("debug", False, "show tracebacks and the libraries' logs")
    cli.run(main, config=start)
