"""An independent ResNet in torch, with torchvision's key names, and what parity tests share.

Written from He et al. 2016 and the list of torchvision's keys; shares no code with byol_jax.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import sklearn.datasets
import torch
from PIL import Image
from torch import nn

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
EXPANSION = {18: 1, 34: 1, 50: 4, 101: 4, 152: 4}


class Basic(nn.Module):
    def __init__(self, inp: int, f: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inp, f, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(f)
        self.conv2 = nn.Conv2d(f, f, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(f)
        self.downsample = None
        if stride != 1 or inp != f:
            shortcut = nn.Conv2d(inp, f, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(f))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    def __init__(self, inp: int, f: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inp, f, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(f)
        self.conv2 = nn.Conv2d(f, f, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(f)
        self.conv3 = nn.Conv2d(f, 4 * f, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * f)
        self.downsample = None
        if stride != 1 or inp != 4 * f:
            shortcut = nn.Conv2d(inp, 4 * f, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(4 * f))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class TorchResNet(nn.Module):
    """ResNet without a classifier: images [B, 3, H, W] to pooled features [B, D]."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inp, expansion = 64, EXPANSION[depth]
        for stage, count in enumerate(BLOCKS[depth]):
            blocks = []
            for i in range(count):
                block = Basic if expansion == 1 else Bottleneck
                f = 64 * 2**stage
                blocks.append(block(inp, f, 2 if stage and not i else 1))
                inp = f * expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = nn.functional.max_pool2d(x, 3, 2, 1)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return x.mean((2, 3))


def torch_features(model: nn.Module, images: np.ndarray, info: Any) -> np.ndarray:
    """Features of uint8 images [B, H, W, 3], normalised by the export's mean and std."""
    x = (images.astype(np.float64) / 255 - np.array(info.mean)) / np.array(info.std)
    with torch.no_grad():
        nchw = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2), np.float32))
        return model.eval()(nchw).numpy()


def trained_like(encoder: Any, seed: int) -> tuple[Any, Any]:
    """(params, stats) of an encoder whose batch norms are random, none left as initialised."""
    import jax

    draw = np.random.default_rng(seed)
    ranges = {"scale": (0.3, 0.9), "bias": (-0.3, 0.3), "mean": (-0.3, 0.3), "var": (0.5, 2.0)}

    def fill(path: Any, leaf: Any) -> np.ndarray:
        if path[-1].key == "kernel":
            fan_in = np.prod(leaf.shape[:3])
            return (draw.standard_normal(leaf.shape) * (2 / fan_in) ** 0.5).astype(np.float32)
        return draw.uniform(*ranges[path[-1].key], leaf.shape).astype(np.float32)

    image = jax.ShapeDtypeStruct((1, 1, 64, 64, 3), np.float32)
    trees = jax.eval_shape(encoder.init, jax.random.key(0), image)
    return jax.tree_util.tree_map_with_path(fill, trees)


def photo_crops(count: int, size: int) -> np.ndarray:
    """uint8 [count, size, size, 3] from scikit-learn's two photographs, 427 x 640 px."""
    folder = Path(sklearn.datasets.__file__).parent / "images"
    draw = np.random.default_rng(size)
    crops = []
    for i in range(count):
        with Image.open(folder / ("china.jpg", "flower.jpg")[i % 2]) as photo:
            pixels = np.asarray(photo.convert("RGB"))
        top, left = draw.integers(427 - size + 1), draw.integers(640 - size + 1)
        crops.append(pixels[top : top + size, left : left + size])
    return np.stack(crops)


def relative_error(a: np.ndarray, b: np.ndarray) -> float:
    """The largest over images of max |a - b| / max |b|."""
    return float((np.abs(a - b).max(1) / np.abs(b).max(1)).max())
