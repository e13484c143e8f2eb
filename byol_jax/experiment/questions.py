"""How a method answers the questions of its pretext task on the test part, which it never saw."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from byol_jax import log, mesh
from byol_jax.core import Answers, Batch, TrainState, Tree
from byol_jax.data.pipeline import steps_per_epoch, train_batches
from byol_jax.experiment.build import Experiment, open_data

Evaluate = Callable[[TrainState, Callable[[], None]], dict[str, float]]


def with_questions(e: Experiment, evaluate: Evaluate | None) -> Evaluate | None:
    """An evaluation that also asks the questions of the method's task, `eval.task` times.

    Args:
      e: the run.
      evaluate: (state, poll) -> metrics; None if nothing else is measured.

    Returns:
      The evaluation, with what `judged` makes of the answers, by task: task/test_top1, or of
      several tasks NAME/test_top1. The views are made by the host as those of training are, the
      questions are the same at every evaluation. What is left over after the last full batch is not
      asked.

    Raises:
      ValueError: the method asks no such questions, or the test part has too few examples.
    """
    passes, answered, task = e.config.eval.task, e.method.answered, e.method.task
    if not passes:
        return evaluate
    if answered is None or task is None:
        raise ValueError(
            f"eval.task is {passes}, but method.name {e.config.method.name!r} asks nothing that "
            "images of the test part could answer; set it to 0."
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
    def asked(params: Tree, extra: Tree, batch: Batch, step: jax.Array) -> dict[str, Answers]:
        key = jax.random.fold_in(jax.random.key(e.config.seed), step)
        return answered(params, extra, task(batch, key), key)

    def questions(state: TrainState, poll: Callable[[], None]) -> dict[str, float]:
        found: list[dict[str, dict[str, np.ndarray]]] = []
        with log.busy("asking the questions of the task"):
            batches = train_batches(test, e.recipe, batch_size=rows, seed=e.config.seed, **where)
            for step, batch in enumerate(itertools.islice(batches, steps)):
                poll()
                own = {k: v.astype(e.dtype) if k in e.recipe else v for k, v in batch.items()}
                placed = mesh.put_batch(own, e.mesh)
                out = asked(state.params, state.extra, placed, jnp.int32(step))
                found.append({name: mesh.fetched(a, e.mesh) for name, a in out.items()})
        whole = jax.tree.map(lambda *parts: np.concatenate(parts), *found)
        metrics = {
            f"{name}/test_{k}": v for name, a in whole.items() for k, v in judged(**a).items()
        }
        log.say(", ".join(f"{k} {v:.4g}" for k, v in metrics.items()))
        return metrics | ({} if evaluate is None else evaluate(state, poll))

    return questions


def judged(mask: np.ndarray, **answers: np.ndarray) -> dict[str, float]:
    """What is to be said of answers.

    Args:
      mask: [B], 0 for examples that do not count.
      answers: "logits" [B, Q, K] and "target" [B, Q], the right ones; or any figures [B].

    Returns:
      "top1" in percent, the number of "questions" and, of two answers, "auc", the area under the
      ROC curve; or the mean of each figure, and the number of examples as "questions".
    """
    counted = {k: x[mask > 0] for k, x in answers.items()}
    if "logits" not in counted:
        means = {k: float(x.mean(dtype=np.float64)) for k, x in counted.items() if len(x)}
        return means | {"questions": float((mask > 0).sum())}
    logits, target = (counted[k].reshape(-1, *answers[k].shape[2:]) for k in ("logits", "target"))
    metrics = {"questions": float(len(target))}
    if not len(target):
        return metrics
    metrics["top1"] = 100 * float((logits.argmax(-1) == target).mean())
    if logits.shape[-1] == 2 and 0 < target.sum() < len(target):
        from sklearn.metrics import roc_auc_score

        metrics["auc"] = float(roc_auc_score(target, logits[:, 1] - logits[:, 0]))
    return metrics
