"""Several pretext tasks at once: one encoder, a head per task, one task per step.

Shape key: B examples, V views, D features.

    i = turns[step mod their number]
    loss = that of method i, of its own head and the shared encoder f

Reference: Doersch and Zisserman 2017.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from byol_jax.core import Answers, Aux, Batch, Encoder, Method, Tree

SHARED = "encoder"


def several(
    encoder: Encoder, methods: Mapping[str, Method], turns: Sequence[int] | np.ndarray
) -> Method:
    """Methods with pretext tasks that take turns in training one encoder.

    A step is of one task: `lax.switch` computes that one alone. (With a mask every step would cost
    as much as all of them; their inputs differ in shape, so they cannot be one batch.) For the same
    reason the task is done within the switch. The heads of the others get a gradient of zero: with
    momentum or weight decay they still move.

    Args:
      encoder: f, for inference.
      methods: name -> method; each keeps its encoder in params["encoder"] and
        extra["stats"]["encoder"], takes one view, and has a task and no `after_update`.
      turns: numbers of the methods, the order in which steps are theirs; it repeats. The task of a
        step depends on the number of the step alone.

    Returns:
      The method. params has the encoder and, by name, the rest of each method's; so has
      extra["stats"]; extra["tasks"] has the rest of each method's extra.
      train/loss is of the step's task; metrics of all tasks are those of their latest steps, by
      name (NAME/loss, NAME/top1), NaN before the first. A probe reads view 0 of the step's task.
      `answered` is by name too, of the tasks that have it.

    Raises:
      ValueError: the turns leave a method out.
    """
    names, order = list(methods), np.array(turns, np.int32)
    if set(order.tolist()) != set(range(len(names))):
        raise ValueError(f"The turns are {order}; expected each of 0 to {len(names) - 1}.")

    def own(name: str, params: Tree, extra: Tree) -> tuple[Tree, Tree]:
        """The params and extra of a method, as it knows them."""
        stats = {SHARED: extra["stats"][SHARED], **extra["stats"][name]}
        return {SHARED: params[SHARED], **params[name]}, {**extra["tasks"][name], "stats": stats}

    def rest(tree: Tree, without: str = SHARED) -> Tree:
        return {k: v for k, v in tree.items() if k != without}

    def check(batch: Batch, key: Array) -> Batch:
        """Refuse images that a task does not fit; the batch as it is."""
        for method in methods.values():
            assert method.task is not None
            jax.eval_shape(method.task, batch, key)
        return batch

    def init(key: Array, batch: Batch) -> tuple[Tree, Tree]:
        params: Tree = {}
        extra: Tree = {"stats": {}, "latest": {}, "tasks": {}}
        batch = {"mask": jnp.ones(len(batch["views"])), **batch}
        for i, (name, method) in enumerate(methods.items()):
            assert method.task is not None
            task_key, own_key = jax.random.split(jax.random.fold_in(key, i))
            made = method.task(batch, task_key)
            p, e = method.init(own_key, made)
            params = {SHARED: p[SHARED], **params, name: rest(p)}
            extra["tasks"][name] = rest(e, "stats")
            extra["stats"] = {SHARED: e["stats"][SHARED], **extra["stats"], name: rest(e["stats"])}
            _, aux = jax.eval_shape(method.loss, p, e, made, own_key, jnp.int32(0))
            for k, metric in aux.metrics.items():
                extra["latest"][_renamed(name, k)] = jnp.full((), jnp.nan, metric.dtype)
        return params, extra

    def loss(params: Tree, extra: Tree, batch: Batch, key: Array, step: Array) -> tuple[Array, Aux]:
        task_key, loss_key = jax.random.split(key)

        def branch(name: str) -> tuple[Array, tuple[Tree, Array]]:
            method = methods[name]
            assert method.task is not None
            made = method.task(batch, task_key)
            value, aux = method.loss(*own(name, params, extra), made, loss_key, step)
            moved = {SHARED: aux.extra["stats"][SHARED], name: rest(aux.extra["stats"])}
            latest = {_renamed(name, k): v for k, v in aux.metrics.items()}
            after = {
                **extra,
                "tasks": {**extra["tasks"], name: rest(aux.extra, "stats")},
                "stats": {**extra["stats"], **moved},
                "latest": {**extra["latest"], **latest},
            }
            after = jax.tree.map(lambda new, old: new.astype(old.dtype), after, extra)
            return value, (after, aux.features["h"][:, :1])

        branches = [lambda _, name=name: branch(name) for name in names]
        value, (after, h) = jax.lax.switch(jnp.asarray(order)[step % len(order)], branches, None)
        return value, Aux(after, {"h": h}, {"train/loss": value, **after["latest"]})

    def online_encoder(params: Tree, extra: Tree) -> tuple[Tree, Tree]:
        return params[SHARED], extra["stats"][SHARED]

    def features(params: Tree, extra: Tree, images_NGHWC: Array) -> dict[str, Array]:
        out, _ = encoder.apply(*online_encoder(params, extra), images_NGHWC, False)
        return {"h": out.pooled}

    def pictures(params: Tree, extra: Tree, images: Array, key: Array) -> dict[str, Array]:
        return {
            f"{name}: {title}": picture
            for name, method in methods.items()
            if method.pictures is not None
            for title, picture in method.pictures(*own(name, params, extra), images, key).items()
        }

    def answered(params: Tree, extra: Tree, batch: Batch, key: Array) -> dict[str, Answers]:
        found = {}
        for name, method in methods.items():
            if method.answered is not None and method.task is not None:
                made = method.task(batch, key)
                found[name] = method.answered(*own(name, params, extra), made, key)["task"]
        return found

    moving = ("stats", "latest")
    found = Method(init, loss, online_encoder, features, {"views": 1}, moving=moving)
    return found._replace(pictures=pictures, task=check, answered=answered)


def _renamed(name: str, metric: str) -> str:
    """("relative", "task/top1") -> "relative/top1"."""
    return f"{name}/{metric.partition('/')[2]}"
