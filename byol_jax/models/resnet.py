"""Convolutional encoders: ResNets, and a tiny one without shortcuts for small images.

Shape key: N rows, G batch-norm groups, H W C image or map, D features.
Parameter names follow torchvision's (conv1, bn1, layer1_0/conv1, layer1_0/downsample_conv ...), so
that `convert/timm.py` is a change of layout only.
"""

from __future__ import annotations

import functools

import jax
from flax import linen as nn
from jax import Array

from byol_jax.models.layers import ConvSpec, Dilation
from byol_jax.models.norm import Groups
from byol_jax.models.selective import SelectiveKernels, shortcut_pool
from byol_jax.models.stem import BlockConv

# depth -> (blocks per stage, bottleneck)
DEPTHS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
    200: ((3, 24, 36, 3), True),
}


class Block(nn.Module):
    """A residual block, post-activation: basic (3x3, 3x3) or bottleneck (1x1, 3x3 strided, 1x1)."""

    spec: ConvSpec
    features: int  # of the 3x3 convolutions; a bottleneck outputs 4 times as many
    stride: int
    bottleneck: bool
    project: bool
    zero_init_last: bool
    drop_path: float
    sk_ratio: float = 0.0  # above 0: selective kernels and ResNet-D's shortcut
    taps: int = 1  # see Dilation: before the strided convolution
    skipped: int = 1

    @nn.compact
    def __call__(self, x: Array, key: Array | None, groups: Groups, train: bool) -> Array:
        """Map x [N * G, H, W, C] to [N * G, H / stride, W / stride, features (* 4)]."""
        spec, f = self.spec, self.features
        layers: tuple[tuple[int, int, int], ...]  # width, kernel, stride
        if self.bottleneck:
            layers = ((f, 1, 1), (f, 3, self.stride), (4 * f, 1, 1))
        else:
            layers = ((f, 3, self.stride), (f, 3, 1))
        shortcut = x
        if self.project:
            stride = self.stride
            if self.sk_ratio:
                shortcut, stride = shortcut_pool(x, stride), 1
            shortcut = spec.conv(layers[-1][0], 1, stride, "downsample_conv")(shortcut)
            shortcut = spec.norm("downsample_bn")(shortcut, groups, train)
        for i, (width, kernel, stride) in enumerate(layers, 1):
            last = i == len(layers)
            if self.sk_ratio and kernel == 3:
                x = SelectiveKernels(spec, width, stride, self.sk_ratio, name=f"conv{i}")(
                    x, groups, train
                )
                continue
            x = spec.conv(width, kernel, stride, f"conv{i}", self._dilation(x, kernel, i))(x)
            x = spec.norm(f"bn{i}", zero_scale=last and self.zero_init_last)(x, groups, train)
            if not last:
                x = nn.relu(x)
        if train and self.drop_path:
            if key is None:
                raise ValueError(
                    f"encoder.drop_path is {self.drop_path}; training needs a `key` in apply."
                )
            # Stochastic depth: an example's whole branch is dropped, the others are scaled up.
            kept = jax.random.bernoulli(key, 1 - self.drop_path, (x.shape[0], 1, 1, 1))
            x = x * kept.astype(x.dtype) / (1 - self.drop_path)
        return nn.relu(x + shortcut)

    def _dilation(self, x: Array, kernel: int, i: int) -> Dilation | None:
        """Of convolution i, from 1; None for those of a plain network."""
        if kernel == 1 or self.taps * self.skipped == 1:
            return None
        size = (x.shape[1], x.shape[2])
        if i == (2 if self.bottleneck else 1):
            return Dilation(self.taps, self.skipped, size)
        return Dilation(self.taps * self.skipped, 1, size)


