"""An online linear probe around any method.

Shape key: B examples, V views, D features, K classes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from byol_jax.core import Aux, Batch, Method, Tree
from byol_jax.losses import cross_entropy, masked_mean
from byol_jax.models.heads import Head


def with_probe(method: Method, classifier: Head, dim: int) -> Method:
    """Train a linear classifier on the method's features, in the same step.

    It reads view 1 through a stop-gradient; its cross-entropy is added to the loss with weight 1,
    so the method's own gradients do not change. Rows labelled -1 or masked do not count.

    Args:
      method: any method whose Aux.features has "h" [B, V, D].
      classifier: of K classes, e.g. `heads.linear(K)`.
      dim: features D.

    Returns:
      The method with `params["probe"]` next to its own parameters; metrics probe/train_loss and
      probe/train_top1 (percent). train/loss is still the method's own.

    Reference: google-deepmind/deepmind-research:byol/byol_experiment.py (the classifier).
    """

    def init(key: Array, batch: Batch) -> tuple[Tree, Tree]:
        method_key, probe_key = jax.random.split(key)
        params, extra = method.init(method_key, batch)
        probe, _ = classifier.init(probe_key, jnp.zeros((1, 1, dim)))
        return {**params, "probe": probe}, extra

    def classify(params: Tree, h_NGD: Array) -> Array:
        logits_NGK, _ = classifier.apply(params["probe"], {}, h_NGD, False)
        return logits_NGK

    def loss(params: Tree, extra: Tree, batch: Batch, key: Array, step: Array) -> tuple[Array, Aux]:
        value, aux = method.loss(params, extra, batch, key, step)
        logits_BK = classify(params, jax.lax.stop_gradient(aux.features["h"][:, :1]))[:, 0]
        mask = batch["mask"] * (batch["label"] >= 0)
        probe_loss = masked_mean(cross_entropy(logits_BK, batch["label"]), mask)
        hits_B = (logits_BK.argmax(-1) == batch["label"]).astype(probe_loss.dtype)
        metrics = {
            "train/loss": value,
            **aux.metrics,
            "probe/train_loss": probe_loss,
            "probe/train_top1": 100 * masked_mean(hits_B, mask),
        }
        return value + probe_loss, aux._replace(metrics=metrics)

    def features(params: Tree, extra: Tree, images_NGHWC: Array) -> dict[str, Array]:
        out = method.features(params, extra, images_NGHWC)
        return {**out, "probe": classify(params, out["h"])}

    return method._replace(init=init, loss=loss, features=features)
