"""`small_network` in PyTorch, for the oracles."""

import importlib.util
import sys
import types

import numpy as np
import torch
from small_network import CHANNELS, FEATURES, images, value
from torch import nn
from torch.nn import functional


class GroupedNorm(nn.BatchNorm2d):
    """Batch norm of groups of contiguous rows, as on several devices."""

    groups = 1

    def forward(self, x):
        affine = (self.weight, self.bias, True, 0.0, self.eps)
        parts = x.chunk(self.groups)
        return torch.cat([functional.batch_norm(part, None, None, *affine) for part in parts])


class Small(nn.Module):
    """Two convolutions and a linear layer `fc`, made as torchvision makes networks."""

    def __init__(self, num_classes=1, zero_init_residual=False, groups=1):
        super().__init__()
        for i, (inner, outer) in enumerate(((3, CHANNELS[0]), CHANNELS)):
            conv = nn.Conv2d(inner, outer, 3, 1 + i, 1, bias=False)
            self.add_module(f"conv{i}", conv)
            norm = GroupedNorm(outer)
            norm.groups = groups
            self.add_module(f"bn{i}", norm)
        self.fc = nn.Linear(FEATURES, num_classes)

    def forward(self, x):
        for conv, norm in ((self.conv0, self.bn0), (self.conv1, self.bn1)):
            x = functional.relu(norm(conv(x)))
        return self.fc(x.mean((2, 3)))


def parts(network, **heads):
    """[(name of ours, module)] of a `Small` and of heads, given as lists of linears and norms."""
    found = [(f"encoder/{name}", getattr(network, name)) for name in ("conv0", "bn0")]
    found += [(f"encoder/{name}", getattr(network, name)) for name in ("conv1", "bn1")]
    for head, modules in heads.items():
        layer = 0
        for module in modules:
            if isinstance(module, nn.Linear):
                layer += 1
                found.append((f"{head}/fc{layer}", module))
            elif isinstance(module, nn.BatchNorm1d):
                found.append((f"{head}/bn{layer}", module))
    return found


def _weights(named):
    """(our name, torch parameter, axes that turn its layout into ours)."""
    for name, module in named:
        if isinstance(module, nn.Conv2d):
            yield f"{name}/kernel", module.weight, (2, 3, 1, 0)
        elif isinstance(module, nn.Linear):
            yield f"{name}/kernel", module.weight, (1, 0)
        elif module.weight is not None:
            yield f"{name}/scale", module.weight, (0,)
        if module.bias is not None:
            yield f"{name}/bias", module.bias, (0,)


def load(named, without=()):
    """Set the weights both sides start from; those in `without`, which ours lacks, to 0."""
    for name, parameter, axes in _weights(named):
        shape = tuple(parameter.shape[a] for a in axes)
        drawn = np.zeros(shape) if name in without else value(name, shape)
        parameter.data = torch.from_numpy(drawn.transpose(np.argsort(axes)).copy())


def read(named, without=()):
    """{our name: array in our layout}."""
    found = {}
    for name, parameter, axes in _weights(named):
        array = parameter.detach().numpy().transpose(axes)
        if name in without:
            assert abs(array).max() < 1e-10, name  # it stays 0: ours may lack it
        else:
            found[name] = array.copy()
    return found


def views(step):
    """Both views of a batch as torch has them."""
    return [torch.from_numpy(images(step)[:, v].transpose(0, 3, 1, 2).copy()) for v in (0, 1)]


def newest_first(queue, pointer, rows):
    """A ring [K, D] whose next block is written at `pointer`, with the newest block in front."""
    blocks = np.split(np.asarray(queue), len(queue) // rows)
    last = pointer // rows - 1
    return np.concatenate([blocks[(last - i) % len(blocks)] for i in range(len(blocks))])


def ring(queue, rows):
    """The ring that is `queue`, newest first, with its pointer at 0."""
    return np.concatenate(np.split(queue, len(queue) // rows)[::-1])


def module_from(path, name):
    """A module loaded from a file, without its package."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def stand_in(name, **members):
    """A module that is not installed."""
    module = types.ModuleType(name)
    vars(module).update(members)
    sys.modules[name] = module


def single_process():
    """Float64, one process of one, and a CPU in place of a GPU."""
    torch.set_default_dtype(torch.float64)
    torch.Tensor.cuda = lambda self, *_: self
    nn.Module.cuda = lambda self, *_: self
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
