"""Pretext tasks: inputs and targets that are made from the views of a batch, inside the step.

A task reads view groups and writes groups, and what a method shall predict under "target"; never
under "label", so that a linear probe keeps the labels of the data set.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax import Array

from byol_jax.views.device import Batch

Task = Callable[[Batch, Array], Batch]
"""(batch, key) -> batch, as the views that are made on the device."""


def with_task(views: Task | None, task: Task) -> Task:
    """The views of a batch, and then a pretext task on them.

    Args:
      views: makes the views on the device, as `device.make_views` gives it; None where the host has
        made them.
      task: is given the finished views.

    Returns:
      (batch, key) -> batch. The key is split into one for the views and one for the task, also
      where the host has made the views, so that the task draws the same numbers either way.
    """

    def views_and_task(batch: Batch, key: Array) -> Batch:
        views_key, task_key = jax.random.split(key)
        if views is not None:
            batch = views(batch, views_key)
        return task(batch, task_key)

    return views_and_task
