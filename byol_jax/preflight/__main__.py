"""What a config needs on a machine you do not have, and how fast it may run: all modelled.

python -m byol_jax.preflight --config configs/NAME.py --topology v3:16x16[,...] [--json FILE]
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"  # no other device of this machine is needed

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from byol_jax import cli
from byol_jax.config import resolve
from byol_jax.preflight import model, remedies, table, topology
from byol_jax.preflight.lower import lower, no_data


def say(text: str) -> None:
    """Report progress on stderr."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def main() -> int:
    """The command line."""
    f = flags.FLAGS
    if f.topology is None:
        raise ValueError(
            "--topology is missing; give one, e.g. --topology v3:16x16; without a value it lists "
            "the known ones."
        )
    if not f.topology:
        print(topology.listing())
        return 0
    if f.config is None:
        raise ValueError("--config is missing; give one, e.g. configs/byol_imagenet_r50.py:300.")
    config = resolve(f.config)
    names = [name for name in f.topology.split(",") if name]
    virtual = topology.virtual_devices(names)
    if virtual:
        jax.config.update("jax_num_cpu_devices", virtual)
    source = no_data(config, f.channels, f.classes)

    def examine(config: ConfigDict, name: str) -> dict[str, Any]:
        where = topology.find(name)
        say(f"{name}: tracing the step for {len(where.devices)} devices")
        lowered = lower(config, source, where.devices)
        say(f"{name}: compiling (a minute or two for ResNet-50, longer for larger ones)")
        compiled = model.compile_step(lowered.step)
        if f.hlo and compiled.text:
            Path(f.hlo).write_text(compiled.text)
        return model.figures(lowered, where, compiled)

    found = []
    for name in names:
        figures = examine(config, name)
        print(table.report(figures), flush=True)
        if not figures["fits"] and f.tries:
            tried = remedies.search(config, figures, examine, say, f.tries)
            print(table.remedies(tried), flush=True)
            figures["remedies"] = tried
        print()
        found.append(figures)
    if len(found) > 1:
        print(table.comparison(found))
    if f.json:
        Path(f.json).write_text(json.dumps(found, indent=2) + "\n")
    return 0


def with_value(argv: list[str]) -> list[str]:
    """The arguments, with an empty value for a --topology without one."""
    given = list(argv)
    for i, arg in enumerate(given):
        last = i + 1 == len(given) or given[i + 1].startswith("-")
        if arg in ("--topology", "-topology") and last:
            given[i] = "--topology="
    return given


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "config file[:argument]")
    flags.DEFINE_string(
        "topology", None, "v3:16x16, cpu:8, gpu:8; several with commas; without a value: list all"
    )
    flags.DEFINE_integer("channels", 0, "image channels of the data; 0: the known number, else 3")
    flags.DEFINE_integer("classes", -1, "classes, for the probe; -1: the known number, else none")
    flags.DEFINE_integer("tries", 5, "compilations to find what makes a config fit; 0: none")
    flags.DEFINE_string("json", "", "file for the figures")
    flags.DEFINE_string("hlo", "", "file for the last compiled module's text")
    flags.DEFINE_bool("debug", False, "show tracebacks and the libraries' logs")
    cli.run(main, with_value(sys.argv))
