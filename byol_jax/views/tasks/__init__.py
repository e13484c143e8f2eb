"""Pretext tasks: inputs and targets made from the views of a batch, inside the step.

A task reads view groups and writes groups, and writes what a method should predict under "target",
never under "label", so that a linear probe keeps the labels of the data set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
from jax import Array

from byol_jax.views.device import Batch

Task = Callable[[Batch, Array], Batch]
"""(batch, key) -> batch, like the views made on the device."""

TAKES = {"views": 1}
"""How many views of each image the tasks here read; but those of clips."""


class Quiz(NamedTuple):
    """A task that asks multiple-choice questions about the views that it makes.

    task: (batch, key) -> batch; of "views" [B, 1, S, S, C] it makes "views" [B, V, S', S', C] and
      "target" [B, Q] int32, the right answers.
    asked: for each of the Q questions, the numbers of the views that it is about, in order; all
      questions are about equally many.
    choices: number of answers to choose from, K.
    reads: {"frames": T}, what the task reads; {}: `TAKES`.
    auc: whether answers are judged by the area under the ROC curve too; for two choices.
    shown(views_BVSSC, target_BQ, answer_BQ) -> {title: images_BHWC}: pictures of what is asked, of
      what is found by the answers, and of what is right.
    """

    task: Task
    asked: tuple[tuple[int, ...], ...]
    choices: int
    shown: Callable[[Array, Array, Array], dict[str, Array]]
    reads: Mapping[str, int] = MappingProxyType({})
    auc: bool = False


def with_task(views: Task | None, task: Task) -> Task:
    """Make the views of a batch, then apply a pretext task to them.

    Args:
      views: makes the views on the device, as returned by `device.make_views`; None if the host
        made them.
      task: applied to the finished views.

    Returns:
      (batch, key) -> batch. The key is split into one for the views and one for the task, even if
      the host made the views, so that the task draws the same numbers either way.
    """

    def views_and_task(batch: Batch, key: Array) -> Batch:
        views_key, task_key = jax.random.split(key)
        if views is not None:
            batch = views(batch, views_key)
        return task(batch, task_key)

    return views_and_task
