"""Losses as pure functions of embeddings, each with its equation; masked rows never count."""

from byol_jax.losses.classification import cross_entropy
from byol_jax.losses.clusters import code_prediction, sinkhorn
from byol_jax.losses.collapse import feature_std_and_rank
from byol_jax.losses.contrastive import nt_xent, regression_with_negatives
from byol_jax.losses.predictive import regression, regression_of_all
from byol_jax.losses.reductions import (
    masked_covariance,
    masked_logits,
    masked_mean,
    normalize,
)

__all__ = [
    "code_prediction",
    "cross_entropy",
    "feature_std_and_rank",
    "masked_covariance",
    "masked_logits",
    "masked_mean",
    "normalize",
    "nt_xent",
    "regression",
    "regression_of_all",
    "regression_with_negatives",
    "sinkhorn",
]
