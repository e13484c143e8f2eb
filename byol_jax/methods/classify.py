"""Pretext tasks that are multiple-choice questions: rotation, jigsaw puzzles, relative position.

Shape key: B examples, V views of each that the task makes (turned copies, tiles), Q questions about
them, P views of a question, D features, E embedding, K answers.

    z = g(f(view))                                  one network for all views
    answer = c(z of the question's P views, side by side)
    loss = cross-entropy of the answer and the target, the mean over the questions

Reference: Gidaris et al. 2018, Noroozi and Favaro 2016, Doersch et al. 2015.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from byol_jax.core import Answers, Aux, Batch, Method, Tree
from byol_jax.losses import auc, cross_entropy, masked_mean
from byol_jax.models.heads import Head
from byol_jax.models.network import Network, inference
from byol_jax.views.tasks import Quiz


def classify(net: Network, classifier: Head, quiz: Quiz) -> Method:
    """A network that answers the questions of a task.

    Args:
      net: f and g; a projector without layers is the identity.
      classifier: c, of `quiz.choices` outputs.
      quiz: the task, and which views its questions are about.

    Returns:
      The method. `loss` and `init` take batches after the task, of V views. Metrics: train/loss,
      and task/top1, the share of right answers in percent, and task/auc where the quiz asks for it.
      An online probe reads view 0.
      `pictures` shows the questions, and what the answers make of them.
    """
    asked_QP = np.array(quiz.asked, np.int32)
    questions, parts = asked_QP.shape

    def init(key: Array, batch: Batch) -> tuple[Tree, Tree]:
        net_key, classifier_key = jax.random.split(key)
        params, stats = net.init(net_key, batch["views"])
        blank = jnp.zeros((1, questions, parts * net.dim))
        own, own_stats = classifier.init(classifier_key, blank)
        stats = {**stats, "classifier": own_stats}
        return {**params, "classifier": own}, {"stats": stats}

    def answers(
        params: Tree, stats: Tree, views_BVSSC: Array, train: bool, key: Array | None
    ) -> tuple[Array, Array, Tree]:
        """(logits [B, Q, K], features [B, V, D], statistics)."""
        h_BVD, z_BVE, moved = net.apply(params, stats, views_BVSSC, train, key)
        z_BQE = z_BVE[:, asked_QP].reshape(len(z_BVE), questions, -1)
        own = params["classifier"], stats["classifier"]
        logits_BQK, own_stats = classifier.apply(*own, z_BQE, train)
        wide = logits_BQK.astype(jnp.promote_types(logits_BQK.dtype, jnp.float32))
        return wide, h_BVD, {**moved, "classifier": own_stats}

    def loss(params: Tree, extra: Tree, batch: Batch, key: Array, step: Array) -> tuple[Array, Aux]:
        del step
        logits, h_BVD, stats = answers(params, extra["stats"], batch["views"], True, key)
        target_BQ, mask_B = batch["target"], batch["mask"]
        value = masked_mean(jax.vmap(cross_entropy)(logits, target_BQ).mean(1), mask_B)
        hits_B = (logits.argmax(-1) == target_BQ).astype(value.dtype).mean(1)
        metrics = {"train/loss": value, "task/top1": 100 * masked_mean(hits_B, mask_B)}
        if quiz.auc:
            score_N = (logits[..., 1] - logits[..., 0]).reshape(-1)
            metrics["task/auc"] = auc(score_N, target_BQ.reshape(-1), jnp.repeat(mask_B, questions))
        return value, Aux({"stats": stats}, {"h": h_BVD}, metrics)

    def answered(params: Tree, extra: Tree, batch: Batch, key: Array) -> dict[str, Answers]:
        del key
        logits, _, _ = answers(params, extra["stats"], batch["views"], False, None)
        return {"task": {"logits": logits, "target": batch["target"], "mask": batch["mask"]}}

    def pictures(params: Tree, extra: Tree, given: Array | Batch, key: Array) -> dict[str, Array]:
        before = given if isinstance(given, Mapping) else {"views": given[:, None]}
        batch = quiz.task(before, key)
        logits, _, _ = answers(params, extra["stats"], batch["views"], False, None)
        return quiz.shown(batch["views"], batch["target"], logits.argmax(-1))

    takes = {"views": int(asked_QP.max()) + 1}
    return Method(
        init,
        loss,
        *inference(net),
        takes,
        pictures=pictures,
        task=quiz.task,
        reads=quiz.reads,
        answered=answered,
    )
