"""Pure maths on embeddings, each against its equation; masked rows count nowhere."""

from byol_jax.losses.classification import cross_entropy
from byol_jax.losses.collapse import feature_std_and_rank
from byol_jax.losses.contrastive import nt_xent, regression_with_negatives
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
    "masked_covariance",
    "masked_logits",
    "masked_mean",
    "normalize",
    "nt_xent",
    "regression",
    "regression_with_negatives",
]
