"""Audio-visual correspondence: two encoders, and whether what they see and hear is of one clip.

Shape key: B examples, H W C image, F T spectrogram, D features.

    h = f(frame)   a = g(spectrogram)   answer = c(h, a)
    loss = cross-entropy of the answer and the target

Reference: Arandjelovic and Zisserman 2017; Selvaraju et al. 2017 for the picture.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import Array

from byol_jax.core import Answers, Aux, Batch, Encoder, Method, Tree
from byol_jax.losses import auc, cross_entropy, masked_mean
from byol_jax.models.heads import Head
from byol_jax.views.tasks.avc import Pairs


def correspond(encoder: Encoder, ear: Encoder, classifier: Head, pairs: Pairs) -> Method:
    """Two encoders that learn from each other.

    Args:
      encoder: f, of frames; it alone is evaluated and exported.
      ear: g, of spectrograms, images of one channel.
      classifier: c, of 2 outputs.
      pairs: the task makes "views" [B, 1, H, W, C], "spectrogram" [B, 1, F, T, 1] and "target" [B].

    Returns:
      The method. Metrics: train/loss, task/top1 (percent) and task/auc. `pictures` shows frames,
      their own sounds, and where in the frame the sound comes from, from grey (least) to the frame
      itself (most): how much each place adds to the answer (Grad-CAM without its ReLU).
    """

    def init(key: Array, batch: Batch) -> tuple[Tree, Tree]:
        keys = jax.random.split(key, 3)
        own, own_stats = encoder.init(keys[0], batch["views"])
        heard, heard_stats = ear.init(keys[1], batch["spectrogram"])
        both = jnp.zeros((1, 1, encoder.dim + ear.dim))
        last, last_stats = classifier.init(keys[2], both)
        stats = {"encoder": own_stats, "ear": heard_stats, "classifier": last_stats}
        return {"encoder": own, "ear": heard, "classifier": last}, {"stats": stats}

    def answers(
        params: Tree, stats: Tree, h_B1D: Array, a_B1D: Array, train: bool
    ) -> tuple[Array, Tree]:
        """Logits [B, 1, 2]."""
        both = jnp.concatenate([h_B1D, a_B1D], -1)
        out, moved = classifier.apply(params["classifier"], stats["classifier"], both, train)
        return out.astype(jnp.promote_types(out.dtype, jnp.float32)), moved

    def loss(params: Tree, extra: Tree, batch: Batch, key: Array, step: Array) -> tuple[Array, Aux]:
        del step
        stats, keys = extra["stats"], jax.random.split(key)
        seen, own = encoder.apply(
            params["encoder"], stats["encoder"], batch["views"], True, keys[0]
        )
        heard, ears = ear.apply(params["ear"], stats["ear"], batch["spectrogram"], True, keys[1])
        logits_B12, last = answers(params, stats, seen.pooled, heard.pooled, True)
        logits_B2, target_B, mask_B = logits_B12[:, 0], batch["target"], batch["mask"]
        value = masked_mean(cross_entropy(logits_B2, target_B), mask_B)
        hits_B = (logits_B2.argmax(-1) == target_B).astype(value.dtype)
        metrics = {"train/loss": value, "task/top1": 100 * masked_mean(hits_B, mask_B)}
        metrics["task/auc"] = auc(logits_B2[:, 1] - logits_B2[:, 0], target_B, mask_B)
        moved = {"encoder": own, "ear": ears, "classifier": last}
        return value, Aux({"stats": moved}, {"h": seen.pooled}, metrics)

    def answered(params: Tree, extra: Tree, batch: Batch, key: Array) -> dict[str, Answers]:
        del key
        stats = extra["stats"]
        seen, _ = encoder.apply(params["encoder"], stats["encoder"], batch["views"], False)
        heard, _ = ear.apply(params["ear"], stats["ear"], batch["spectrogram"], False)
        logits_B12, _ = answers(params, stats, seen.pooled, heard.pooled, False)
        target_B1, mask_B = batch["target"][:, None], batch["mask"]
        return {"task": {"logits": logits_B12, "target": target_B1, "mask": mask_B}}

    def pictures(params: Tree, extra: Tree, given: Mapping[str, Array], key: Array) -> dict:
        del key
        stats, sounds = extra["stats"], pairs.spectrogram(given["sound"])
        seen, _ = encoder.apply(params["encoder"], stats["encoder"], given["views"], False)
        heard, _ = ear.apply(params["ear"], stats["ear"], sounds, False)
        map_BHWD = seen.maps[-1][:, 0].astype(seen.pooled.dtype)

        def score(h_B1D: Array) -> Array:
            logits_B12, _ = answers(params, stats, h_B1D, heard.pooled, False)
            return (logits_B12[..., 1] - logits_B12[..., 0]).sum()

        share = (map_BHWD * jax.grad(score)(seen.pooled)[:, :, None]).sum(-1)
        low, high = share.min((1, 2), keepdims=True), share.max((1, 2), keepdims=True)
        share = (share - low) / jnp.maximum(high - low, 1e-6)
        frame = given["views"][:, 0]
        share = jax.image.resize(share, frame.shape[:3], "linear")
        # Low frequencies below; of the size and the channels of the frames.
        sound = jax.image.resize(sounds[:, 0, ::-1], (*frame.shape[:3], 1), "linear")
        sound = jnp.repeat(sound, frame.shape[-1], -1)
        return {"sound": sound, "where": frame * share[..., None].astype(frame.dtype)}

    def online_encoder(params: Tree, extra: Tree) -> tuple[Tree, Tree]:
        return params["encoder"], extra["stats"]["encoder"]

    def features(params: Tree, extra: Tree, images_NGHWC: Array) -> dict[str, Array]:
        return {"h": encoder.apply(*online_encoder(params, extra), images_NGHWC, False)[0].pooled}

    return Method(
        init,
        loss,
        online_encoder,
        features,
        {"views": 1},
        pictures=pictures,
        task=pairs.task,
        reads={"views": 1, "sound": 1},
        answered=answered,
    )
