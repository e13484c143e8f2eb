"""End to end: from the files through the loop, as in train, but without saving."""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

import jax

from byol_jax import mesh
from byol_jax.experiment.build import Experiment, batch_shapes, build_options
from byol_jax.experiment.feed import build_feed, build_step
from byol_jax.loop import Hooks, Program, fit
from byol_jax.train_step import init_state


def run(e: Experiment, rounds: int, steps: int) -> tuple[str, dict[str, Any]]:
    """Train for `rounds` rows of `steps` steps each, after one warm-up row.

    Returns:
      (text, {"images_per_s", "low", "high", "wait_share"}).
    """
    feed = build_feed(e)
    key, step_key = jax.random.split(jax.random.key(e.config.seed))
    state = init_state(e.method, e.optimizer, key, batch_shapes(e), e.mesh)
    rows: list[dict[str, float]] = []
    options = dataclasses.replace(
        build_options(e, feed.steps_per_dispatch),
        total_steps=(rounds + 1) * steps,
        log_every=steps,
        checkpoint_every=0,
        evaluate_every=0,
        collapse_threshold=0.0,
        quiet=True,
    )
    root_key = jax.device_put(step_key, mesh.replicated(e.mesh))
    program = Program(build_step(e, feed, feed.load()), feed.batches(0), root_key, e.mesh)
    fit(state, program, options, Hooks(write=lambda step, row: rows.append(row)))
    speeds = [row["time/images_per_s"] for row in rows[1:]]
    waits = [row["time/wait_share"] for row in rows[1:]]
    found = {
        "images_per_s": statistics.median(speeds),
        "low": min(speeds),
        "high": max(speeds),
        "wait_share": statistics.median(waits),
    }
    c = e.config
    text = (
        f"{c.method.name}, {c.encoder.name}, {c.image_size} px, batch {c.batch_size}, views "
        f"{c.views.placement}, data {c.data.placement}: {found['images_per_s']:,.0f} images/s "
        f"({found['low']:,.0f} to {found['high']:,.0f}), waiting for input "
        f"{100 * found['wait_share']:.1f}% of the time"
    )
    return text, found
