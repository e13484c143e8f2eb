"""Figures of HobbitLong/SupContrast for tests/test_contrastive.py.

    python tests/oracles/supcon.py CHECKOUT

Three steps of the authors' loss and SGD in float64; prints loss and `projected.moved`.
"""

import argparse
import sys

import torch
from projected import STEPS, images, moved, weights
from torch import nn
from torch_network import encoder, load, read

FEATURES, WIDTHS = 9, (9, 7)

sys.path.insert(0, sys.argv[1])
from losses import SupConLoss  # noqa: E402
from util import set_optimizer  # noqa: E402

torch.set_default_dtype(torch.float64)
tree = weights(FEATURES, WIDTHS, norm=False, hidden_bias=True, last_bias=True)
# The head of their networks/resnet_big.py; torchvision is not needed for it.
head = nn.Sequential(nn.Linear(FEATURES, WIDTHS[0]), nn.ReLU(), nn.Linear(*WIDTHS))
model = nn.ModuleList([encoder(FEATURES), head])
load(model[0], tree["encoder"])
load(model[1], tree["projector"])
options = argparse.Namespace(learning_rate=0.05, momentum=0.9, weight_decay=1e-2)
optimizer, criterion = set_optimizer(options, model), SupConLoss(temperature=0.1)
for step in range(STEPS):
    views, labels = map(torch.from_numpy, images(step))
    both = torch.cat([views[:, 0], views[:, 1]])
    z = nn.functional.normalize(model[1](model[0](both)), dim=1)
    loss = criterion(torch.stack(z.chunk(2), 1), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    after = {
        "encoder": read(model[0]),
        "projector": read(model[1]),
    }
    print(repr((loss.item(), *(float(x) for x in moved(tree, after)))) + ",")
