"""SimCLR v1 and v2, and the losses that SimCLR was compared with.

Shape key: B examples, V views, H W C image, D features or embedding.

    h = f(views)   z = g(h)   loss = NT-Xent over the global 2N

Reference: Chen et al. 2020 (v1, v2); google-research/simclr.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from jax import Array

from byol_jax.core import Method
from byol_jax.losses import nt_xent
from byol_jax.methods.projections import per_example, projections
from byol_jax.models.network import Network


def simclr(net: Network, *, temperature: float = 0.1) -> Method:
    """SimCLR: views of one image attract, and all other images of the global batch repel.

    Args:
      net: f and g. SimCLR normalises both views in one batch: pass an encoder and a head wrapped
        with `models.joint`.
      temperature: of NT-Xent, above 0.

    Returns:
      The method.
    """
    return contrastive(net, functools.partial(nt_xent, temperature=temperature))


def contrastive(net: Network, loss: Callable[..., Array]) -> Method:
    """SimCLR with another loss: `losses.nt_logistic`, `margin_triplet` or `n_pair`.

    Args:
      net: f and g.
      loss: (z [B, 2, D], mask_B=mask) -> [B].

    Returns:
      The method.

    Reference: Chen et al. 2020, tables 2 and 4.
    """
    return projections(net, per_example(lambda z, batch: loss(z, mask_B=batch["mask"])))
