"""timm and torchvision, imported when a test first uses them, which takes 5 s.

`torch_peers.timm`, `torch_peers.torchvision`: of pytest's workers only those that need them wait.
"""

import importlib
import importlib.util
from pathlib import Path

import torch


def __getattr__(name):
    if name not in ("timm", "torchvision"):
        raise AttributeError(name)
    if "torchvision" not in globals():
        _operators()
        globals()["torchvision"] = importlib.import_module("torchvision")
    globals()[name] = importlib.import_module(name)
    return globals()[name]


def _operators():
    """Give torchvision operators of its own, or the names of them.

    The usual wheel has operators compiled for CUDA, which the CPU build of torch cannot load. No
    ResNet uses them, but importing torchvision refers to these two.
    """
    try:
        for file in Path(importlib.util.find_spec("torchvision").origin).parent.glob("_C*.so"):
            torch.ops.load_library(file)
    except OSError:
        operators = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        globals()["_kept"] = operators  # they are there as long as the library is
