"""The network of `projected.py` in PyTorch, float64."""

import torch
from projected import HIDDEN, PIXELS
from torch import nn


def encoder(features):
    """The encoder."""
    return nn.Sequential(
        nn.Linear(PIXELS, HIDDEN, bias=False),
        nn.BatchNorm1d(HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, features, bias=False),
    )


def _pairs(sequential):
    """(parameter, layer, name, whether it is transposed), linear layers counted from 1."""
    i = 0
    for module in sequential:
        if isinstance(module, nn.Linear):
            i += 1
            yield module.weight, f"fc{i}", "kernel", True
            if module.bias is not None:
                yield module.bias, f"fc{i}", "bias", False
        elif isinstance(module, nn.BatchNorm1d):
            yield module.weight, f"bn{i}", "scale", False
            yield module.bias, f"bn{i}", "bias", False


def load(sequential, tree):
    """Set the parameters, every one of them."""
    seen = set()
    for parameter, layer, name, transposed in _pairs(sequential):
        value = torch.from_numpy(tree[layer][name])
        assert parameter.shape == (value.T if transposed else value).shape, (layer, name)
        parameter.data = (value.T if transposed else value).clone()
        seen.add((layer, name))
    assert seen == {(layer, name) for layer in tree for name in tree[layer]}


def read(sequential):
    """The parameters as a tree of NumPy arrays."""
    found = {}
    for parameter, layer, name, transposed in _pairs(sequential):
        value = parameter.detach().numpy()
        found.setdefault(layer, {})[name] = (value.T if transposed else value).copy()
    return found


def alone():
    """A process group of one, since the authors' code reduces over all processes."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
