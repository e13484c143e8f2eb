"""Losses as pure functions of embeddings, each with its equation; masked rows never count."""

from byol_jax.losses.classification import (
    auc,
    cross_entropy,
    distillation,
    soft_cross_entropy,
)
from byol_jax.losses.clusters import code_prediction, sinkhorn
from byol_jax.losses.collapse import feature_std_and_rank
from byol_jax.losses.contrastive import (
    n_pair,
    nt_xent,
    regression_with_negatives,
    supervised_contrastive,
)
from byol_jax.losses.dense import pixel_cross_entropy, reverse_huber
from byol_jax.losses.info_nce import info_nce, info_nce_in_batch, symmetric_info_nce
from byol_jax.losses.instances import instance_nce, instance_softmax
from byol_jax.losses.predictive import negative_cosine, regression, regression_of_all
from byol_jax.losses.reductions import (
    masked_covariance,
    masked_logits,
    masked_mean,
    normalize,
)
from byol_jax.losses.redundancy import barlow_twins, cross_correlation, vicreg
from byol_jax.losses.triplets import margin_triplet, nt_logistic

__all__ = [
    "auc",
    "barlow_twins",
    "code_prediction",
    "cross_correlation",
    "cross_entropy",
    "distillation",
    "feature_std_and_rank",
    "info_nce",
    "info_nce_in_batch",
    "instance_nce",
    "instance_softmax",
    "margin_triplet",
    "masked_covariance",
    "masked_logits",
    "masked_mean",
    "n_pair",
    "negative_cosine",
    "normalize",
    "nt_logistic",
    "nt_xent",
    "pixel_cross_entropy",
    "regression",
    "regression_of_all",
    "regression_with_negatives",
    "reverse_huber",
    "sinkhorn",
    "soft_cross_entropy",
    "supervised_contrastive",
    "symmetric_info_nce",
    "vicreg",
]
