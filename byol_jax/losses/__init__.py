"""Losses as pure functions of embeddings, each with its equation; masked rows never count."""

from byol_jax.losses.classification import cross_entropy
from byol_jax.losses.collapse import feature_std_and_rank
from byol_jax.losses.contrastive import nt_xent, regression_with_negatives
from byol_jax.losses.info_nce import info_nce, info_nce_in_batch, symmetric_info_nce
from byol_jax.losses.predictive import negative_cosine, regression
from byol_jax.losses.reductions import (
    masked_covariance,
    masked_logits,
    masked_mean,
    normalize,
)

__all__ = [
    "cross_entropy",
    "feature_std_and_rank",
    "info_nce",
    "info_nce_in_batch",
    "masked_covariance",
    "masked_logits",
    "masked_mean",
    "negative_cosine",
    "normalize",
    "nt_xent",
    "regression",
    "regression_with_negatives",
    "symmetric_info_nce",
]
