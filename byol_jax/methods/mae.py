"""Masked autoencoders (MAE).

Shape key: B examples, H W C image, L patches of an image, K of them visible, P prefix tokens (class
token, registers), T = P + K, D features, Q numbers of a patch.

    keep = K of the L patches, at random for each example
    tokens = f(patches[keep])                              the encoder sees these alone
    pixels = g(tokens, mask tokens in the place of the hidden patches)
    loss = |pixels - target|^2, the mean over the hidden patches
    target = (patch - its mean) / its standard deviation

Reference: He et al. 2022; facebookresearch/mae:models_mae.py.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from byol_jax.core import Aux, Batch, Method, Tree, ViT
from byol_jax.losses import masked_mean
from byol_jax.models.mae_decoder import Decoder
from byol_jax.models.patches import grid_of, patchify, unpatchify

EPSILON = 1e-6  # of the variance of a patch


def mae(
    vit: ViT,
    decoder: Decoder,
    *,
    mask: float = 0.75,
    normalised: bool = True,
    mask_tokens: bool = False,
) -> Method:
    """MAE.

    Args:
      vit: f.
      decoder: g, for images of the same channels and patches.
      mask: share of the patches that are hidden, above 0 and below 1; K is rounded down.
      normalised: the target is each patch's pixels by their own mean and deviation, or else the
        pixels as they are in the views.
      mask_tokens: the encoder sees all L places, with a mask token of its own in those of hidden
        patches: the slow variant of the paper's table 1c, which loses.

    Returns:
      The method, of one view. Only f is evaluated and exported. In training "h" is pooled from the
      visible patches. `pictures` shows hidden patches in grey, and their reconstruction in the
      place of them.
    """

    def init(key: Array, batch: Batch) -> tuple[Tree, Tree]:
        encoder_key, decoder_key, token_key = jax.random.split(key, 3)
        params, stats = vit.encoder.init(encoder_key, batch["views"])
        params = {"encoder": params, "decoder": decoder.init(decoder_key)}
        if mask_tokens:
            dtype = params["encoder"]["norm"]["scale"].dtype
            token = 0.02 * jax.random.normal(token_key, (1, vit.encoder.dim), dtype)
            params["mask_token"] = token
        return params, {"stats": stats}

    def predict(
        params: Tree, images_BHWC: Array, key: Array, train: bool
    ) -> tuple[Array, Array, Array]:
        """(predicted patches [B, L, Q], 1 for hidden ones [B, L], pooled features [B, D])."""
        noise_key, encoder_key = jax.random.split(key)
        grid = grid_of(images_BHWC, vit.patch)
        patches = grid[0] * grid[1]
        visible = int(patches * (1 - mask))
        if not 0 < visible < patches:
            raise ValueError(
                f"mae.mask is {mask}, which leaves {visible} of the {patches} patches of an image; "
                "expected at least one that is visible and one that is not: change it, vit.patch "
                "or image_size."
            )
        rank_BL, keep_BK = random_order(noise(noise_key, len(images_BHWC), patches), visible)
        hidden_BL = rank_BL >= visible
        fill, place_BL = None, jnp.minimum(rank_BL, visible)
        if mask_tokens:
            fill = params["mask_token"][0]
            place_BL = jnp.broadcast_to(jnp.arange(patches)[None], rank_BL.shape)
        tokens_BTD, h_BD = vit.tokens(
            params["encoder"], images_BHWC, keep_BK, fill, train, encoder_key
        )
        pixels_BLQ, _ = decoder.apply(params["decoder"], {}, tokens_BTD, place_BL, grid)
        wide = jnp.promote_types(pixels_BLQ.dtype, jnp.float32)
        return pixels_BLQ.astype(wide), hidden_BL.astype(wide), h_BD

    def loss(params: Tree, extra: Tree, batch: Batch, key: Array, step: Array) -> tuple[Array, Aux]:
        del step
        images = batch["views"][:, 0]
        pixels_BLQ, hidden_BL, h_BD = predict(params, images, key, True)
        target_BLQ, *_ = targets(images)
        error_BL = jnp.square(pixels_BLQ - target_BLQ.astype(pixels_BLQ.dtype)).mean(-1)
        loss_B = (error_BL * hidden_BL).sum(1) / hidden_BL.sum(1)
        value = masked_mean(loss_B, batch["mask"])
        return value, Aux(extra, {"h": h_BD[:, None]}, {"train/loss": value})

    def targets(images_BHWC: Array) -> tuple[Array, Array, Array]:
        """(target [B, L, Q], and the mean and deviation [B, L, 1] that it is of)."""
        patches_BLQ = patchify(images_BHWC, vit.patch)
        mean = patches_BLQ.mean(-1, keepdims=True)
        deviation = jnp.sqrt(patches_BLQ.var(-1, keepdims=True, ddof=1) + EPSILON)
        if not normalised:
            mean, deviation = jnp.zeros_like(mean), jnp.ones_like(deviation)
        return (patches_BLQ - mean) / deviation, mean, deviation

    def encoder(params: Tree, extra: Tree) -> tuple[Tree, Tree]:
        return params["encoder"], extra["stats"]

    def features(params: Tree, extra: Tree, images_NGHWC: Array) -> dict[str, Array]:
        out, _ = vit.encoder.apply(*encoder(params, extra), images_NGHWC, False)
        return {"h": out.pooled}

    def pictures(params: Tree, extra: Tree, images_BHWC: Array, key: Array) -> dict[str, Array]:
        del extra
        grid = grid_of(images_BHWC, vit.patch)
        pixels_BLQ, hidden_BL, _ = predict(params, images_BHWC, key, False)
        _, mean, deviation = targets(images_BHWC)
        hidden = hidden_BL[:, :, None] > 0
        seen_BLQ = patchify(images_BHWC, vit.patch)
        found = {
            "masked": jnp.where(hidden, 0, seen_BLQ),
            # Of a normalised patch, mean and contrast are those of the image.
            "reconstruction": jnp.where(hidden, pixels_BLQ * deviation + mean, seen_BLQ),
        }
        return {name: unpatchify(x, vit.patch, grid) for name, x in found.items()}

    return Method(init, loss, encoder, features, {"views": 1}, moving=(), pictures=pictures)


def noise(key: Array, rows: int, patches: int) -> Array:
    """Uniform numbers [rows, patches] that order the patches of each example."""
    return jax.random.uniform(key, (rows, patches), jnp.float32)


def random_order(noise_BL: Array, visible: int) -> tuple[Array, Array]:
    """The order of the patches of each example, by their noise.

    Args:
      noise_BL: the patches with the smallest numbers are visible.
      visible: K.

    Returns:
      (the rank of each patch [B, L], the numbers of the visible patches by their rank [B, K]).
    """
    order_BL = jnp.argsort(noise_BL, axis=1)
    return jnp.argsort(order_BL, axis=1), order_BL[:, :visible]
