"""SimCLR v1 and v2.

Shape key: B examples, V views, H W C image, D features or embedding.

    h = f(views)   z = g(h)   loss = NT-Xent over the global 2N

Reference: Chen et al. 2020 (v1, v2); google-research/simclr.
"""

from __future__ import annotations

from jax import Array

from byol_jax.core import Aux, Batch, Method, Tree
from byol_jax.losses import masked_mean, nt_xent
from byol_jax.models.network import Network, inference


def simclr(net: Network, *, temperature: float = 0.1) -> Method:
    """SimCLR: views of one image attract, and all other images of the global batch repel.

    Args:
      net: f and g. SimCLR normalises both views in one batch: pass an encoder and a head wrapped
        with `models.joint`.
      temperature: of NT-Xent, above 0.

    Returns:
      The method.
    """

    def init(key: Array, batch: Batch) -> tuple[Tree, Tree]:
        params, stats = net.init(key, batch["views"])
        return params, {"stats": stats}

    def loss(params: Tree, extra: Tree, batch: Batch, key: Array, step: Array) -> tuple[Array, Aux]:
        del step
        h, z, stats = net.apply(params, extra["stats"], batch["views"], True, key)
        value = masked_mean(nt_xent(z, temperature, batch["mask"]), batch["mask"])
        return value, Aux({"stats": stats}, {"h": h, "z": z}, {"train/loss": value})

    return Method(init, loss, *inference(net), {"views": 2})
