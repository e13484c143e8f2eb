"""SimCLR v2's third stage: a fine-tuned network teaches another one on unlabelled images.

Shape key: B examples, V views (one), D features, K classes.

    P_T = softmax(teacher(view) / t)   P_S = softmax(student(view) / t)
    loss = alpha H(P_T, P_S) + (1 - alpha) cross-entropy with the label, where there is one

Teacher and student see the same view; the teacher is in inference mode and stays as it is.

Reference: Chen et al. 2020 (SimCLR v2), equations 2 and 3.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from byol_jax.core import Aux, Batch, Encoder, Method, Tree
from byol_jax.losses import cross_entropy, distillation, masked_mean
from byol_jax.models.heads import Head


class Teacher(NamedTuple):
    """A trained classifier: an encoder with its arrays, and {"kernel": [D, K], "bias": [K]}."""

    encoder: Encoder
    params: Tree
    stats: Tree
    linear: Tree


def distill(
    student: Encoder,
    classifier: Head,
    teacher: Teacher,
    *,
    temperature: float = 1.0,
    alpha: float = 1.0,
) -> Method:
    """Distillation of a classifier.

    Args:
      student: the encoder that is trained, of any architecture.
      classifier: on its features, e.g. `heads.linear(K)`, K being the teacher's classes.
      teacher: kept in extra["teacher"].
      temperature: t, of both, above 0.
      alpha: weight of the teacher; the labels have 1 - alpha. With 1 no label is used.

    Returns:
      The method, of one view. The labels' term is a mean over all rows that count, to which those
      without a label add 0: an image weighs the same whatever share of its batch is labelled.
      Metrics: train/loss, train/top1 (of labelled rows), teacher/agreement (of all), percent.
    """

    def init(key: Array, batch: Batch) -> tuple[Tree, Tree]:
        encoder_key, head_key = jax.random.split(key)
        params, stats = student.init(encoder_key, batch["views"])
        linear, _ = classifier.init(head_key, jnp.zeros((1, 1, student.dim)))
        given = {"params": teacher.params, "stats": teacher.stats, "linear": teacher.linear}
        given = jax.tree.map(jnp.asarray, given)
        return {"encoder": params, "head": linear}, {"stats": stats, "teacher": given}

    def taught(extra: Tree, images_NGHWC: Array) -> Array:
        t = extra["teacher"]
        out, _ = teacher.encoder.apply(t["params"], t["stats"], images_NGHWC, False)
        logits, _ = classifier.apply(t["linear"], {}, out.pooled, False)
        return jax.lax.stop_gradient(logits)

    def loss(params: Tree, extra: Tree, batch: Batch, key: Array, step: Array) -> tuple[Array, Aux]:
        del step
        images, label, mask = batch["views"][:, :1], batch["label"], batch["mask"]
        out, stats = student.apply(params["encoder"], extra["stats"], images, True, key)
        logits_BK = classifier.apply(params["head"], {}, out.pooled, True)[0][:, 0]
        teacher_BK = taught(extra, images)[:, 0].astype(logits_BK.dtype)
        value = alpha * masked_mean(distillation(logits_BK, teacher_BK, temperature), mask)
        if alpha < 1:
            value += (1 - alpha) * masked_mean(cross_entropy(logits_BK, label), mask)
        answer_B = logits_BK.argmax(-1)
        metrics = {"train/loss": value}
        for name, right_B, counts_B in (
            ("train/top1", answer_B == label, mask * (label >= 0)),
            ("teacher/agreement", answer_B == teacher_BK.argmax(-1), mask),
        ):
            metrics[name] = 100 * masked_mean(right_B.astype(value.dtype), counts_B)
        return value, Aux({**extra, "stats": stats}, {"h": out.pooled}, metrics)

    def encoder(params: Tree, extra: Tree) -> tuple[Tree, Tree]:
        return params["encoder"], extra["stats"]

    def features(params: Tree, extra: Tree, images_NGHWC: Array) -> dict[str, Array]:
        out, _ = student.apply(*encoder(params, extra), images_NGHWC, False)
        logits, _ = classifier.apply(params["head"], {}, out.pooled, False)
        return {"h": out.pooled, "logits": logits}

    return Method(init, loss, encoder, features, {"views": 1})
