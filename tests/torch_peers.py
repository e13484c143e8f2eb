"""timm and torchvision, imported when a test first uses them, which takes 5 s.

`torch_peers.timm`, `torch_peers.torchvision`: of pytest's workers only those that need them wait.
"""

import importlib

import any_torchvision  # noqa: F401  it makes torchvision importable, which timm imports


def __getattr__(name):
    if name not in ("timm", "torchvision"):
        raise AttributeError(name)
    globals()[name] = importlib.import_module(name)
    return globals()[name]
