"""Figures of facebookresearch/vicreg for tests/test_redundancy.py.

    python tests/oracles/vicreg.py CHECKOUT

Three steps of the authors' loss, LARS and schedule in float64; prints loss and `projected.moved`.
"""

import argparse
import sys
import types

import torch
from projected import ROWS, STEPS, images, moved, weights
from torch_network import alone, encoder, load, read

FEATURES, WIDTHS, START = 9, (10, 10, 7), 39

sys.path.insert(0, sys.argv[1])
# The module imports torchvision and their augmentations for images, which are not needed here.
vision = types.ModuleType("torchvision")
vision.datasets = types.ModuleType("torchvision.datasets")
sys.modules |= {
    "torchvision": vision,
    "torchvision.datasets": vision.datasets,
    "augmentations": types.ModuleType("augmentations"),
}
import main_vicreg as authors  # noqa: E402

authors.resnet.small = lambda zero_init_residual: (encoder(FEATURES), FEATURES)
torch.set_default_dtype(torch.float64)
alone()
args = argparse.Namespace(
    arch="small", mlp="-".join(map(str, WIDTHS)), batch_size=ROWS, epochs=20, base_lr=2.0,
    wd=1e-2, sim_coeff=25.0, std_coeff=25.0, cov_coeff=1.0,
)  # fmt: skip
tree = weights(FEATURES, WIDTHS, hidden_bias=True)
model = authors.VICReg(args)
load(model.backbone, tree["encoder"])
load(model.projector, tree["projector"])
optimizer = authors.LARS(
    model.parameters(), lr=0, weight_decay=args.wd,
    weight_decay_filter=authors.exclude_bias_and_norm,
    lars_adaptation_filter=authors.exclude_bias_and_norm,
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
