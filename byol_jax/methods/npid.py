"""Instance discrimination with a memory bank (NPID).

Shape key: B examples of the batch, V views (one), D embedding, N examples of the data set, M rows
of the bank, K negatives.

    v = g(f(view)) / |g(f(view))|          bank_i: a running mean of the v of example i
    loss = NCE of bank_i among K uniform draws of other rows; K = 0: softmax over all rows
    bank_i <- m bank_i + (1 - m) v, normalised                                 after the loss

Embeddings are compared with the whole bank where its rows are: 4 B N D operations with the
gradient, shared by the devices, and no row of the bank moves. For NCE the similarities [B, N] then
go to the devices of their examples (and their gradients back), where K of each are picked.

Reference: Wu et al. 2018; zhirongw/lemniscate.pytorch:lib/NCEAverage.py and LinearAverage.py.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from byol_jax.core import Aux, Batch, Method, Tree
from byol_jax.losses import instance_nce, instance_softmax, masked_logits, masked_mean, normalize
from byol_jax.losses.instances import partition
from byol_jax.mesh import ANYWHERE, Placement
from byol_jax.models.network import Network, inference

MULTIPLE = 1024
"""Rows of the bank are padded to a multiple of this, so that they can be shared by 2, 4, ... 1024
devices, and a checkpoint fits all of them."""


def npid(
    net: Network,
    *,
    examples: int,
    negatives: int = 4096,
    temperature: float = 0.07,
    momentum: float = 0.5,
    place: Placement = ANYWHERE,
) -> Method:
    """Instance discrimination.

    Args:
      net: f and g; the authors' g is one linear layer.
      examples: N; batch["index"] is below it.
      negatives: K, drawn for each example from all N with replacement; 0: the full softmax.
      temperature: of the similarities, above 0.
      momentum: m, of the bank's rows, 0 to 1.
      place: on several devices, so that embeddings go to the bank, not the bank to them.

    Returns:
      The method, of one view. extra["bank"] [M, D] is sharded over all devices. With K > 0,
      extra["normalizer"] is Z, set by the first batch and constant from then on. A masked row
      changes neither; of several rows with one index, the last of the batch changes the bank.
    """
    rows = -(-examples // MULTIPLE) * MULTIPLE

    def init(key: Array, batch: Batch) -> tuple[Tree, Tree]:
        net_key, bank_key = jax.random.split(key)
        params, stats = net.init(net_key, batch["views"])
        dtype, limit = jax.tree.leaves(params)[0].dtype, (3 / net.dim) ** 0.5
        bank = jax.random.uniform(bank_key, (rows, net.dim), dtype, -limit, limit)
        extra = {"stats": stats, "bank": jnp.where(_padding(rows, examples)[:, None], 0, bank)}
        return params, extra | ({"normalizer": jnp.zeros((), dtype)} if negatives else {})

    def loss(params: Tree, extra: Tree, batch: Batch, key: Array, step: Array) -> tuple[Array, Aux]:
        del step
        net_key, draw_key = jax.random.split(key)
        h, z, stats = net.apply(params, extra["stats"], batch["views"], True, net_key)
        v, bank, index, mask = normalize(z[:, 0]), extra["bank"], batch["index"], batch["mask"]
        own = bank[index]
        positive = (v * own).sum(-1) / temperature
        s_BM = masked_logits(place.whole(v), bank, temperature, _padding(rows, examples))
        s_BM = place.rows(s_BM.T).T
        if negatives:
            drawn = jax.random.randint(draw_key, (len(index), negatives), 0, examples, jnp.int32)
            noise = jnp.take_along_axis(place.rows(s_BM), place.rows(drawn), 1)
            first = jax.lax.stop_gradient(partition(positive, noise, mask, examples))
            constant = jnp.where(extra["normalizer"] > 0, extra["normalizer"], first)
            # No row counts as long as Z is 0.
            losses = instance_nce(positive, noise, jnp.where(constant > 0, constant, 1), examples)
            extra = {**extra, "normalizer": constant}
        else:
            losses = instance_softmax(positive, s_BM)
        value = masked_mean(losses, mask)
        new = normalize(momentum * own + (1 - momentum) * jax.lax.stop_gradient(v))
        slot = jnp.where(last_of_each(index, mask), index, rows)  # beyond the end: dropped
        extra = {**extra, "stats": stats, "bank": bank.at[slot].set(new, mode="drop")}
        metrics = {"train/loss": value} | (
            {"bank/normalizer": extra["normalizer"]} if negatives else {}
        )
        return value, Aux(extra, {"h": h, "z": z}, metrics)

    moving = ("stats", "bank", "normalizer") if negatives else ("stats", "bank")
    return Method(init, loss, *inference(net), {"views": 1}, moving=moving, sharded=("bank",))


def _padding(rows: int, examples: int) -> Array:
    """True for rows of the bank that are no example."""
    return jnp.arange(rows) >= examples


def last_of_each(index_B: Array, mask_B: Array) -> Array:
    """Which rows are the last ones of their index among the rows that count.

    JAX leaves it open which of several writes to one place counts.

    Args:
      index_B: position of each example in the data set.
      mask_B: 1 for rows that count.

    Returns:
      [B], bool.
    """
    counts_B = mask_B > 0
    later_BB = jnp.arange(len(index_B))[None, :] > jnp.arange(len(index_B))[:, None]
    same_BB = (index_B[None, :] == index_B[:, None]) & counts_B[None, :]
    return counts_B & ~(later_BB & same_BB).any(1)
