"""Dense tasks: train a head for every pixel, its learning rate chosen, and judge whole images.

Shape key: B images, H W pixels, E outputs per pixel.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from byol_jax.core import Encoder, TrainState, Tree
from byol_jax.faults import Diverged
from byol_jax.log import say
from byol_jax.loop import Options, Program, fit
from byol_jax.mesh import fetched, put_batch
from byol_jax.methods.dense import Objective, dense
from byol_jax.models.heads import Head
from byol_jax.optim import sgd
from byol_jax.schedules import warmup_cosine
from byol_jax.train_step import init_state, jit_step, make_train_step

Batches = Iterable[Mapping[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class DensePart:
    """Images and maps, as a dense task reads them.

    examples: how many. train: (batch_size, seed) -> endless batches of crops. whole: batch_size ->
    one pass of whole images. See `data.crops`.
    """

    examples: int
    train: Callable[[int, int], Iterator[Mapping[str, np.ndarray]]]
    whole: Callable[[int], Batches]


class DenseParts(NamedTuple):
    """train: all that may be learned from. sweep, validation: to choose the rate. test: once."""

    train: DensePart
    sweep: DensePart
    validation: DensePart
    test: DensePart


class DenseTask(NamedTuple):
    """What is asked of each pixel.

    head: with E outputs. objective: the loss. answer: outputs [B, H, W, E] -> [B, H, W].
    judge: pairs (answer [H, W], target [H, W]) of all images -> figures. better: of two
    figures "chosen_by", whether the larger is the better one.
    """

    head: Head
    objective: Objective
    answer: Callable[[jax.Array], jax.Array]
    judge: Callable[[Iterable[tuple[np.ndarray, np.ndarray]]], dict[str, Any]]
    chosen_by: str
    larger: bool


@dataclasses.dataclass(frozen=True)
class DensePlan:
    """How a head is trained: SGD with Nesterov momentum 0.9, cosine to 0.

    lrs: swept, for this batch size. decay: weight decay, of kernels. frozen: the encoder stays as
    it is.
    """

    lrs: tuple[float, ...]
    steps: int
    batch_size: int
    decay: float
    frozen: bool
    seed: int = 0


def train_dense(
    encoder: Encoder, part: DensePart, task: DenseTask, plan: DensePlan, lr: float, mesh: Mesh
) -> tuple[TrainState, Callable[[DensePart], dict[str, Any]], tuple[Tree, Tree]]:
    """Train once.

    Returns:
      (the state, a function part -> figures, (params, stats) of the encoder).

    Raises:
      ValueError: fewer images than devices.
      Diverged: the loss is not finite.
    """
    devices = mesh.devices.size
    batch_size = min(plan.batch_size, part.examples) // devices * devices
    if not batch_size:
        raise ValueError(f"{part.examples} images are too few for {devices} devices.")
    method = dense(encoder, task.head, task.objective, frozen=plan.frozen)
    schedule = warmup_cosine(lr, 0, plan.steps)
    optimizer = sgd(schedule, nesterov=True, weight_decay=plan.decay)
    batches = part.train(batch_size, plan.seed)
    first = next(batches)
    key = jax.random.key(plan.seed)
    state = init_state(method, optimizer, key, first, mesh)
    step = jit_step(make_train_step(method, optimizer), mesh)

    def chain() -> Iterator[Mapping[str, np.ndarray]]:
        yield first
        yield from batches

    options = Options(plan.steps, batch_size, what="the dense head")
    state = fit(state, Program(step, chain(), key, mesh), options)

    @jax.jit
    def answers(params: Tree, extra: Tree, images: jax.Array) -> jax.Array:
        return task.answer(method.features(params, extra, images)["dense"][:, 0])

    def judge(part: DensePart) -> dict[str, Any]:
        def pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for batch in part.whole(-(-plan.batch_size // devices) * devices):
                placed = put_batch({"views": batch["views"]}, mesh)
                out = answers(state.params, state.extra, placed["views"])
                found = fetched({"found": out}, mesh)["found"]
                for i in np.flatnonzero(batch["mask"]):
                    yield found[i], batch["target"][i]

        return task.judge(pairs())

    return state, judge, method.encoder(state.params, state.extra)


def judge_dense(
    encoder: Encoder, parts: DenseParts, task: DenseTask, plan: DensePlan, mesh: Mesh
) -> dict[str, Any]:
    """Choose the learning rate on a validation part, train on all, and judge the test images.

    Args:
      encoder: with its weights, as returned by `core.starting_from`.
      parts: the images; with one learning rate only train and test are read.
      task: what is asked of each pixel.
      plan: how to train.
      mesh: the devices.

    Returns:
      The figures of `task.judge`, and {"lr", "validation": its figure `task.chosen_by`}.
    """
    best, figure = plan.lrs[0], None
    if len(plan.lrs) > 1:
        found: dict[float, float] = {}
        for lr in plan.lrs:
            try:
                _, judge, _ = train_dense(encoder, parts.sweep, task, plan, lr, mesh)
            except Diverged:
                say(f"learning rate {lr:g}: the loss is not finite")
                continue
            found[lr] = judge(parts.validation)[task.chosen_by]
        if not found:
            raise ValueError(
                f"Training with each of eval.dense_lrs {plan.lrs} gave a loss that is not finite; "
                "set smaller ones."
            )
        best = (max if task.larger else min)(found, key=lambda lr: found[lr])
        figure = found[best]
        swept = ", ".join(f"{lr:g}: {v:.3f}" for lr, v in found.items())
        say(f"validation {task.chosen_by} by learning rate: {swept}; training with {best:g}")
    _, judge, _ = train_dense(encoder, parts.train, task, plan, best, mesh)
    return judge(parts.test) | {"lr": best, "validation": figure}
