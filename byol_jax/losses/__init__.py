"""Losses as pure functions of embeddings, each with its equation; masked rows never count."""

from byol_jax.losses.classification import cross_entropy
from byol_jax.losses.collapse import feature_std_and_rank
from byol_jax.losses.contrastive import nt_xent, regression_with_negatives
from byol_jax.losses.instances import instance_nce, instance_softmax
from byol_jax.losses.predictive import regression
from byol_jax.losses.reductions import (
    masked_covariance,
    masked_logits,
    masked_mean,
    normalize,
)

__all__ = [
    "cross_entropy",
    "feature_std_and_rank",
    "instance_nce",
    "instance_softmax",
    "masked_covariance",
    "masked_logits",
    "masked_mean",
    "normalize",
    "nt_xent",
    "regression",
    "regression_with_negatives",
]
