"""Vision transformers.

Shape key: N rows, G views, H W C image, h w patches, L = h w, K visible patches, P prefix tokens
(class token and registers), T = P + K tokens, D features.

    tokens = (class token, registers, patches E + positions)       E: the patch projection
    tokens = block(... block(tokens))
    pooled = norm(class token)   or   norm(mean of the patches)   or   mean of norm(patches)

Parameter names follow timm's (patch_embed, blocks_0/attn/qkv ...).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from byol_jax.core import Encoder, Features, Tree, ViT
from byol_jax.models.init import draw
from byol_jax.models.patches import grid_of, patchify, resampled, sincos
from byol_jax.models.transformer import Blocks, blank_linear, blank_norm, layer_norm, linear

# name -> (width, blocks, heads)
SIZES = {
    "vit_tiny": (192, 12, 3),
    "vit_small": (384, 12, 6),
    "vit_base": (768, 12, 12),
    "vit_large": (1024, 24, 16),
    "vit_huge": (1280, 32, 16),
}
TOKENS = ("cls_token", "reg_token")
POOLS = ("token", "mean", "normed_mean")
# Whose initial weights -> standard deviation of the tokens.
INITS = {"mae": 0.02, "mocov3": 1e-6, "dino": 0.02}
# Largest values, so that a forged file cannot request all memory or time.
MOST = {"image_size": 4096, "patch": 256, "dim": 8192, "depth": 256, "registers": 1024}


def make_vit(
    name: str,
    *,
    image_size: int = 224,
    patch: int = 16,
    dim: int = 0,
    depth: int = 0,
    heads: int = 0,
    pool: str = "token",
    class_token: bool = True,
    registers: int = 0,
    positions: str = "sincos",
    layer_scale: float = 0.0,
    init: str = "mae",
    maps: int = 4,
    width: float = 1.0,
    padding: str = "torch",
    drop_path: float = 0.0,
    remat: bool = False,
    dtype: str = "float32",
    channels: int = 3,
) -> ViT:
    """Build a vision transformer.

    Args:
      name: "vit_tiny|small|base|large|huge": timm's sizes.
      image_size: side of the images that the positions are for, px; a multiple of `patch`. Of
        images of another size, positions are resampled as timm does.
      patch: side of a patch, px.
      dim, depth, heads: width D, blocks, heads per block; 0: those of `name`. MoCo v3's Small has
        12 heads. D is a multiple of 4 and of the heads.
      pool: "token" (the class token, then the norm), "mean" (the mean of the patches, then the
        norm: timm's "avg", and MAE's in fine-tuning) or "normed_mean" (the norm, then the mean).
      class_token: whether there is one.
      registers: further tokens, which are no feature (Darcet et al. 2024).
      positions: "sincos" (fixed) or "learned".
      layer_scale: initial value of a factor on each branch of a block; 0: none.
      init: whose initial weights: "mae" (Xavier's uniform for all kernels), "mocov3" (queries, keys
        and values as three kernels; class token near 0) or "dino" (normal, 0.02).
      maps: `Features.maps` has the patch tokens of so many blocks, evenly spaced, the last one
        among them.
      width, padding: of convolutional encoders; 1.0 and "torch".
      drop_path: stochastic depth: the rate of the last block, in [0, 1); needs a key in `apply`.
      remat: recompute each block in the backward pass instead of keeping its activations.
      dtype: of the computation: "bfloat16", "float32" (parameters are float32, and norms are
        computed in it), or "float64" (all of it; for tests).
      channels: image channels.

    Returns:
      The transformer, without statistics. `encoder.config` holds these arguments, with `dim`,
      `depth` and `heads` as they are.

    Raises:
      ValueError: an argument is out of its range.

    Reference: Dosovitskiy et al. 2021; Chen, Xie and He 2021 (MoCo v3) for fixed positions.
    """
    config: dict[str, Any] = {k: v for k, v in locals().items() if k != "config"}
    if name not in SIZES:
        raise ValueError(f"encoder.name is {name!r}; expected one of {', '.join(SIZES)}.")
    dim, depth, heads = (
        given or usual for given, usual in zip((dim, depth, heads), SIZES[name], strict=True)
    )
    config |= {"dim": dim, "depth": depth, "heads": heads}
    _check(config)
    compute = jnp.dtype(dtype)
    stored = jnp.float64 if dtype == "float64" else jnp.float32
    blocks = Blocks(dim, depth, heads, layer_scale, drop_path, remat, compute, stored)
    net = _Network(
        blocks,
        side=image_size // patch,
        patch=patch,
        pool=pool,
        class_token=class_token,
        registers=registers,
        learned=positions == "learned",
        weights=init,
        maps=maps,
        channels=channels,
    )
    encoder = Encoder(net.init, net.apply, dim, channels, config)
    return ViT(encoder, net.tokens, net.attention, patch, net.prefix)


@dataclasses.dataclass(frozen=True)
class _Network:
    """The functions of a transformer; see `make_vit`.

    side: patches down and across. learned: whether positions are. weights: whose initial ones.
    """

    blocks: Blocks
    side: int
    patch: int
    pool: str
    class_token: bool
    registers: int
    learned: bool
    weights: str
    maps: int
    channels: int

    @property
    def prefix(self) -> int:
        """P."""
        return int(self.class_token) + self.registers

    def init(self, key: Array, images_NGHWC: Array) -> tuple[Tree, Tree]:
        """See `Encoder`; shapes depend on the arguments of `make_vit` alone."""
        del images_NGHWC
        patch, dim, dtype = self.patch, self.blocks.dim, self.blocks.param_dtype
        projection = blank_linear(patch * patch * self.channels, dim, dtype)
        kernel = projection["kernel"].reshape(patch, patch, self.channels, dim)
        params = {
            "patch_embed": {**projection, "kernel": kernel},
            **self.blocks.blank(),
            "norm": blank_norm(dim, dtype),
        }
        tables = {
            "cls_token": int(self.class_token),
            "reg_token": self.registers,
            "pos_embed": self.side**2 if self.learned else 0,
        }
        params |= {name: jnp.zeros((rows, dim), dtype) for name, rows in tables.items() if rows}
        return draw_weights(key, params, self.weights), {}

    def apply(
        self,
        params: Tree,
        stats: Tree,
        images_NGHWC: Array,
        train: bool,
        key: Array | None = None,
        groups: int = 1,
        frozen: int = 0,
    ) -> tuple[Features, Tree]:
        """See `Encoder`."""
        del groups  # there is no batch norm
        n, g, *rest = images_NGHWC.shape
        images = images_NGHWC.reshape(n * g, *rest)
        x_NTD = self._embedded(params, images, None, None)
        if frozen:  # part 0; the blocks are the next ones
            x_NTD = jax.lax.stop_gradient(x_NTD)
        found = self.blocks.apply(params, x_NTD, train, key, max(frozen - 1, 0))
        shape = (n, g, *grid_of(images, self.patch), self.blocks.dim)
        taken = [math.ceil((i + 1) * len(found) / self.maps) - 1 for i in range(self.maps)]
        maps_NGhwD = tuple(found[i][:, self.prefix :].reshape(shape) for i in taken)
        return Features(self._pooled(params, found[-1]).reshape(n, g, -1), maps_NGhwD), stats

    def tokens(
        self,
        params: Tree,
        images_NHWC: Array,
        keep_NK: Array | None = None,
        fill_D: Array | None = None,
        train: bool = False,
        key: Array | None = None,
    ) -> tuple[Array, Array]:
        """See `core.ViT`."""
        x_NTD = self._embedded(params, images_NHWC, keep_NK, fill_D)
        x_NTD = self.blocks.apply(params, x_NTD, train, key)[-1]
        tokens_NTD = layer_norm(params["norm"], x_NTD).astype(x_NTD.dtype)
        return tokens_NTD, self._pooled(params, x_NTD)

    def attention(self, params: Tree, images_NHWC: Array) -> Array:
        """See `core.ViT`."""
        return self.blocks.attention(params, self._embedded(params, images_NHWC, None, None))

    def _pooled(self, params: Tree, x_NTD: Array) -> Array:
        x_NTD = x_NTD.astype(jnp.promote_types(x_NTD.dtype, jnp.float32))
        if self.pool == "normed_mean":
            return layer_norm(params["norm"], x_NTD[:, self.prefix :]).mean(1)
        x = x_NTD[:, 0] if self.pool == "token" else x_NTD[:, self.prefix :].mean(1)
        return layer_norm(params["norm"], x)

    def _embedded(
        self, params: Tree, images_NHWC: Array, keep_NK: Array | None, fill_D: Array | None
    ) -> Array:
        """The tokens before the first block."""
        if images_NHWC.shape[-1] != self.channels:
            raise ValueError(
                f"Images have {images_NHWC.shape[-1]} channels, shape {images_NHWC.shape}; the "
                f"encoder was built for {self.channels}. Set `channels` or convert the images."
            )
        dim, dtype = self.blocks.dim, self.blocks.dtype
        at_NLD = self._positions(params, grid_of(images_NHWC, self.patch))[None]
        x = patchify(images_NHWC.astype(dtype), self.patch)
        if keep_NK is not None and fill_D is None:
            x, at_NLD = jnp.take_along_axis(x, keep_NK[:, :, None], 1), at_NLD[0][keep_NK]
        projection = params["patch_embed"]
        x = linear({**projection, "kernel": projection["kernel"].reshape(-1, dim)}, x)
        if keep_NK is not None and fill_D is not None:
            rows = jnp.arange(x.shape[0])[:, None]
            kept = jnp.zeros(x.shape[:2], bool).at[rows, keep_NK].set(True)
            x = jnp.where(kept[:, :, None], x, fill_D.astype(dtype).reshape(1, 1, dim))
        first = [params[name].astype(dtype)[None] for name in TOKENS if name in params]
        first = [jnp.broadcast_to(t, (len(x), *t.shape[1:])) for t in first]
        return jnp.concatenate([*first, x + at_NLD], 1)

    def _positions(self, params: Tree, grid: tuple[int, int]) -> Array:
        """Of the patches of a grid, [L, D]."""
        own = (self.side, self.side)
        table = params["pos_embed"] if self.learned else sincos(self.blocks.dim, own)
        table = jnp.asarray(table, self.blocks.param_dtype)
        return resampled(table, own, grid).astype(self.blocks.dtype)


def _check(c: dict[str, Any]) -> None:
    """Refuse arguments of `make_vit` that are out of their ranges."""
    for what, allowed in (
        ("pool", POOLS),
        ("positions", ("sincos", "learned")),
        ("init", tuple(INITS)),
    ):
        if c[what] not in allowed:
            raise ValueError(f"vit.{what} is {c[what]!r}; expected one of {', '.join(allowed)}.")
    if c["dtype"] not in ("bfloat16", "float32", "float64"):
        raise ValueError(
            f"encoder.dtype is {c['dtype']!r}; expected one of bfloat16, float32, float64."
        )
    for what, most in MOST.items():
        least = 0 if what == "registers" else 1
        if not least <= c[what] <= most:
            name = what if what == "image_size" else f"vit.{what}"
            raise ValueError(f"{name} is {c[what]}; expected {least} to {most}.")
    if c["width"] != 1 or c["padding"] != "torch":
        raise ValueError(
            f"encoder.width {c['width']} and encoder.padding {c['padding']!r} are of convolutional "
            f"encoders; leave them at 1.0 and 'torch' for {c['name']}, and set vit.dim."
        )
    if c["image_size"] % c["patch"]:
        raise ValueError(
            f"image_size {c['image_size']} cannot be divided into patches of vit.patch "
            f"{c['patch']} px; choose a multiple."
        )
    if c["heads"] < 1 or c["dim"] % c["heads"] or c["dim"] % 4:
        raise ValueError(
            f"vit.dim is {c['dim']} with vit.heads {c['heads']}; expected a multiple of 4 and of "
            "the heads."
        )
    if not 1 <= c["maps"] <= c["depth"]:
        raise ValueError(f"vit.maps is {c['maps']}; expected 1 to the {c['depth']} blocks.")
    if not 0 <= c["drop_path"] < 1:
        raise ValueError(f"encoder.drop_path is {c['drop_path']}; expected a rate in [0, 1).")
    if not 0 <= c["layer_scale"] < math.inf:
        raise ValueError(f"vit.layer_scale is {c['layer_scale']}; expected 0 or more.")
    if c["pool"] == "token" and not c["class_token"]:
        raise ValueError(
            "vit.pool is 'token', but there is no class token; set vit.pool=mean, or "
            "vit.class_token=True."
        )


def draw_weights(key: Array, params: Tree, init: str) -> Tree:
    """Draw the kernels, tokens and learned positions of a transformer.

    Args:
      key: of this network.
      params: with blank kernels.
      init: as for `make_vit`.

    Reference: facebookresearch/mae:models_mae.py, facebookresearch/moco-v3:vits.py,
      facebookresearch/dino:vision_transformer.py (initialisation).
    """
    kernels_key, tokens_key = jax.random.split(key)

    def scale(path: str, shape: tuple[int, ...]) -> float:
        inner, outer = math.prod(shape[:-1]), shape[-1]
        if init == "dino":
            # NOTE: theirs for the patches is uniform, and their bias too; this has the variance.
            return (3 * inner) ** -0.5 if "patch_embed" in path else INITS[init]
        if init == "mocov3" and path.endswith("qkv/kernel"):
            outer //= 3
        return math.sqrt(6 / (inner + outer))

    def numbers(count: int, dtype: jnp.dtype) -> Array:
        if init == "dino":
            return jax.random.normal(kernels_key, (count,), dtype)
        return jax.random.uniform(kernels_key, (count,), dtype, -1, 1)

    def normal(count: int, dtype: jnp.dtype) -> Array:
        return jax.random.normal(tokens_key, (count,), dtype)

    def deviation(path: str, shape: tuple[int, ...]) -> float:
        return 0.02 if path.endswith("pos_embed") else INITS[init]

    return draw(draw(params, numbers, scale), normal, deviation, (*TOKENS, "pos_embed"))


def resized(params: Tree, before: int, after: int) -> Tree:
    """Parameters for images of another size: learned positions are resampled as timm does.

    Args:
      params: of a transformer.
      before, after: patches down and across.
    """
    if "pos_embed" not in params:
        return params
    table = resampled(params["pos_embed"], (before, before), (after, after))
    return {**params, "pos_embed": table}
