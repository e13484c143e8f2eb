"""Figures of facebookresearch/barlowtwins for tests/test_redundancy.py.

    python tests/oracles/barlow.py CHECKOUT

Three steps of the authors' loss, LARS and schedule in float64; prints loss and `projected.moved`.
"""

import argparse
import sys
import types

import torch
from projected import ROWS, STEPS, images, moved, weights
from torch_network import alone, encoder, load, read

FEATURES, WIDTHS, START = 2048, (10, 10, 7), 39  # their projector expects 2048 features

sys.path.insert(0, sys.argv[1])
# The module imports torchvision for its images and its ResNet-50, in whose place is our encoder.
vision = types.ModuleType("torchvision")
vision.transforms = types.ModuleType("torchvision.transforms")
vision.models = types.SimpleNamespace(resnet50=lambda zero_init_residual: encoder(FEATURES))
sys.modules |= {"torchvision": vision, "torchvision.transforms": vision.transforms}
import main as authors  # noqa: E402

torch.set_default_dtype(torch.float64)
alone()
args = argparse.Namespace(
    projector="-".join(map(str, WIDTHS)), batch_size=ROWS, lambd=0.0051, epochs=20,
    learning_rate_weights=20.0, learning_rate_biases=0.48, weight_decay=1e-2,
)  # fmt: skip
tree = weights(FEATURES, WIDTHS)
model = authors.BarlowTwins(args)
del model.backbone.fc  # an identity that they put in the place of ResNet's classifier
load(model.backbone, tree["encoder"])
load(model.projector, tree["projector"])
parameters = list(model.parameters())
groups = [{"params": [p for p in parameters if (p.ndim == 1) == one]} for one in (False, True)]
optimizer = authors.LARS(
    groups, lr=0, weight_decay=args.weight_decay, weight_decay_filter=True,
    lars_adaptation_filter=True,
)  # fmt: skip
for step in range(START, START + STEPS):
    views = torch.from_numpy(images(step)[0])
    authors.adjust_learning_rate(args, optimizer, range(4), step)
    optimizer.zero_grad()
    loss = model(views[:, 0], views[:, 1])
    loss.backward()
    optimizer.step()
    after = {
        "encoder": read(model.backbone),
        "projector": read(model.projector),
    }
    print(repr((loss.item(), *(float(x) for x in moved(tree, after)))) + ",")