class ResNet(nn.Module):
    """ResNet v1 with the stride on the 3x3 convolution ("v1.5").

    Reference: He et al. 2016; torchvision:models/resnet.py for the layout,
    google-deepmind/deepmind-research:byol/utils/networks.py for `project_first`, and
    google-research/simclr:tf2/resnet.py for `sk_ratio`.
    """

    depth: int
    width: float
    stem: str
    spec: ConvSpec
    zero_init_last: bool
    project_first: bool  # a projection shortcut in the first stage of R18 and R34 too
    drop_path: float
    remat: bool
    space_to_depth: bool = False  # the stem's convolution on blocks of 2x2 pixels
    sk_ratio: float = 0.0  # above 0: selective kernels, ResNet-D's stem and shortcuts
    output_stride: int = 0  # of the last map; 0: its own

    @nn.compact
    def __call__(
        self, x: Array, key: Array | None, groups: Groups, train: bool, frozen: int = 0
    ) -> list[Array]:
        """Map images [N * G, H, W, C] to the maps of the four stages; see `core.Encoder`."""
        blocks, bottleneck = DEPTHS[self.depth]
        base = round(64 * self.width)
        spec, of_stem = self.spec, train and not frozen
        imagenet = self.stem == "imagenet"
        if self.space_to_depth:
            x = BlockConv(base, spec.padding, spec.dtype, spec.param_dtype, name="conv1")(x)
        elif self.sk_ratio and imagenet:
            for i, stride in ((1, 2), (2, 1)):
                x = spec.conv(base // 2, 3, stride, f"stem_conv{i}")(x)
                x = nn.relu(spec.norm(f"stem_bn{i}")(x, groups, of_stem))
            x = spec.conv(base, 3, 1, "conv1")(x)
        else:
            x = spec.conv(base, 7 if imagenet else 3, 2 if imagenet else 1, "conv1")(x)
        # The authors of the network with selective kernels pool with SAME, and pad convolutions.
        same = spec.padding == "same" or self.sk_ratio > 0
        pad = "SAME" if same else ((1, 1), (1, 1))
        pool = functools.partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2), padding=pad)
        x = nn.relu(spec.norm("bn1")(x, groups, of_stem, pool if imagenet else None))
        # Rematerialise whole blocks: only their inputs are kept for the backward pass.
        block_cls = nn.remat(Block, static_argnums=(3, 4)) if self.remat else Block
        maps, done = [], 0
        at, taps = 4 if imagenet else 1, 1  # stride of x, and pixels of it per plain pixel
        for stage, count in enumerate(blocks):
            stride, skipped = _steps(stage, at, self.output_stride)
            if frozen == stage + 1:
                x = jax.lax.stop_gradient(x)
            for i in range(count):
                first = i == 0
                x = block_cls(
                    spec,
                    base * 2**stage,
                    stride=stride if first else 1,
                    bottleneck=bottleneck,
                    project=first and (stage > 0 or bottleneck or self.project_first),
                    zero_init_last=self.zero_init_last,
                    drop_path=self.drop_path * done / max(sum(blocks) - 1, 1),
                    sk_ratio=self.sk_ratio,
                    taps=taps if first else taps * skipped,
                    skipped=skipped if first else 1,
                    name=f"layer{stage + 1}_{i}",
                )(
                    x,
                    None if key is None else jax.random.fold_in(key, done),
                    groups,
                    train and stage + 1 >= frozen,
                )
                done += 1
            at, taps = at * stride, taps * skipped
            maps.append(x)
        return maps


def _steps(stage: int, at: int, output_stride: int) -> tuple[int, int]:
    """(stride, stride that is skipped) at the first block of a stage, from 0.

    Args:
      stage: 0 has no stride.
      at: stride of the map before it.
      output_stride: the largest of any map; 0: any.
    """
    if not stage:
        return 1, 1
    return (1, 2) if output_stride and 2 * at > output_stride else (2, 1)


class Tiny(nn.Module):
    """Two 3x3 convolutions per stage, of 32, 64, 128, 128, ... channels, for images of 8 to 32 px.

    The second and the third stage halve the map; later ones keep its size and channels.
    """

    width: float
    stages: int  # at least 3
    spec: ConvSpec
    output_stride: int = 0  # of the last map; 0: its own

    @nn.compact
    def __call__(
        self, x: Array, key: Array | None, groups: Groups, train: bool, frozen: int = 0
    ) -> list[Array]:
        """Map images [N * G, H, W, C] to the maps of the stages; see `core.Encoder`."""
        del key
        maps, at, taps = [], 1, 1
        for stage in range(self.stages):
            features = 32 * 2 ** min(stage, 2)
            if frozen == stage + 1:
                x = jax.lax.stop_gradient(x)
            for i in (0, 1):
                stride, skipped = 1, 1
                if not i and stage <= 2:
                    stride, skipped = _steps(stage, at, self.output_stride)
                name = f"stage{stage + 1}_{i}"
                dilation = None
                if taps * skipped > 1:
                    dilation = Dilation(taps, skipped, (x.shape[1], x.shape[2]))
                x = self.spec.conv(
                    round(features * self.width), 3, stride, f"{name}_conv", dilation
                )(x)
                at, taps = at * stride, taps * skipped
                trained = train and stage + 1 >= frozen
                x = nn.relu(self.spec.norm(f"{name}_bn")(x, groups, trained))
            maps.append(x)
        return maps
