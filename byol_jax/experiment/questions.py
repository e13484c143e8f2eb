"""How a method answers the questions of its pretext task on the test part, which it never saw."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from byol_jax import log, mesh
from byol_jax.core import Batch, TrainState, Tree
from byol_jax.data.pipeline import steps_per_epoch, train_batches
from byol_jax.experiment.build import Experiment, open_data

Evaluate = Callable[[TrainState, Callable[[], None]], dict[str, float]]


def with_questions(e: Experiment, evaluate: Evaluate | None) -> Evaluate | None:
    """An evaluation that also asks the questions of the method's task, `eval.task` times.

    Args:
      e: the run.
      evaluate: (state, poll) -> metrics; None if nothing else is measured.

    Returns:
      The evaluation, with task/test_top1 (percent), task/test_questions, and of questions with two
      answers task/test_auc. The views are made by the host as those of training are, the questions
      are the same at every evaluation. What is left over after the last full batch is not asked.

    Raises:
      ValueError: the method asks no questions, or the test part is smaller than a batch.
    """
    passes, answered, task = e.config.eval.task, e.method.answered, e.method.task
    if not passes:
        return evaluate
    if answered is None or task is None:
        raise ValueError(
            f"eval.task is {passes}, but method.name {e.config.method.name!r} asks no questions; "
            "set it to 0."
        )
    test = open_data(e.config, "test", e.source.channels)
    devices = e.mesh.devices.size
    rows = min(e.config.batch_size, test.num_examples) // devices * devices
    where = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    if not rows:
        raise ValueError(
            f"eval.task is {passes}, but the test part has {test.num_examples} examples, fewer "
            f"than the {devices} devices; set it to 0."
        )
    steps = passes * steps_per_epoch(test, rows, jax.process_count())

    @jax.jit
    def asked(params: Tree, extra: Tree, batch: Batch, step: jax.Array) -> dict[str, jax.Array]:
        made = task(batch, jax.random.fold_in(jax.random.key(e.config.seed), step))
        logits, target = answered(params, extra, made)
        return {"logits": logits, "target": target, "mask": made["mask"]}

    def questions(state: TrainState, poll: Callable[[], None]) -> dict[str, float]:
        found: list[dict[str, np.ndarray]] = []
        with log.busy("asking the questions of the task"):
            batches = train_batches(test, e.recipe, batch_size=rows, seed=e.config.seed, **where)
            for step, batch in enumerate(itertools.islice(batches, steps)):
                poll()
                own = {k: v.astype(e.dtype) if k in e.recipe else v for k, v in batch.items()}
                placed = mesh.put_batch(own, e.mesh)
                out = asked(state.params, state.extra, placed, jnp.int32(step))
                found.append(mesh.fetched(out, e.mesh))
        whole = {k: np.concatenate([f[k] for f in found]) for k in found[0]}
        metrics = judged(whole["logits"], whole["target"], whole["mask"])
        log.say(", ".join(f"{k} {v:.4g}" for k, v in metrics.items()))
        return metrics | ({} if evaluate is None else evaluate(state, poll))

    return questions


def judged(logits_BQK: np.ndarray, target_BQ: np.ndarray, mask_B: np.ndarray) -> dict[str, float]:
    """Accuracy in percent, number of questions and, of two answers, the area under the ROC curve.

    Args:
      logits_BQK: answers. target_BQ: the right ones. mask_B: 0 for examples that do not count.
    """
    logits, target = (x[mask_B > 0].reshape(-1, *x.shape[2:]) for x in (logits_BQK, target_BQ))
    metrics = {"task/test_questions": float(len(target))}
    if not len(target):
        return metrics
    metrics["task/test_top1"] = 100 * float((logits.argmax(-1) == target).mean())
    if logits.shape[-1] == 2 and 0 < target.sum() < len(target):
        from sklearn.metrics import roc_auc_score

        metrics["task/test_auc"] = float(roc_auc_score(target, logits[:, 1] - logits[:, 0]))
    return metrics
