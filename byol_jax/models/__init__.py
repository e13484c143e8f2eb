"""Encoders by name: linen modules inside, a `core.Encoder` outside.

Shape key: N rows, G batch-norm groups, H W C image or map, D features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from byol_jax.core import Encoder, Features, ViT
from byol_jax.models.groups import grouped, joint, shuffled
from byol_jax.models.init import draw_kernels
from byol_jax.models.layers import ConvSpec
from byol_jax.models.lightness import on_lightness
from byol_jax.models.norm import Groups
from byol_jax.models.resnet import DEPTHS, ResNet, Tiny
from byol_jax.models.vit import SIZES, make_vit

__all__ = [
    "DTYPES",
    "ENCODERS",
    "as_vit",
    "grouped",
    "joint",
    "make_conv",
    "make_encoder",
    "make_vit",
    "maker",
    "on_lightness",
    "output_strides",
    "shuffled",
    "with_output_stride",
]

DTYPES = {"bfloat16": jnp.bfloat16, "float32": jnp.float32, "float64": jnp.float64}
ENCODERS = ("tiny", *(f"resnet{depth}" for depth in DEPTHS), *SIZES)


def _one_of(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{what} is {value!r}; expected one of {', '.join(allowed)}.")


def make_encoder(
    name: str = "resnet50", *, lightness: tuple[Any, ...] | list[Any] = (), **options: Any
) -> Encoder:
    """Build an encoder by its name.

    Args:
      name: "tiny", "resnet18|34|50|101|152|200" or "vit_tiny|small|base|large|huge".
      lightness: (mean, std) that images in colour are normalised with, of which the encoder sees
        the lightness alone; (): it sees the colours. See `on_lightness`.
      **options: of `make_conv`, or of `make_vit` for a vision transformer.

    Returns:
      The encoder. `encoder.config` holds all arguments; `make_encoder(**config)` rebuilds it.

    Raises:
      ValueError: an argument is out of its range.
    """
    _one_of("encoder.name", name, ENCODERS)
    if lightness:
        if len(lightness) != 2 or options.get("channels", 3) != 3:
            raise ValueError(
                f"lightness is {lightness}, for images of {options.get('channels', 3)} channels; "
                "expected (mean, std), for images of 3."
            )
        return on_lightness(make_encoder(name, **{**options, "channels": 1}), *lightness)
    made = maker(name)(name, **options)
    return made.encoder if isinstance(made, ViT) else made


def maker(name: str) -> Callable[..., Encoder | ViT]:
    """The function that builds the encoders of a name."""
    return make_vit if name in SIZES else make_conv


def as_vit(encoder: Encoder, why: str) -> ViT:
    """The vision transformer that an encoder is.

    Args:
      encoder: made by `make_encoder`, perhaps with another `init`.
      why: what needs a transformer, for the error message.

    Raises:
      ValueError: it is none.
    """
    name = encoder.config.get("name")
    if name not in SIZES:
        raise ValueError(
            f"{why} needs a vision transformer, not encoder.name {name!r}; set it to one of "
            f"{', '.join(SIZES)}."
        )
    if encoder.config.get("lightness"):
        raise ValueError(
            f"{why} needs an encoder that sees the images as they are; set encoder.input=colour."
        )
    return make_vit(**encoder.config)._replace(encoder=encoder)


def make_conv(
    name: str = "resnet50",
    *,
    width: float = 1.0,
    stem: str = "imagenet",
    padding: str = "torch",
    zero_init_last: bool = False,
    project_first: bool = False,
    drop_path: float = 0.0,
    remat: bool = False,
    space_to_depth: bool = False,
    sk_ratio: float = 0.0,
    stages: int = 3,
    dtype: str = "float32",
    channels: int = 3,
    output_stride: int = 0,
) -> Encoder:
    """Build a convolutional encoder.

    Args:
      name: "tiny" or "resnet18|34|50|101|152|200".
      width: multiplies every channel count, including the stem's; 0.25 to 4.
      stem: "imagenet" (7x7 stride 2, max-pool) or "cifar" (3x3 stride 1, no pool). ResNets only.
      padding: "torch" (k // 2 on every side) or "same" (XLA's, for DeepMind's weights).
      zero_init_last: start the scale of the last batch norm of each block at 0.
      project_first: a projection shortcut in the first stage of R18 and R34, as in DeepMind's code.
      drop_path: stochastic depth: the rate of the last block, in [0, 1); needs a key in `apply`.
      remat: recompute each block in the backward pass instead of keeping its activations.
      space_to_depth: compute the imagenet stem's convolution on blocks of 2x2 pixels, with the same
        parameters and results; for images of an even size.
      sk_ratio: above 0, the network of SimCLR v2: selective kernels with this ratio of inner width
        in every bottleneck, and ResNet-D's stem and shortcuts; the authors' is 0.0625.
      stages: of "tiny", 3 to 6: the fourth and later ones are as wide as the third.
      dtype: of the computation: "bfloat16", "float32" (parameters and statistics are float32), or
        "float64" (all of it; for tests).
      channels: image channels.
      output_stride: px of the image per position of the last map, for dense tasks; 0: its own. See
        `with_output_stride`.

    Returns:
      The encoder. `encoder.config` holds these arguments, apart from `output_stride`, on which the
      parameters do not depend; `make_encoder(**config)` rebuilds it.

    Raises:
      ValueError: an argument is out of its range.
    """
    config: dict[str, Any] = {k: v for k, v in locals().items() if k != "output_stride"}
    _one_of("encoder.name", name, ENCODERS)
    _one_of("encoder.stem", stem, ("imagenet", "cifar"))
    _one_of("encoder.padding", padding, ("torch", "same"))
    _one_of("encoder.dtype", dtype, tuple(DTYPES))
    if not 0.25 <= width <= 4:
        raise ValueError(f"encoder.width is {width}; expected a value from 0.25 to 4.")
    if not 0 <= sk_ratio <= 1:
        raise ValueError(f"resnet.sk_ratio is {sk_ratio}; expected 0 to 1.")
    if not 0 <= drop_path < 1:
        raise ValueError(f"encoder.drop_path is {drop_path}; expected a rate in [0, 1).")
    param_dtype = jnp.float64 if dtype == "float64" else jnp.float32
    spec = ConvSpec(padding, DTYPES[dtype], param_dtype)
    module: nn.Module
    if name == "tiny":
        if zero_init_last or project_first or drop_path or remat or space_to_depth or sk_ratio:
            raise ValueError(
                "encoder.name 'tiny' has no residual blocks and no 7x7 stem: zero_init_last, "
                "project_first, drop_path, remat, space_to_depth and sk_ratio must keep their "
                "defaults."
            )
        if not 3 <= stages <= 6:
            raise ValueError(f"tiny.stages is {stages}; expected 3 to 6.")
        module, dim = Tiny(width, stages, spec, output_stride), round(128 * width)
    else:
        if stages != 3:
            raise ValueError(f"stages is {stages}, but {name!r} always has four; leave it at 3.")
        if space_to_depth and stem != "imagenet":
            raise ValueError(f"encoder.stem {stem!r} has no 7x7 convolution for space_to_depth.")
        if space_to_depth and sk_ratio:
            raise ValueError(
                "encoder.space_to_depth is of the 7x7 stem, and resnet.sk_ratio has three 3x3 "
                "convolutions instead; set one of them to its default."
            )
        depth = int(name.removeprefix("resnet"))
        if sk_ratio and not DEPTHS[depth][1]:
            raise ValueError(
                f"resnet.sk_ratio is {sk_ratio}, but {name!r} has no bottlenecks, whose "
                "3x3 convolution it splits; use resnet50 or a deeper one, or set it to 0.0."
            )
        options = (zero_init_last, project_first, drop_path, remat, space_to_depth, sk_ratio)
        module = ResNet(depth, width, stem, spec, *options, output_stride)
        dim = round(64 * width) * 8 * (4 if DEPTHS[depth][1] else 1)
    return _wrap(module, dim, channels, DTYPES[dtype], config)


def output_strides(encoder: Encoder) -> tuple[int, ...]:
    """The output strides that an encoder can have, px; its own is the last one.

    Args:
      encoder: made by `make_encoder`, perhaps with another `init`.
    """
    c = encoder.config
    if c["name"] in SIZES:
        return (c["patch"],)
    first, last = (1, 4) if c["name"] == "tiny" else (1, 8) if c["stem"] == "cifar" else (4, 32)
    if c["sk_ratio"]:  # the mean over a map, which mixes the kernels, is over all of its positions
        return (last,)
    return tuple(s for s in (1, 2, 4, 8, 16, 32) if first <= s <= last)


def with_output_stride(encoder: Encoder, stride: int) -> Encoder:
    """The encoder with finer last maps and the same parameters, for dense tasks.

    From where the map has that stride, convolutions have none, and their taps are as far apart as
    the strides left out. At the positions that the plain encoder has, in inference mode, the maps
    are the same.

    Args:
      encoder: made by `make_encoder`, perhaps with another `init`.
      stride: px of the image per position of the last map, one of `output_strides`.

    Raises:
      ValueError: it is none of them.

    Reference: Chen et al. 2017 (DeepLab); timm's `output_stride`, which has the same taps.
    """
    possible = output_strides(encoder)
    if stride not in possible:
        raise ValueError(
            f"eval.output_stride is {stride}; expected one of {', '.join(map(str, possible))} for "
            f"{encoder.config['name']!r}, or 0."
        )
    if stride == possible[-1]:
        return encoder
    dilated = make_encoder(**encoder.config, output_stride=stride)
    return dilated._replace(init=encoder.init)


def _wrap(
    module: nn.Module, dim: int, channels: int, dtype: jnp.dtype, config: dict[str, Any]
) -> Encoder:
    """Wrap a linen module that maps [N * G, H, W, C] to stage maps as an `Encoder`."""

    def init(key: Array, images_NGHWC: Array) -> tuple[Any, Any]:
        # Shapes do not depend on N and G; one row keeps the traced forward pass small.
        x = jnp.zeros((1, *images_NGHWC.shape[2:]), dtype)
        out = module.init(key, x, None, Groups(1), False)
        return draw_kernels(key, out["params"]), out["batch_stats"]

    def apply(
        params: Any,
        stats: Any,
        images_NGHWC: Array,
        train: bool,
        key: Array | None = None,
        groups: int = 1,
        frozen: int = 0,
    ) -> tuple[Features, Any]:
        n, g, *rest = images_NGHWC.shape
        if rest[-1] != channels:
            raise ValueError(
                f"Images have {rest[-1]} channels, shape {images_NGHWC.shape}; the encoder was "
                f"built for {channels}. Set `channels` or convert the images."
            )
        x = images_NGHWC.reshape(n * g, *rest).astype(dtype)
        maps, new = module.apply(
            {"params": params, "batch_stats": stats},
            x,
            key,
            Groups(g, groups),
            train,
            *((frozen,) if frozen else ()),
            mutable=["batch_stats"] if train else [],
        )
        # The mean is computed in at least float32: 49 bfloat16 terms lose two digits.
        pooled = maps[-1].astype(jnp.promote_types(dtype, jnp.float32)).mean((1, 2))
        split = tuple(m.reshape(n, g, *m.shape[1:]) for m in maps)
        return Features(pooled.reshape(n, g, dim), split), new["batch_stats"] if train else stats

    return Encoder(init, apply, dim, channels, config)
