"""The views by themselves, and what they add to the step when made on the device."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from byol_jax import mesh
from byol_jax.bench.measure import Rate, rates, table
from byol_jax.bench.step import Runner
from byol_jax.data.pipeline import cuts
from byol_jax.experiment.build import Experiment, build
from byol_jax.experiment.feed import build_feed
from byol_jax.views import device


def run(e: Experiment, rounds: int, seconds: float) -> tuple[str, dict[str, Any]]:
    """Measure views of a run's own images on the device, and its step with and without them.

    Returns:
      (tables as text, {"views": {name: Rate}, "step": {name: Rate}}); images per second.
    """
    placed = _with(e, views="device", data="stream")
    batch = mesh.put_batch(next(build_feed(placed).batches(0)), e.mesh)
    key = jax.random.key(0)
    kinds = {"all of it": device.make_views(e.recipe, cropped=cuts(e.source))}
    if not cuts(e.source):
        crops = {group: tuple(map(_only_crop, views)) for group, views in e.recipe.items()}
        plain = device.make_views(crops, cropped=False)
        kinds["random resized crop alone"] = plain
    alone: dict[str, Callable[[], int]] = {
        name: _call(jax.jit(views), batch, key, list(e.recipe)) for name, views in kinds.items()
    }
    found = {"views": rates(alone, rounds, seconds)}
    text = [table("views made on the device", "images/s", found["views"])]
    runners: dict[str, Callable[[], int]] = {
        "step, views by the host": Runner(_with(e, views="host", data="stream")),
        "step, views on the device": Runner(placed),
    }
    if e.source.images is not None:
        runners["step, resident data"] = Runner(_with(e, views="device", data="resident"))
    found["step"] = rates(runners, rounds, seconds)
    text.append(table("the step (the batch is on the device)", "images/s", found["step"]))
    cost = _ratio(found["step"])
    text.append(f"a step with views on the device costs {cost:.3f} times one without")
    return "\n\n".join(text), {**found, "cost": cost}


def _ratio(found: dict[str, Rate]) -> float:
    return 1 / found["step, views on the device"].ratio


def _with(e: Experiment, views: str, data: str) -> Experiment:
    config = e.config.copy_and_resolve_references()
    with config.unlocked():
        config.views.placement, config.data.placement = views, data
    return build(config, e.source)


def _only_crop(view: Any) -> Any:
    off = dict.fromkeys(("flip", "jitter", "grey", "blur", "solarize"), 0.0)
    return dataclasses.replace(view, **off)


def _call(
    views: Callable[..., Any], batch: dict[str, jax.Array], key: jax.Array, groups: list[str]
) -> Callable[[], int]:
    rows = batch["mask"].shape[0]

    def work() -> int:
        # A sum keeps all views alive without moving anything to the host.
        made = views(batch, key)
        jax.block_until_ready([jnp.sum(made[group]) for group in groups])
        return rows

    return work
