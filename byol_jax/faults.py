"""What ends a run early: unreadable images, a step that is not finite, a requested stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from byol_jax import log
from byol_jax.processes import main_process

NAMED = 200
"""How many damaged images are named in the log of a run."""


class TrainingError(RuntimeError):
    """The run cannot continue: it is not finite, collapsed, or too much of its data is damaged."""


class Diverged(TrainingError):
    """Loss or gradient norm is not finite, or the features collapsed, at `step`.

    position: in the data order after that step.
    """

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step, self.position = step, 0


class Interrupted(Exception):
    """An evaluation was abandoned because the run was asked to stop."""


class Damage:
    """Counts the distinct examples that could not be read, and names them in the log.

    Args:
      limit: how many may be damaged before the run stops.
      explain: index -> name and reason.
      seen: indices known from before a resume.
    """

    def __init__(self, limit: float, explain: Callable[[int], str], seen: Any = ()) -> None:
        self.limit, self.explain, self.seen = limit, explain, set(seen)

    def add(self, indices: np.ndarray) -> None:
        """Count the substituted examples of all processes.

        Raises:
          TrainingError: more are damaged than the limit.
        """
        for index in indices.tolist():
            if index in self.seen:
                continue
            self.seen.add(index)
            if main_process() and len(self.seen) <= NAMED:
                log.say(f"damaged image {len(self.seen)}: {self.explain(index)} (substituted)")
            elif len(self.seen) == NAMED + 1:
                log.say("more damaged images are counted in data/damaged but not named")
        if len(self.seen) > self.limit:
            raise TrainingError(
                f"{len(self.seen)} images cannot be read, more than data.max_damaged allows "
                f"({self.limit:.0f}); their names are above. Repair or remove them, or raise "
                "data.max_damaged."
            )
