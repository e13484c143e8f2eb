"""Pre-train an encoder. Running the same command again resumes.

python -m byol_jax.train --config configs/NAME.py --workdir DIR [--config.KEY=VALUE ...]
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from byol_jax import cli, log, mesh
from byol_jax.build.evaluation import build_evaluation
from byol_jax.build.experiment import (
    Experiment,
    batch_shapes,
    build,
    build_damage,
    build_options,
    start_from,
)
from byol_jax.build.feed import batches, build_step, resident, shown
from byol_jax.checkpoint import Checkpoints
from byol_jax.config import check_keys, difference, flatten, load_config, save_config
from byol_jax.core import TrainState
from byol_jax.loop import Hooks, Stop, fit
from byol_jax.report.views import EXAMPLES, draw_views
from byol_jax.run_folder import encoder_location, keep_compiled
from byol_jax.train_step import init_state


def check_resume(config: ConfigDict, workdir: Path) -> None:
    """Refuse to go on with a run under another config.

    Raises:
      ValueError: names the keys that differ, the run's value and the one asked for.
    """
    path = workdir / "config.json"
    if not path.exists():
        return
    lines = difference(flatten(load_config(path)), json.loads(json.dumps(flatten(config))))
    if lines:
        changed = "; ".join(line.strip() for line in lines)
        raise ValueError(
            f"{workdir} was started with another config ({changed}). Take the old values to "
            "resume it, or another --workdir for a new run."
        )


def describe(e: Experiment, state: TrainState, workdir: Path) -> None:
    """Say what will be trained, and write the overview of its parameters."""
    from clu import parameter_overview

    count = sum(x.size for x in jax.tree.leaves(state.params))
    weights, _ = e.method.encoder(state.params, state.extra)
    encoder = sum(x.size for x in jax.tree.leaves(weights))
    devices, fsdp = e.mesh.devices, e.mesh.shape["fsdp"]
    log.say(
        f"{e.info.method} of {e.encoder.config['name']} ({encoder:,} parameters, {count:,} "
        f"trained) on {e.source.num_examples:,} images of {e.info.source}, batch "
        f"{e.config.batch_size}, {e.total_steps} steps, "
        f"{devices.size} x {devices.flat[0].device_kind}"
        + (f", {fsdp} share a copy of the state" if fsdp > 1 else "")
    )
    if devices.flat[0].platform == "cpu" and e.config.encoder.dtype == "bfloat16":
        log.say("on a CPU bfloat16 takes about twice the time of --config.encoder.dtype=float32")
    overview = parameter_overview.get_parameter_overview(state.params, include_stats=False)
    (workdir / "parameters.txt").write_text(overview + "\n")


def train(config: ConfigDict, workdir: Path) -> int:
    """Train a config in a run folder, or go on with it; returns the exit code.

    0: the run is complete. 128 + the signal's number: stopped by SIGTERM or Ctrl-C, saved, and to
    be resumed by the same command.

    Raises:
      ValueError, TrainingError: see `build` and `fit`.
    """
    check_keys(config)
    check_resume(config, workdir)
    keep_compiled(workdir)
    with Stop().listen() as stop:
        with log.busy("opening the data"):
            e = build(config)
            evaluate = build_evaluation(e)
        workdir.mkdir(parents=True, exist_ok=True)
        save_config(config, workdir / "config.json")
        key = jax.random.key(config.seed)
        init_key, step_key = jax.random.split(key)
        with log.busy("initialising"):
            state = init_state(e.method, e.optimizer, init_key, batch_shapes(e), e.mesh)
        saved = Checkpoints(workdir, config.keep, config.keep_every, clear=True)
        meta: dict[str, Any] = {"damaged": []}
        last, wrong = saved.newest_good(set_aside=True)
        for problem in wrong:
            log.say(f"WARNING: {problem}" + ("; set aside as damaged-STEP" if last else ""))
        if wrong and last is None:
            raise ValueError(
                f"No checkpoint in {workdir} is good: {wrong[0]}. Restore the files of one, or "
                "start a new run in another folder."
            )
        if last is not None:
            state = saved.restore(last, state, mesh.divided(state, e.mesh))
            meta = saved.meta(last)
            log.say(f"resumed from step {last}")
        elif config.init_from:
            state = start_from(e, state)
        describe(e, state, workdir)
        feed: Iterator[Mapping[str, np.ndarray]] = batches(e, int(state.position))
        constants = resident(e)
        if last is None:
            see = shown(e, constants, step_key, EXAMPLES)
            feed = draw_views(feed, see, e.source, e.eval_spec, workdir / "views.png")
        damage = build_damage(e, meta["damaged"])
        location = encoder_location(e.method, state.params, state.extra)
        writer = log.MetricsWriter(workdir, last or 0)

        def save(step: int, state: TrainState) -> None:
            info = dataclasses.asdict(dataclasses.replace(e.info, step=step))
            seen = sorted(damage.seen)
            saved.save(step, state, {"encoder": info, "location": location, "damaged": seen})

        try:
            fit(
                state,
                build_step(e, constants),
                feed,
                build_options(e),
                root_key=jax.device_put(step_key, mesh.replicated(e.mesh)),
                mesh=e.mesh,
                hooks=Hooks(evaluate, save, writer.write, saved.latest),
                damage=damage,
                stop=stop,
            )
        finally:
            saved.close()
            writer.close()
        return _farewell(e, workdir, saved.latest(), stop)


def _farewell(e: Experiment, workdir: Path, step: int | None, stop: Stop) -> int:
    if stop.signal and step != e.total_steps:
        log.say(f"stopped; saved step {step} of {e.total_steps}: the same command resumes")
        return 128 + stop.signal
    log.say(f"trained {step} steps; the run is in {workdir}")
    return 0


def main() -> int:
    """The command line."""
    if not flags.FLAGS.workdir:
        raise ValueError("--workdir is missing; give the folder of the run.")
    if flags.FLAGS.config is None:
        raise ValueError("--config is missing; give a config file, e.g. configs/digits.py.")
    return train(flags.FLAGS.config, Path(flags.FLAGS.workdir))


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "config file[:argument]")
    flags.DEFINE_string("workdir", "", "folder of the run")
    flags.DEFINE_bool("debug", False, "show tracebacks and the libraries' logs")
    cli.run(main)
