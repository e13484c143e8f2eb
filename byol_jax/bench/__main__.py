"""Measure a config on this machine.

python -m byol_jax.bench input|views|step|end_to_end --config configs/NAME.py [--json FILE]
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from byol_jax import cli, log
from byol_jax.bench import end_to_end, step, views
from byol_jax.bench import input as feeding
from byol_jax.bench.measure import cores, machine, write_json
from byol_jax.bench.noise import noise
from byol_jax.config import resolve
from byol_jax.experiment.build import Experiment, build

WHAT = ("input", "views", "step", "end_to_end")


def main(what: str) -> int:
    """The command line: measure one of `WHAT`."""
    f = flags.FLAGS
    if f.config is None:
        raise ValueError("--config is missing; give a config file, e.g. configs/digits.py.")
    if f.rounds < 1 or f.seconds <= 0 or f.steps < 1 or f.synthetic < 0 or f.target_rate < 0:
        raise ValueError("--rounds, --seconds and --steps must be above 0.")
    config = resolve(f.config)
    source = noise(f.synthetic, config.image_size) if f.synthetic else None
    with log.busy("opening the data"):
        e = build(config, source)
    results: dict[str, Any] = {"what": what, "machine": machine()}
    results["config"] = config.to_dict()
    text, results["results"] = _measure(what, e)
    print("\n" + ", ".join(f"{k} {v}" for k, v in results["machine"].items()) + "\n")
    print(text)
    if f.json:
        write_json(results, Path(f.json))
    return 0


def _measure(what: str, e: Experiment) -> tuple[str, dict[str, Any]]:
    f = flags.FLAGS
    if what == "views":
        return views.run(e, f.rounds, f.seconds)
    if what == "step":
        return step.run(e, f.rounds)
    if what == "end_to_end":
        return end_to_end.run(e, f.rounds, f.steps)
    text, found = feeding.run(e, f.rounds, f.seconds)
    rate = f.target_rate or step.run(e, f.rounds)[1]["images_per_s"]
    return f"{text}\n\n{feeding.advice(found, rate, cores())}", {**found, "target_rate": rate}


if __name__ == "__main__":
    asked = sys.argv[1] if len(sys.argv) > 1 else ""
    if asked not in WHAT:
        print(f"error: expected one of {', '.join(WHAT)}, got {asked!r}", file=sys.stderr)
        sys.exit(2)
    config_flags.DEFINE_config_file("config", None, "config file[:argument]")
    flags.DEFINE_string("json", "", "write the figures to this file")
    flags.DEFINE_integer("rounds", 5, "repeats, over which median and spread are computed")
    flags.DEFINE_float("seconds", 1.0, "per turn of each candidate in a round")
    flags.DEFINE_integer("steps", 20, "end_to_end: steps per round")
    flags.DEFINE_integer("synthetic", 0, "use this many images of coloured noise as the data")
    flags.DEFINE_float(
        "target_rate", 0.0, "input: images/s that the step needs; 0: measure it here"
    )
    flags.DEFINE_bool("debug", False, "show tracebacks and the libraries' logs")
    cli.run(functools.partial(main, asked), [sys.argv[0], *sys.argv[2:]])
