"""SupCon: supervised contrastive learning.

Shape key: B examples, V views, D embedding.

    h = f(views)   z = g(h)
    loss of an anchor = mean over the other views of its class of -log softmax(z.z / t)

Reference: Khosla et al. 2020; HobbitLong/SupContrast:losses.py.
"""

from __future__ import annotations

from jax import Array

from byol_jax.core import Batch, Method
from byol_jax.losses import supervised_contrastive
from byol_jax.methods.projections import per_example, projections
from byol_jax.models.network import Network


def supcon(
    net: Network, *, temperature: float = 0.1, scale: float = 1.0, inside: bool = False
) -> Method:
    """SupCon: views of images of one class attract, and all others of the global batch repel.

    Args:
      net: f and g, with both views normalised in one batch (`models.joint`), as by the authors.
      temperature: t, above 0.
      scale: of the loss. The authors' PyTorch code has t / 0.07, their TensorFlow code t.
      inside: take the mean over the positives inside the logarithm.

    Returns:
      The method. It reads batch["label"]; an image labelled -1 is a class of its own.
    """

    def loss(z_BVD: Array, batch: Batch) -> Array:
        label, mask = batch["label"], batch["mask"]
        return scale * supervised_contrastive(
            z_BVD, label, mask, temperature=temperature, inside=inside
        )

    return projections(net, per_example(loss))
