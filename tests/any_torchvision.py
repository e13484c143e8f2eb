"""torchvision, also where its compiled operators cannot be loaded.

The usual wheel of torchvision has operators compiled for CUDA, which the CPU build of torch cannot
load. No ResNet uses them, but importing torchvision refers to these two.
"""

import importlib.util
from pathlib import Path

import torch

OPERATORS = True
"""Whether torchvision's own operators are there."""

try:
    for file in Path(importlib.util.find_spec("torchvision").origin).parent.glob("_C*.so"):
        torch.ops.load_library(file)
except OSError:
    OPERATORS = False
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
